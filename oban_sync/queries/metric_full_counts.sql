-- How many jobs there are in each queue and state, of the states that have few.
--
--   most  jobs  of a state that are read at the most
--
-- Gives: state, queue, jobs. Where the jobs of a state add up to most, there are more, and of these
-- nothing is known. Suspended ones have no index, and are not here.
--
-- Each part has the order of its index, so that the planner sees no cheaper way.
SELECT few.state::text, few.queue, count(*) AS jobs
FROM (
    (
        SELECT state, queue FROM /* schema */oban_jobs
        WHERE state = 'available'
        ORDER BY queue, priority, scheduled_at, id
        LIMIT %(most)s
    )
    UNION ALL
    (
        SELECT state, queue FROM /* schema */oban_jobs
        WHERE state = 'executing'
        ORDER BY queue, id
        LIMIT %(most)s
    )
    UNION ALL
    (
        SELECT state, queue FROM /* schema */oban_jobs
        WHERE state IN ('scheduled', 'retryable')
        ORDER BY scheduled_at, id
        LIMIT %(most)s
    )
    UNION ALL
    (
        SELECT state, queue FROM /* schema */oban_jobs
        WHERE state = 'completed'
        ORDER BY completed_at DESC
        LIMIT %(most)s
    )
    UNION ALL
    (
        SELECT state, queue FROM /* schema */oban_jobs
        WHERE state = 'cancelled'
        ORDER BY cancelled_at DESC
        LIMIT %(most)s
    )
    UNION ALL
    (
        SELECT state, queue FROM /* schema */oban_jobs
        WHERE state = 'discarded'
        ORDER BY discarded_at DESC
        LIMIT %(most)s
    )
) AS few
GROUP BY few.state, few.queue
