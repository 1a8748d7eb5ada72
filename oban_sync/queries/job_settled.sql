-- How a job stands after the end of a transaction that wrote its outcome.
--
--   id     bigint             the job
--   fence  timestamp as text  when it was started
--   owner  uuid as text       the producer that started it
--
-- Gives: ours (whether it is that start's still), state, unwanted (whether it was asked to stop while
-- it ran). Nothing while another transaction holds the row: that one has not come to its end.
SELECT
    coalesce(
        job.attempted_at = %(fence)s::text::timestamp AND job.attempted_by[2] = %(owner)s::text,
        false
    ) AS ours,
    job.state::text AS state,
    /* schema */oban_sync_unwanted(job.meta, job.attempted_at) AS unwanted
FROM /* schema */oban_jobs AS job
WHERE job.id = %(id)s::bigint
FOR SHARE SKIP LOCKED
