-- Gives: number, larger than that of any transaction which has one by now. It is the statement's own:
-- no snapshot tells of all that are open, since it knows nothing of those that began after the last
-- one that ended.
SELECT pg_catalog.pg_current_xact_id()::text::bigint AS number
