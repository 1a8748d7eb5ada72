-- The time, by the clock that metrics are written by.
--
-- Gives: now (seconds since 1970).
SELECT extract(epoch FROM now())::double precision AS now
