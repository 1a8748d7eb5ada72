-- The ids of jobs that pass a filter, among the newest ones.
--
--   ids         bigint[] or NULL                  only these jobs
--   states      oban_job_state[] as text or NULL  in one of these states
--   queues      text[] or NULL                    in one of these queues
--   workers     text[] or NULL                    of one of these workers
--   tags        text[] or NULL                    with one of these tags
--   nodes       text[] or NULL                    last started by one of these nodes
--   priorities  integer[] or NULL                 with one of these priorities
--   args        jsonpath or NULL                  whose args fulfil this
--   meta        jsonpath or NULL                  whose meta fulfil this
--   before_id   bigint or NULL                    older than this one
--   within      jobs                              most jobs read
--   most        jobs                              most ids given
--
-- Gives: id, newest first.
--
-- Planned anew each time with what is asked for: conditions that are NULL then are none.
SELECT job.id
FROM (
    SELECT id, state, queue, worker, tags, attempted_by, priority, args, meta
    FROM /* schema */oban_jobs
    WHERE (%(ids)s::bigint[] IS NULL OR id = ANY (%(ids)s::bigint[]))
      AND (%(before_id)s::bigint IS NULL OR id < %(before_id)s::bigint)
    ORDER BY id DESC
    LIMIT %(within)s::integer
) AS job
WHERE (
        %(states)s::/* schema */oban_job_state[] IS NULL
        OR job.state = ANY (%(states)s::/* schema */oban_job_state[])
    )
  AND (%(queues)s::text[] IS NULL OR job.queue = ANY (%(queues)s::text[]))
  AND (%(workers)s::text[] IS NULL OR job.worker = ANY (%(workers)s::text[]))
  AND (%(tags)s::text[] IS NULL OR coalesce(job.tags, '{}') && %(tags)s::text[])
  AND (%(nodes)s::text[] IS NULL OR job.attempted_by[1] = ANY (%(nodes)s::text[]))
  AND (%(priorities)s::integer[] IS NULL OR job.priority = ANY (%(priorities)s::integer[]))
  AND (%(args)s::jsonpath IS NULL OR job.args @@ %(args)s::jsonpath)
  AND (%(meta)s::jsonpath IS NULL OR job.meta @@ %(meta)s::jsonpath)
ORDER BY job.id DESC
LIMIT %(most)s::integer
