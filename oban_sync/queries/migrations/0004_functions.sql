-- Waking nodes at every insert, whoever makes it, and adding to errors of either column type.

-- One notification per distinct queue, delivered at commit. The payload is spaced as oban-py writes
-- it, because PostgreSQL sends equal payloads of one transaction only once.
CREATE OR REPLACE FUNCTION /* schema */oban_sync_notify_insert() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    PERFORM pg_notify(TG_TABLE_SCHEMA || '.oban_insert', '{"queue":' || to_json(woken.queue) || '}')
    FROM (SELECT DISTINCT queue FROM inserted WHERE state::text = 'available') AS woken;

    RETURN NULL;
END
$function$;

DO $migration$
BEGIN
    IF NOT EXISTS (
        SELECT FROM pg_trigger
        WHERE tgname = 'oban_sync_notify_insert'
          AND tgrelid = to_regclass(quote_ident(/* schema literal */) || '.oban_jobs')
    ) THEN
        CREATE TRIGGER oban_sync_notify_insert
        AFTER INSERT ON /* schema */oban_jobs
        REFERENCING NEW TABLE AS inserted
        FOR EACH STATEMENT EXECUTE FUNCTION /* schema */oban_sync_notify_insert();
    ELSE
        -- Somebody may have disabled it, for a bulk load perhaps.
        ALTER TABLE /* schema */oban_jobs ENABLE TRIGGER oban_sync_notify_insert;
    END IF;
END
$migration$;

-- Oban keeps errors as jsonb[], oban-py as jsonb. The newest `most` entries stay.
CREATE OR REPLACE FUNCTION /* schema */oban_sync_add_error(errors jsonb[], entry jsonb, most integer)
RETURNS jsonb[]
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    -- An array of more dimensions takes no entry; nobody but a mistake makes one.
    SELECT CASE
        WHEN array_ndims(errors) > 1 THEN ARRAY[entry]
        ELSE (errors || entry)[
            array_lower(errors || entry, 1) + greatest(0, coalesce(cardinality(errors), 0) + 1 - most)
            :
        ]
    END
$function$;

CREATE OR REPLACE FUNCTION /* schema */oban_sync_add_error(errors jsonb, entry jsonb, most integer)
RETURNS jsonb
LANGUAGE sql IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT CASE
        WHEN jsonb_typeof(errors) IS DISTINCT FROM 'array' THEN jsonb_build_array(entry)
        WHEN jsonb_array_length(errors) < most THEN errors || jsonb_build_array(entry)
        ELSE (
            SELECT jsonb_agg(kept.value ORDER BY kept.position)
            FROM jsonb_array_elements(errors || jsonb_build_array(entry))
                WITH ORDINALITY AS kept (value, position)
            WHERE kept.position > jsonb_array_length(errors) + 1 - most
        )
    END
$function$;
