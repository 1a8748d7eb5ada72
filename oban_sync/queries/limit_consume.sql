-- Take of a rate limit what is free. Under its lock.
--
--   rate       text     the limit
--   lane       bigint   the lane of it
--   algorithm  text     how starts are counted
--   allowed    weight   how much may start ...
--   period     seconds  ... in this time
--   wanted     weight   how much to take
--   full       boolean  all of it or nothing
--
-- Gives: taken, again_in (seconds after which there is more room).
SELECT
    share.taken,
    share.again_in,
    CASE
        WHEN share.taken > 0 THEN /* schema */oban_sync_rate_charge(
            %(rate)s::text,
            %(lane)s::bigint,
            %(algorithm)s::text,
            %(allowed)s::integer,
            %(period)s::double precision,
            share.taken,
            statement_timestamp()
        )
    END AS charged
FROM (
    SELECT
        CASE
            WHEN free.room[1] >= %(wanted)s::integer THEN %(wanted)s::integer
            WHEN %(full)s::boolean THEN 0
            ELSE free.room[1]::integer
        END AS taken,
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
    OFFSET 0
) AS share
