-- The jobs that could be started now, in the order in which a queue starts them.
--
--   queues  text[] or NULL    of these queues
--   passed  bigint[] as text  without these
--   most    jobs              most jobs given
--
-- Gives: id. Nothing is locked.
SELECT id
FROM /* schema */oban_jobs
WHERE state = 'available'
  AND (%(queues)s::text[] IS NULL OR queue = ANY (%(queues)s::text[]))
  AND attempt < max_attempts
  AND id <> ALL (%(passed)s::text::bigint[])
ORDER BY priority, scheduled_at, id
LIMIT %(most)s::bigint
