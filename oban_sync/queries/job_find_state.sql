-- The ids of jobs in some states that pass a filter, found along the indexes of the states.
--
--   states      oban_job_state[] as text  in one of these states; suspended ones have no index
--   queues      text[] or NULL            in one of these queues
--   workers     text[] or NULL            of one of these workers
--   tags        text[] or NULL            with one of these tags
--   nodes       text[] or NULL            last started by one of these nodes
--   priorities  integer[] or NULL         with one of these priorities
--   args        jsonpath or NULL          whose args fulfil this
--   meta        jsonpath or NULL          whose meta fulfil this
--   before_id   bigint or NULL            older than this one
--   within      jobs                      most jobs of each state read
--   most        jobs                      most ids given
--
-- Gives: id, newest first.
--
-- Planned anew each time with what is asked for: the parts of other states fall out of the plan. Of a
-- state that has more jobs than are read these are the first to run, or the last that ended. Each part
-- has the order of its index, so that the planner sees no cheaper way.
SELECT job.id
FROM (
    (
        SELECT id, state, queue, worker, tags, attempted_by, priority, args, meta
        FROM /* schema */oban_jobs
        WHERE state = 'available'
          AND 'available' = ANY (%(states)s::/* schema */oban_job_state[])
          AND (%(queues)s::text[] IS NULL OR queue = ANY (%(queues)s::text[]))
        ORDER BY queue, priority, scheduled_at, id
        LIMIT %(within)s::integer
    )
    UNION ALL
    (
        SELECT id, state, queue, worker, tags, attempted_by, priority, args, meta
        FROM /* schema */oban_jobs
        WHERE state IN ('scheduled', 'retryable')
          AND ARRAY['scheduled', 'retryable']::/* schema */oban_job_state[]
            && %(states)s::/* schema */oban_job_state[]
        ORDER BY scheduled_at, id
        LIMIT %(within)s::integer
    )
    UNION ALL
    (
        SELECT id, state, queue, worker, tags, attempted_by, priority, args, meta
        FROM /* schema */oban_jobs
        WHERE state = 'executing'
          AND 'executing' = ANY (%(states)s::/* schema */oban_job_state[])
          AND (%(queues)s::text[] IS NULL OR queue = ANY (%(queues)s::text[]))
        ORDER BY queue, id
        LIMIT %(within)s::integer
    )
    UNION ALL
    (
        SELECT id, state, queue, worker, tags, attempted_by, priority, args, meta
        FROM /* schema */oban_jobs
        WHERE state = 'completed'
          AND 'completed' = ANY (%(states)s::/* schema */oban_job_state[])
        ORDER BY completed_at DESC
        LIMIT %(within)s::integer
    )
    UNION ALL
    (
        SELECT id, state, queue, worker, tags, attempted_by, priority, args, meta
        FROM /* schema */oban_jobs
        WHERE state = 'cancelled'
          AND 'cancelled' = ANY (%(states)s::/* schema */oban_job_state[])
        ORDER BY cancelled_at DESC
        LIMIT %(within)s::integer
    )
    UNION ALL
    (
        SELECT id, state, queue, worker, tags, attempted_by, priority, args, meta
        FROM /* schema */oban_jobs
        WHERE state = 'discarded'
          AND 'discarded' = ANY (%(states)s::/* schema */oban_job_state[])
        ORDER BY discarded_at DESC
        LIMIT %(within)s::integer
    )
) AS job
WHERE job.state = ANY (%(states)s::/* schema */oban_job_state[])
  AND (%(queues)s::text[] IS NULL OR job.queue = ANY (%(queues)s::text[]))
  AND (%(workers)s::text[] IS NULL OR job.worker = ANY (%(workers)s::text[]))
  AND (%(tags)s::text[] IS NULL OR coalesce(job.tags, '{}') && %(tags)s::text[])
  AND (%(nodes)s::text[] IS NULL OR job.attempted_by[1] = ANY (%(nodes)s::text[]))
  AND (%(priorities)s::integer[] IS NULL OR job.priority = ANY (%(priorities)s::integer[]))
  AND (%(args)s::jsonpath IS NULL OR job.args @@ %(args)s::jsonpath)
  AND (%(meta)s::jsonpath IS NULL OR job.meta @@ %(meta)s::jsonpath)
  AND (%(before_id)s::bigint IS NULL OR job.id < %(before_id)s::bigint)
ORDER BY job.id DESC
LIMIT %(most)s::integer
