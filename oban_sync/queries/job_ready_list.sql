-- The jobs that could be started now, in the order in which a queue starts them.
--
--   queues  text[] or NULL             of these queues
--   early   boolean                    also those that wait for their time ...
--   until   timestamp as text or NULL  ... where it comes by then, in UTC
--   passed  bigint[] as text           without these
--   most    jobs                       most jobs given
--
-- Gives: id. Nothing is locked.
--
-- For draining in tests, where nobody wants to wait.
SELECT id
FROM /* schema */oban_jobs
WHERE (
    state = 'available'
    OR (
        %(early)s::boolean
        AND state IN ('scheduled', 'retryable')
        AND (%(until)s::text IS NULL OR scheduled_at <= %(until)s::text::timestamp)
    )
)
  AND (%(queues)s::text[] IS NULL OR queue = ANY (%(queues)s::text[]))
  AND attempt < max_attempts
  AND id <> ALL (%(passed)s::text::bigint[])
ORDER BY priority, scheduled_at, id
LIMIT %(most)s::bigint
