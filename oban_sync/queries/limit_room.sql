-- How much of a rate limit is free.
--
--   rate       text     the limit
--   lane       bigint   the lane of it
--   algorithm  text     how starts are counted
--   allowed    weight   how much may start ...
--   period     seconds  ... in this time
--
-- Gives: room, again_in (seconds after which there is more).
SELECT
    free.room[1]::integer AS room,
    free.room[2] AS again_in
FROM (
    SELECT /* schema */oban_sync_rate_room(
        %(rate)s::text,
        %(lane)s::bigint,
        %(algorithm)s::text,
        %(allowed)s::integer,
        %(period)s::double precision,
        statement_timestamp()
    ) AS room
    OFFSET 0
) AS free
