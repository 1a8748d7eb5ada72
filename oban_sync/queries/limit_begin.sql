-- Begin a transaction on a connection of the application's, whose isolation may be another by default.
--
-- Gives: nothing.
BEGIN ISOLATION LEVEL READ COMMITTED
