-- Tell whether the transaction of this connection has changed or locked rows.
--
-- Gives: whether it has.
--
-- A transaction gets its id when it first writes, which locking a row does too.
SELECT pg_catalog.pg_current_xact_id_if_assigned() IS NOT NULL
