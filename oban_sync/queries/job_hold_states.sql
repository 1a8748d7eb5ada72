-- Which of some jobs are in certain states, held until the end of the transaction.
--
--   ids     bigint[] as text  the jobs
--   states  text[] as text    the states
--
-- Gives: id, in its order.
SELECT job.id
FROM /* schema */oban_jobs AS job
WHERE job.id = ANY (%(ids)s::text::bigint[])
  AND job.state::text = ANY (%(states)s::text::text[])
ORDER BY job.id
FOR UPDATE
