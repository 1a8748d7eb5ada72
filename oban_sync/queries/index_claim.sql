-- Claim the indexes of a schema for this session, until it ends.
--
--   schema  text  the schema
--
-- Gives: claimed (whether no other session has them).
--
-- Two sessions that rebuild indexes of one table wait for each other until PostgreSQL ends one.
SELECT pg_catalog.pg_try_advisory_lock(
    pg_catalog.hashtext('oban_sync: reindex'), pg_catalog.hashtext(%(schema)s::text)
) AS claimed
