-- Forget a savepoint; what was done since stays.
--
-- Gives: nothing.
RELEASE SAVEPOINT /* name */
