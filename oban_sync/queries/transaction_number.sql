-- Which transaction this is; a number that no other one has.
--
-- Gives: number.
SELECT pg_catalog.txid_current()::text AS number
