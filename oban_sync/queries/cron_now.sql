-- What the time is for all nodes.
--
-- Gives: now.
SELECT clock_timestamp() AS now
