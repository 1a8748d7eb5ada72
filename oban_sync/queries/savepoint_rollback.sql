-- Undo what was done since a savepoint; it stays.
--
-- Gives: nothing.
ROLLBACK TO SAVEPOINT /* name */
