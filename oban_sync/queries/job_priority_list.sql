-- The priorities in which jobs of each queue wait for long.
--
--   max_priority  priority  only those behind it
--   least_wait    seconds   only where the oldest job was to start so long ago
--
-- Gives: queue, priority; by queue, the first priority first.
--
-- Goes from the oldest job of one queue and priority to that of the next, and reads no other: the
-- costs are those of the number of queues, not of the jobs in them.
WITH RECURSIVE head AS (
    (
        SELECT queue, priority, scheduled_at
        FROM /* schema */oban_jobs
        WHERE state = 'available'
        ORDER BY queue, priority, scheduled_at, id
        LIMIT 1
    )
    UNION ALL
    SELECT following.queue, following.priority, following.scheduled_at
    FROM head
    CROSS JOIN LATERAL (
        SELECT queue, priority, scheduled_at
        FROM /* schema */oban_jobs AS job
        WHERE job.state = 'available'
          AND (job.queue, job.priority) > (head.queue, head.priority)
        ORDER BY job.queue, job.priority, job.scheduled_at, job.id
        LIMIT 1
    ) AS following
)
SELECT queue, priority
FROM head
WHERE priority > %(max_priority)s::integer
  AND scheduled_at
      <= timezone('UTC', now()) - pg_catalog.make_interval(secs => %(least_wait)s::float8)
