-- Set a savepoint in the transaction that a connection is in.
--
-- Gives: nothing.
SAVEPOINT /* name */
