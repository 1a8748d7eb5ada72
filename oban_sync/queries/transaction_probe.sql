-- Find out whether statements are run at all: none is in a transaction that failed.
--
-- Gives: 1.
SELECT 1
