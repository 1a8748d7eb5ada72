-- Jobs by id, held until the end of the transaction.
--
--   ids  bigint[] as text  the jobs
--
-- Gives: the jobs' columns, jsonb and timestamps as text, and transaction (its number), by id.
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
    pg_catalog.to_json(discarded_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS discarded_at,
    pg_catalog.txid_current()::text AS transaction
FROM /* schema */oban_jobs
WHERE id = ANY (%(ids)s::text::bigint[])
ORDER BY id
FOR UPDATE
