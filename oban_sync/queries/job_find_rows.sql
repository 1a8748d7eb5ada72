-- Jobs by their ids, the newest first.
--
--   ids  bigint[]  the jobs; those that are gone are left out
--
-- Gives: the jobs' columns, jsonb and timestamps as text.
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
WHERE id = ANY (%(ids)s::bigint[])
ORDER BY id DESC
