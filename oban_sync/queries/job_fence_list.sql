-- How jobs stand whose outcome was not accepted, or whose owner may have changed.
--
--   ids  bigint[]  the jobs
--
-- Gives: id, state, fence, owner, rescued (whether it was given back since this very start), unwanted
-- (whether it was asked to stop while it ran). A deleted job gives no row.
SELECT
    id,
    state::text AS state,
    attempted_at AS fence,
    attempted_by[2] AS owner,
    coalesce(meta -> 'rescued_start' -> 'at' = to_jsonb(attempted_at), false) AS rescued,
    /* schema */oban_sync_unwanted(meta, attempted_at) AS unwanted
FROM /* schema */oban_jobs
WHERE id = ANY (%(ids)s::bigint[])
