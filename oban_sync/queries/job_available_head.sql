-- The job that the next fetch from a queue would take first, locked.
--
--   queue    text              the queue
--   shunned  bigint[] as text  jobs that could not be taken before
--
-- Gives: id, or no row.
SELECT id
FROM /* schema */oban_jobs
WHERE state = 'available'
  AND queue = %(queue)s::text
  AND attempt < max_attempts
  AND id <> ALL (%(shunned)s::text::bigint[])
ORDER BY priority, scheduled_at, id
LIMIT 1
FOR UPDATE SKIP LOCKED
