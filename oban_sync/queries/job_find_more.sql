-- Whether a search along the indexes of some states leaves jobs of them unread.
--
--   states  oban_job_state[] as text  the states; suspended ones have no index
--   queues  text[] or NULL            in one of these queues
--   within  jobs                      of each state that the search reads
--
-- Gives: more.
--
-- The parts are those of job_find_state.
SELECT EXISTS (
    (
        SELECT
        FROM /* schema */oban_jobs
        WHERE state = 'available'
          AND 'available' = ANY (%(states)s::/* schema */oban_job_state[])
          AND (%(queues)s::text[] IS NULL OR queue = ANY (%(queues)s::text[]))
        ORDER BY queue, priority, scheduled_at, id
        OFFSET %(within)s::integer
        LIMIT 1
    )
    UNION ALL
    (
        SELECT
        FROM /* schema */oban_jobs
        WHERE state IN ('scheduled', 'retryable')
          AND ARRAY['scheduled', 'retryable']::/* schema */oban_job_state[]
            && %(states)s::/* schema */oban_job_state[]
        ORDER BY scheduled_at, id
        OFFSET %(within)s::integer
        LIMIT 1
    )
    UNION ALL
    (
        SELECT
        FROM /* schema */oban_jobs
        WHERE state = 'executing'
          AND 'executing' = ANY (%(states)s::/* schema */oban_job_state[])
          AND (%(queues)s::text[] IS NULL OR queue = ANY (%(queues)s::text[]))
        ORDER BY queue, id
        OFFSET %(within)s::integer
        LIMIT 1
    )
    UNION ALL
    (
        SELECT
        FROM /* schema */oban_jobs
        WHERE state = 'completed'
          AND 'completed' = ANY (%(states)s::/* schema */oban_job_state[])
        ORDER BY completed_at DESC
        OFFSET %(within)s::integer
        LIMIT 1
    )
    UNION ALL
    (
        SELECT
        FROM /* schema */oban_jobs
        WHERE state = 'cancelled'
          AND 'cancelled' = ANY (%(states)s::/* schema */oban_job_state[])
        ORDER BY cancelled_at DESC
        OFFSET %(within)s::integer
        LIMIT 1
    )
    UNION ALL
    (
        SELECT
        FROM /* schema */oban_jobs
        WHERE state = 'discarded'
          AND 'discarded' = ANY (%(states)s::/* schema */oban_job_state[])
        ORDER BY discarded_at DESC
        OFFSET %(within)s::integer
        LIMIT 1
    )
) AS more
