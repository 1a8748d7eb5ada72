-- Let each statement of this transaction see what others committed before it, whatever the default is.
-- The first of a transaction.
--
-- Gives: nothing.
SET TRANSACTION ISOLATION LEVEL READ COMMITTED
