-- Hold a session lock that tells others that this session stands.
--
--   key  bigint  the node's
--
-- Gives: nothing of use.
--
-- Shared, so that a session made anew need not wait for PostgreSQL to notice the end of the old one.
SELECT pg_catalog.pg_advisory_lock_shared(%(key)s::bigint)
