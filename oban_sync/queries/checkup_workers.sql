-- The workers of waiting jobs.
--
--   most  jobs  most that are looked at, of the available ones and of the others
--
-- Gives: worker, queue, waiting, by name.
SELECT seen.worker, seen.queue, count(*)::integer AS waiting
FROM (
    (
        SELECT worker, queue
        FROM /* schema */oban_jobs
        WHERE state = 'available'
        LIMIT %(most)s::integer
    )
    UNION ALL
    (
        SELECT worker, queue
        FROM /* schema */oban_jobs
        WHERE state IN ('scheduled', 'retryable')
        ORDER BY scheduled_at, id
        LIMIT %(most)s::integer
    )
) AS seen
GROUP BY seen.worker, seen.queue
ORDER BY seen.worker, seen.queue
