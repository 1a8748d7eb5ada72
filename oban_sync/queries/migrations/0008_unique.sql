-- One job per key, decided by an index; and the time until which a job may start.

-- Whether a job holds its key now: meta.uniq_bmp lists the states in which it does, numbered as by
-- Oban Pro. Only keys of ours count: whoever else writes such meta has an index, or a habit, of his
-- own, and may put there whatever he likes.
--
-- In PL/pgSQL, because a function in SQL would be spelled out in the index's condition, which every
-- statement on the table had to prepare; rows without a key never come here. Of any enum, so that
-- the type of the states can be dropped with the jobs.
CREATE OR REPLACE FUNCTION /* schema */oban_sync_watched(state anyenum, meta jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $function$
BEGIN
    RETURN meta OPERATOR(pg_catalog.->) 'uniq_bmp'
            OPERATOR(pg_catalog.@>) CASE state::pg_catalog.text
                WHEN 'scheduled' THEN '[0]'::pg_catalog.jsonb
                WHEN 'available' THEN '[1]'::pg_catalog.jsonb
                WHEN 'executing' THEN '[2]'::pg_catalog.jsonb
                WHEN 'retryable' THEN '[3]'::pg_catalog.jsonb
                WHEN 'completed' THEN '[4]'::pg_catalog.jsonb
                WHEN 'cancelled' THEN '[5]'::pg_catalog.jsonb
                WHEN 'discarded' THEN '[6]'::pg_catalog.jsonb
                WHEN 'suspended' THEN '[7]'::pg_catalog.jsonb
            END
        AND pg_catalog.octet_length(meta OPERATOR(pg_catalog.->>) 'uniq_key')
            OPERATOR(pg_catalog.=) 53
        AND pg_catalog.starts_with(meta OPERATOR(pg_catalog.->>) 'uniq_key', 'oban_sync:');
END
$function$;

-- Whether a key is ours.
CREATE OR REPLACE FUNCTION /* schema */oban_sync_own_key(meta jsonb) RETURNS boolean
LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE
AS $function$
BEGIN
    RETURN pg_catalog.octet_length(meta OPERATOR(pg_catalog.->>) 'uniq_key')
            OPERATOR(pg_catalog.=) 53
        AND pg_catalog.starts_with(meta OPERATOR(pg_catalog.->>) 'uniq_key', 'oban_sync:');
END
$function$;

CREATE UNIQUE INDEX IF NOT EXISTS oban_sync_unique_index
ON /* schema */oban_jobs ((meta ->> 'uniq_key'))
WHERE meta ? 'uniq_key' AND /* schema */oban_sync_watched(state, meta);

-- Jobs that gave up their key: they are still found by it, but keep nobody out.
CREATE INDEX IF NOT EXISTS oban_sync_yielded_index
ON /* schema */oban_jobs ((meta ->> 'uniq_key'), state, inserted_at)
WHERE meta ? 'uniq_key' AND meta -> 'uniq_bmp' = '[]' AND /* schema */oban_sync_own_key(meta);

-- A job's meta with the time until which it has to start: so many seconds after it was scheduled
-- for. Without seconds it is those that were given before, if any were; without a time it stays.
CREATE OR REPLACE FUNCTION /* schema */oban_sync_with_deadline(
    meta jsonb, seconds double precision, scheduled_at timestamp
)
RETURNS jsonb
LANGUAGE plpgsql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    kept jsonb := CASE
        WHEN jsonb_typeof(meta -> 'oban_sync') = 'object' THEN meta -> 'oban_sync' ELSE '{}'
    END;
BEGIN
    IF seconds IS NULL AND jsonb_typeof(kept -> 'deadline') = 'number' THEN
        seconds := greatest(0, least((kept ->> 'deadline')::numeric, 1e10));
    END IF;

    IF seconds IS NULL OR scheduled_at IS NULL THEN
        RETURN meta;
    END IF;

    RETURN CASE WHEN jsonb_typeof(meta) = 'object' THEN meta ELSE '{}' END || jsonb_build_object(
        'oban_sync',
        kept || jsonb_build_object(
            'deadline', seconds,
            'deadline_at', to_char(
                least(scheduled_at + make_interval(secs => seconds), '9999-12-31 23:59:59.999999'),
                'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
            )
        )
    );
END
$function$;
