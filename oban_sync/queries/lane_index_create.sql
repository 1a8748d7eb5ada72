-- Make the index that the lanes of one queue are found by, while jobs go on.
--
-- Gives: nothing.
CREATE INDEX CONCURRENTLY /* index */
ON /* schema */oban_jobs ((/* lane */), priority, scheduled_at, id)
WHERE state = 'available' AND queue = /* queue */
