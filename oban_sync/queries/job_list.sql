-- A page of jobs, the newest first.
--
--   states     oban_job_state[] as text or NULL  in one of these states
--   queues     text[] or NULL                    in one of these queues
--   workers    text[] or NULL                    of one of these workers
--   tags       text[] or NULL                    with all of these tags
--   args       jsonb or NULL                     whose args contain these
--   before_id  bigint or NULL                    older than this one
--   most       jobs                              most jobs given
--
-- Gives: the jobs' columns, jsonb and timestamps as text.
--
-- Planned anew each time with what is asked for: a filter that is NULL then is none, and those on
-- states find the index of theirs. Hence the state is cast without going through text.
SELECT
    id,
    state::text AS state,
    queue,
    worker,
    attempt,
    max_attempts,
    priority,
    args::text AS args,
    meta::text AS meta,
    tags,
    pg_catalog.to_jsonb(errors)::text AS errors,
    attempted_by,
    pg_catalog.to_json(inserted_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS inserted_at,
    pg_catalog.to_json(scheduled_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS scheduled_at,
    pg_catalog.to_json(attempted_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS attempted_at,
    pg_catalog.to_json(completed_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS completed_at,
    pg_catalog.to_json(cancelled_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS cancelled_at,
    pg_catalog.to_json(discarded_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS discarded_at
FROM /* schema */oban_jobs
WHERE (%(states)s::/* schema */oban_job_state[] IS NULL OR state = ANY (%(states)s))
  AND (%(queues)s::text[] IS NULL OR queue = ANY (%(queues)s))
  AND (%(workers)s::text[] IS NULL OR worker = ANY (%(workers)s))
  AND (%(tags)s::text[] IS NULL OR coalesce(tags, '{}') @> %(tags)s)
  AND (%(args)s::jsonb IS NULL OR args @> %(args)s)
  AND (%(before_id)s::bigint IS NULL OR id < %(before_id)s)
ORDER BY id DESC
LIMIT %(most)s::integer
