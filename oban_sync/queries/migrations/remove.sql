-- What the migrations made. A jobs table that was there before them stays, with its side tables.
DROP VIEW IF EXISTS /* schema */oban_queue_health;

DO $migration$
DECLARE
    lanes text;
BEGIN
    -- Made for queues with lanes, by the nodes that run them.
    FOR lanes IN
        SELECT index.relname
        FROM pg_index AS entry
        JOIN pg_class AS index ON index.oid = entry.indexrelid
        WHERE entry.indrelid = to_regclass(quote_ident(/* schema literal */) || '.oban_jobs')
          AND starts_with(index.relname, 'oban_sync_lane_')
    LOOP
        EXECUTE format('DROP INDEX IF EXISTS %I.%I', /* schema literal */, lanes);
    END LOOP;

    IF EXISTS (SELECT FROM /* schema */oban_sync_migrations WHERE created_jobs) THEN
        DROP TABLE IF EXISTS /* schema */oban_jobs;
        DROP TABLE IF EXISTS /* schema */oban_peers;
        DROP TABLE IF EXISTS /* schema */oban_leaders;
        DROP TABLE IF EXISTS /* schema */oban_producers;
        DROP FUNCTION IF EXISTS /* schema */oban_count_estimate(text, text);
        DROP TYPE IF EXISTS /* schema */oban_job_state;
    ELSE
        DROP TRIGGER IF EXISTS oban_sync_notify_insert ON /* schema */oban_jobs;
        DROP INDEX IF EXISTS /* schema */oban_sync_unique_index;
        DROP INDEX IF EXISTS /* schema */oban_sync_yielded_index;
        DROP INDEX IF EXISTS /* schema */oban_jobs_available_index;
        DROP INDEX IF EXISTS /* schema */oban_jobs_executing_index;
        DROP INDEX IF EXISTS /* schema */oban_jobs_cancel_index;
    END IF;
END
$migration$;

DROP FUNCTION IF EXISTS /* schema */oban_sync_notify_insert();

DROP FUNCTION IF EXISTS /* schema */oban_sync_notify_listeners();

DROP FUNCTION IF EXISTS /* schema */oban_sync_add_error(jsonb[], jsonb, integer);

DROP FUNCTION IF EXISTS /* schema */oban_sync_add_error(jsonb, jsonb, integer);

DROP FUNCTION IF EXISTS /* schema */oban_sync_unwanted(jsonb, timestamp);

DROP FUNCTION IF EXISTS /* schema */oban_sync_own_key(jsonb);

DROP FUNCTION IF EXISTS /* schema */oban_sync_watched(anyenum, jsonb);

DROP FUNCTION IF EXISTS /* schema */oban_sync_with_deadline(jsonb, double precision, timestamp);

DROP FUNCTION IF EXISTS /* schema */oban_sync_limit_enter(
    bigint, text, text, bigint, integer, integer, integer, bigint[], text, text, integer,
    double precision, timestamptz
);

DROP FUNCTION IF EXISTS /* schema */oban_sync_limit_leave(
    text, bigint, integer, bigint[], boolean, text, text, integer, double precision, integer,
    timestamptz
);

DROP FUNCTION IF EXISTS /* schema */oban_sync_rate_room(
    text, bigint, text, integer, double precision, timestamptz
);

DROP FUNCTION IF EXISTS /* schema */oban_sync_rate_charge(
    text, bigint, text, integer, double precision, integer, timestamptz
);

DROP FUNCTION IF EXISTS /* schema */oban_sync_weight(jsonb, integer);

DROP FUNCTION IF EXISTS /* schema */oban_sync_queue_health();


DROP TABLE IF EXISTS /* schema */oban_sync_metrics;

DROP TABLE IF EXISTS /* schema */oban_sync_logs;

DROP TABLE IF EXISTS /* schema */oban_sync_audit;

DROP TABLE IF EXISTS /* schema */oban_sync_stacks;

DROP TABLE IF EXISTS /* schema */oban_sync_rates;

DROP TABLE IF EXISTS /* schema */oban_sync_producers;

DROP TABLE IF EXISTS /* schema */oban_sync_nodes;

DROP TABLE IF EXISTS /* schema */oban_sync_leaders;

DROP TABLE IF EXISTS /* schema */oban_sync_controls;

DROP TABLE IF EXISTS /* schema */oban_sync_cron_slots;

DROP TABLE IF EXISTS /* schema */oban_sync_crons;

DROP TABLE IF EXISTS /* schema */oban_sync_migrations;
