-- End it, at once with its statements: a process that stands still must not keep the lock.
--
-- Gives: nothing.
COMMIT
