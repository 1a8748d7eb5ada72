-- When this transaction began: of those of one connection, no two begin at the same moment.
--
-- Gives: start, in microseconds.
--
-- Its id would tell as well, but asking for that makes PostgreSQL assign one.
SELECT (extract(epoch FROM pg_catalog.transaction_timestamp()) * 1000000)::bigint AS start
