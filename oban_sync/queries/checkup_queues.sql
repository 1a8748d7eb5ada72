-- The queues that have available jobs, found by one step through the index for each.
--
--   most  jobs  most that are counted of a queue
--
-- Gives: queue, waiting (up to most), seconds (how long the one that waits for the longest among
-- those of the first priority has been due), nodes (living ones that run it), paused (all of these
-- have paused it).
WITH RECURSIVE found AS (
    (
        SELECT queue
        FROM /* schema */oban_jobs
        WHERE state = 'available'
        ORDER BY queue
        LIMIT 1
    )
    UNION ALL
    SELECT (
        SELECT job.queue
        FROM /* schema */oban_jobs AS job
        WHERE job.state = 'available'
          AND job.queue > found.queue
        ORDER BY job.queue
        LIMIT 1
    )
    FROM found
    WHERE found.queue IS NOT NULL
)
SELECT
    found.queue,
    (
        SELECT count(*)::integer
        FROM (
            SELECT
            FROM /* schema */oban_jobs AS job
            WHERE job.state = 'available'
              AND job.queue = found.queue
            LIMIT %(most)s::integer
        ) AS counted
    ) AS waiting,
    (
        SELECT pg_catalog.date_part('epoch', timezone('UTC', now()) - job.scheduled_at)
        FROM /* schema */oban_jobs AS job
        WHERE job.state = 'available'
          AND job.queue = found.queue
        ORDER BY job.priority, job.scheduled_at, job.id
        LIMIT 1
    ) AS seconds,
    count(node.uuid)::integer AS nodes,
    coalesce(bool_and(producer.paused) FILTER (WHERE node.uuid IS NOT NULL), false) AS paused
FROM found
LEFT JOIN /* schema */oban_sync_producers AS producer ON producer.queue = found.queue
LEFT JOIN /* schema */oban_sync_nodes AS node
    ON node.uuid = producer.node_uuid
    AND node.beat_at > pg_catalog.clock_timestamp()
        - pg_catalog.make_interval(secs => node.max_age)
WHERE found.queue IS NOT NULL
GROUP BY found.queue
ORDER BY found.queue
