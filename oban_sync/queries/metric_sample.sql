-- About how many jobs there are in each queue and state, of the states that have many.
--
--   states   oban_job_state[] as text  these
--   percent  0 to 100                  of the table's pages that are read
--
-- Gives: state, queue, jobs.
SELECT
    job.state::text,
    job.queue,
    round(count(*) * 100 / %(percent)s::real)::bigint AS jobs
FROM /* schema */oban_jobs AS job TABLESAMPLE SYSTEM (%(percent)s::real)
WHERE job.state = ANY (%(states)s::text::/* schema */oban_job_state[])
GROUP BY job.state, job.queue
