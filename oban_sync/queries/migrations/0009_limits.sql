-- What the cluster has to know of a queue's limits: who runs how much, and what started when.

-- Every producer of a limited queue says what it runs, all of it, each time that it takes jobs; the
-- others count it. lanes holds the lane of each running job where the queue has lanes. turn only
-- grows: a statement that a lost connection left behind, and that comes late, finds that it did.
ALTER TABLE /* schema */oban_sync_producers
ADD COLUMN IF NOT EXISTS turn bigint NOT NULL DEFAULT 0,
ADD COLUMN IF NOT EXISTS running integer NOT NULL DEFAULT 0,
ADD COLUMN IF NOT EXISTS lanes bigint[] NOT NULL DEFAULT '{}';

-- Written many times a second: with room on its page a row needs no new index entries.
ALTER TABLE /* schema */oban_sync_producers SET (fillfactor = 40);

CREATE INDEX IF NOT EXISTS oban_sync_producers_queue_index
ON /* schema */oban_sync_producers (queue);

-- What was started lately, of which limit, in which lane of it (0 where it has none). A slot is a
-- piece of time; for a token bucket there is one, and used is the moment at which it is full again,
-- in microseconds.
CREATE TABLE IF NOT EXISTS /* schema */oban_sync_rates (
    name text NOT NULL,
    lane bigint NOT NULL,
    slot bigint NOT NULL,
    used double precision NOT NULL,
    expires_at timestamptz NOT NULL,

    PRIMARY KEY (name, lane, slot)
) WITH (fillfactor = 40);

CREATE INDEX IF NOT EXISTS oban_sync_rates_expires_at_index
ON /* schema */oban_sync_rates (expires_at);

-- How much may start at a moment, and the seconds after which more may than that. In an array, for the
-- sake of CASE: where it is not needed it must not be called.
--
-- A sliding window is kept in slots of a fortieth of the period. All that the window touches count
-- whole: no window of that length ever holds too many, and a full one is free again after 41 slots at
-- the latest. Slots ahead of the moment come from a clock that was set back. Everything is in whole
-- microseconds, as timestamps are: fractions would put some into the wrong slot.
CREATE OR REPLACE FUNCTION /* schema */oban_sync_rate_room(
    limit_name text,
    key bigint,
    algorithm text,
    allowed integer,
    period double precision,
    moment timestamptz
) RETURNS double precision[]
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    span bigint := greatest(1, round(period * 1000000))::bigint;
    at bigint := (extract(epoch FROM moment) * 1000000)::bigint;
    width bigint;
    oldest bigint;
    total double precision;
    full_at double precision;
    cost double precision;
    room double precision;
    again_in double precision;
BEGIN
    IF algorithm = 'token_bucket' THEN
        cost := span::double precision / allowed;

        SELECT rate.used INTO full_at
        FROM /* schema */oban_sync_rates AS rate
        WHERE rate.name = limit_name AND rate.lane = key AND rate.slot = 0;

        full_at := greatest(at, least(coalesce(full_at, at), at + span));
        -- A double holds a moment to a quarter of a microsecond.
        room := floor((at + span - full_at) / cost + 0.001);
        again_in := (full_at + (room + 1) * cost - at - span) / 1000000;
    ELSIF algorithm = 'fixed_window' THEN
        SELECT rate.used INTO total
        FROM /* schema */oban_sync_rates AS rate
        WHERE rate.name = limit_name AND rate.lane = key AND rate.slot = at / span;

        room := greatest(0, allowed - coalesce(total, 0));
        again_in := ((at / span + 1) * span - at) / 1000000.0;
    ELSE
        width := (span + 39) / 40;

        SELECT sum(rate.used), min(rate.slot) INTO total, oldest
        FROM /* schema */oban_sync_rates AS rate
        WHERE rate.name = limit_name AND rate.lane = key
          AND rate.slot BETWEEN at / width - 40 AND at / width + 40;

        room := greatest(0, allowed - coalesce(total, 0));
        again_in := ((coalesce(oldest, at / width) + 41) * width - at) / 1000000.0;
    END IF;

    RETURN ARRAY[room, greatest(0.001, again_in)];
END
$function$;

-- Note that so much starts at a moment. Takes away a few rows that count no more with each call, which
-- is more than it adds. Only under the lock of the limit.
CREATE OR REPLACE FUNCTION /* schema */oban_sync_rate_charge(
    limit_name text,
    key bigint,
    algorithm text,
    allowed integer,
    period double precision,
    weight integer,
    moment timestamptz
) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    span bigint := greatest(1, round(period * 1000000))::bigint;
    at bigint := (extract(epoch FROM moment) * 1000000)::bigint;
    width bigint := CASE WHEN algorithm = 'fixed_window' THEN span ELSE (span + 39) / 40 END;
    cost double precision := weight * (span::double precision / allowed);
BEGIN
    IF algorithm = 'token_bucket' THEN
        INSERT INTO /* schema */oban_sync_rates AS rate (name, lane, slot, used, expires_at)
        VALUES (limit_name, key, 0, at + cost, moment + make_interval(secs => period))
        ON CONFLICT (name, lane, slot) DO UPDATE
        SET used = greatest(at, least(rate.used, at + span)) + cost,
            expires_at = excluded.expires_at;
    ELSE
        INSERT INTO /* schema */oban_sync_rates AS rate (name, lane, slot, used, expires_at)
        VALUES (
            limit_name,
            key,
            at / width,
            weight,
            to_timestamp((at / width) * width / 1000000.0)
                + make_interval(secs => 42 * width / 1000000.0)
        )
        ON CONFLICT (name, lane, slot) DO UPDATE
        SET used = rate.used + excluded.used;
    END IF;

    DELETE FROM /* schema */oban_sync_rates AS rate
    WHERE rate.ctid = ANY (ARRAY(
        SELECT old.ctid
        FROM /* schema */oban_sync_rates AS old
        WHERE old.expires_at < moment
          AND (old.name = limit_name OR old.slot <> 0)
        ORDER BY old.expires_at
        LIMIT 5
        FOR UPDATE SKIP LOCKED
    ));

    RETURN true;
END
$function$;

-- What a job weighs where starts are counted: what it was given, and at most all that is allowed.
CREATE OR REPLACE FUNCTION /* schema */oban_sync_weight(meta jsonb, allowed integer) RETURNS integer
LANGUAGE sql IMMUTABLE
AS $function$
    SELECT CASE
        WHEN allowed IS NULL THEN 1
        WHEN jsonb_typeof(meta -> 'oban_sync' -> 'weight') = 'number' THEN ceil(
            least(allowed, greatest(1, (meta -> 'oban_sync' ->> 'weight')::numeric))
        )::integer
        ELSE 1
    END
$function$;
