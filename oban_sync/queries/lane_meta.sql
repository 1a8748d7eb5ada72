-- What tells lanes apart, a piece of other statements: the value of a key of meta.
--
-- Gives: a bigint, made from what tells them apart besides (seed). Equal for equal JSON, as 1 and 1.0.
pg_catalog.jsonb_hash_extended(coalesce(meta -> /* key */, 'null'), /* seed */)
