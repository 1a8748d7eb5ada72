-- Every change of every job, in the order it was made, in a schema of its own.
--
-- A fence is the time of a start in microseconds since 2000, as the library's nodes have it.
CREATE SCHEMA chaos;

CREATE TABLE chaos.history (
    seq bigserial PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    operation text NOT NULL,
    job bigint NOT NULL,
    state text,
    attempt integer,
    fence bigint,
    owner text,
    rescued integer,
    errors integer
);

CREATE FUNCTION chaos.record() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $function$
BEGIN
    IF TG_OP = 'DELETE' THEN
        INSERT INTO chaos.history (operation, job) VALUES (TG_OP, OLD.id);

        RETURN NULL;
    END IF;

    INSERT INTO chaos.history
        (operation, job, state, attempt, fence, owner, rescued, errors)
    VALUES (
        TG_OP,
        NEW.id,
        NEW.state::text,
        NEW.attempt,
        (extract(epoch FROM NEW.attempted_at) * 1000000)::bigint - 946684800000000,
        NEW.attempted_by[2],
        -- oban-py keeps `true` there, whatever the number of its rescues.
        CASE jsonb_typeof(NEW.meta -> 'rescued')
            WHEN 'number' THEN (NEW.meta -> 'rescued')::integer
            WHEN 'boolean' THEN (NEW.meta ->> 'rescued')::boolean::integer
            ELSE 0
        END,
        jsonb_array_length(to_jsonb(NEW.errors))
    );

    RETURN NULL;
END
$function$;

CREATE TRIGGER chaos_history
AFTER INSERT OR UPDATE OR DELETE ON /* schema */oban_jobs
FOR EACH ROW EXECUTE FUNCTION chaos.record();
