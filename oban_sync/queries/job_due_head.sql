-- The job that the next staging would take first, locked.
--
--   queues   text[]            the queues looked after
--   shunned  bigint[] as text  jobs that could not be staged before
--
-- Gives: id, or no row.
SELECT id
FROM /* schema */oban_jobs
WHERE state IN ('scheduled', 'retryable')
  AND scheduled_at <= timezone('UTC', now())
  AND queue = ANY (%(queues)s::text[])
  AND id <> ALL (%(shunned)s::text::bigint[])
ORDER BY scheduled_at, id
LIMIT 1
FOR UPDATE SKIP LOCKED
