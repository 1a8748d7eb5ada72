-- A turn of a limited queue in one statement.

-- Take the lock of a limited queue until the transaction ends, and tell what room there is. Each of
-- its queries sees what was committed when it begins: also what others wrote while the lock was
-- waited for, which the statement around it does not see.
--
-- known is false for a producer that has no row, that has had a later turn, or whose row is being
-- written or taken away: it is not waited for. weight and again_in are of the rate, where it is not
-- counted by lane; busy_lanes and busy_jobs say how many jobs run in each lane, where lanes are given.
CREATE OR REPLACE FUNCTION /* schema */oban_sync_limit_enter(
    lock_key bigint,
    queue_name text,
    owner text,
    number bigint,
    demand integer,
    most integer,
    kept integer,
    kept_lanes bigint[],
    rate_name text,
    algorithm text,
    allowed integer,
    period double precision,
    given timestamptz,
    OUT known boolean,
    OUT others integer,
    OUT jobs integer,
    OUT weight double precision,
    OUT again_in double precision,
    OUT moment timestamptz,
    OUT busy_lanes bigint[],
    OUT busy_jobs integer[]
) RETURNS record
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    elsewhere bigint;
    room double precision[];
BEGIN
    -- As an expression, which costs less than a query. It waits, and gives something in any case.
    IF pg_advisory_xact_lock(lock_key) IS NULL THEN
        RETURN;
    END IF;

    -- Only now: whoever waited starts its jobs later than those it waited for.
    moment := coalesce(given, clock_timestamp());
    jobs := 0;

    SELECT count(*), coalesce(sum(other.running), 0) INTO others, elsewhere
    FROM /* schema */oban_sync_producers AS other
    WHERE other.queue = queue_name AND other.uuid <> owner;

    PERFORM
    FROM /* schema */oban_sync_producers AS producer
    WHERE producer.uuid = owner AND producer.turn < number
    FOR NO KEY UPDATE SKIP LOCKED;

    known := FOUND;

    IF NOT known THEN
        RETURN;
    END IF;

    jobs := greatest(0, least(demand, most - kept - elsewhere));

    IF algorithm IS NOT NULL THEN
        room := /* schema */oban_sync_rate_room(
            rate_name, 0, algorithm, allowed, period, moment
        );
        weight := room[1];
        again_in := room[2];
    END IF;

    IF others > 0 OR cardinality(kept_lanes) > 0 THEN
        SELECT
            array_agg(held.lane ORDER BY held.lane),
            array_agg(held.jobs ORDER BY held.lane)
        INTO busy_lanes, busy_jobs
        FROM (
            SELECT run.lane, count(*)::integer AS jobs
            FROM (
                SELECT unnest(kept_lanes) AS lane
                UNION ALL
                SELECT unnest(other.lanes)
                FROM /* schema */oban_sync_producers AS other
                WHERE other.queue = queue_name AND other.uuid <> owner
            ) AS run
            WHERE kept_lanes IS NOT NULL
            GROUP BY run.lane
        ) AS held;
    END IF;
END
$function$;

-- Write what a producer runs, after oban_sync_limit_enter in the same statement; and what started, where
-- weight is given. What is written already is not written again, unless it is `forced`: then the number
-- has to grow, in case that an earlier statement is still on its way.
CREATE OR REPLACE FUNCTION /* schema */oban_sync_limit_leave(
    owner text,
    number bigint,
    runs integer,
    runs_lanes bigint[],
    forced boolean,
    rate_name text,
    algorithm text,
    allowed integer,
    period double precision,
    weight integer,
    moment timestamptz
) RETURNS boolean
LANGUAGE plpgsql VOLATILE
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    UPDATE /* schema */oban_sync_producers AS producer
    SET turn = number,
        running = runs,
        lanes = runs_lanes
    WHERE producer.uuid = owner
      AND (forced OR producer.running <> runs OR producer.lanes <> runs_lanes);

    IF weight > 0 THEN
        PERFORM /* schema */oban_sync_rate_charge(
            rate_name, 0, algorithm, allowed, period, weight, moment
        );
    END IF;

    RETURN true;
END
$function$;

-- As before, but what counts no more is looked for only when a row is added: a call takes away more
-- than it adds.
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
        UPDATE /* schema */oban_sync_rates AS rate
        SET used = greatest(at, least(rate.used, at + span)) + cost,
            expires_at = moment + make_interval(secs => period)
        WHERE rate.name = limit_name AND rate.lane = key AND rate.slot = 0;
    ELSE
        UPDATE /* schema */oban_sync_rates AS rate
        SET used = rate.used + weight
        WHERE rate.name = limit_name AND rate.lane = key AND rate.slot = at / width;
    END IF;

    IF FOUND THEN
        RETURN true;
    END IF;

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
