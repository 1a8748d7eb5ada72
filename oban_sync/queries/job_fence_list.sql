-- How jobs stand whose outcome was not accepted.
--
--   ids  bigint[] as text  the jobs
--
-- Gives: id, state, fence, owner. A deleted job gives no row.
SELECT
    id,
    state::text AS state,
    attempted_at AS fence,
    attempted_by[2] AS owner
FROM /* schema */oban_jobs
WHERE id = ANY (%(ids)s::bigint[])
