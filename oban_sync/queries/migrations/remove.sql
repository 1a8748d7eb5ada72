-- What the migrations made. A jobs table that was there before them stays, with its side tables.
DO $migration$
BEGIN
    IF EXISTS (SELECT FROM /* schema */oban_sync_migrations WHERE created_jobs) THEN
        DROP TABLE IF EXISTS /* schema */oban_jobs;
        DROP TABLE IF EXISTS /* schema */oban_peers;
        DROP TABLE IF EXISTS /* schema */oban_leaders;
        DROP TABLE IF EXISTS /* schema */oban_producers;
        DROP FUNCTION IF EXISTS /* schema */oban_count_estimate(text, text);
        DROP TYPE IF EXISTS /* schema */oban_job_state;
    ELSE
        DROP TRIGGER IF EXISTS oban_sync_notify_insert ON /* schema */oban_jobs;
        DROP INDEX IF EXISTS /* schema */oban_jobs_available_index;
        DROP INDEX IF EXISTS /* schema */oban_jobs_executing_index;
        DROP INDEX IF EXISTS /* schema */oban_jobs_cancel_index;
    END IF;
END
$migration$;

DROP FUNCTION IF EXISTS /* schema */oban_sync_notify_insert();

DROP FUNCTION IF EXISTS /* schema */oban_sync_add_error(jsonb[], jsonb, integer);

DROP FUNCTION IF EXISTS /* schema */oban_sync_add_error(jsonb, jsonb, integer);

DROP FUNCTION IF EXISTS /* schema */oban_sync_unwanted(jsonb, timestamp);

DROP TABLE IF EXISTS /* schema */oban_sync_producers;

DROP TABLE IF EXISTS /* schema */oban_sync_nodes;

DROP TABLE IF EXISTS /* schema */oban_sync_leaders;

DROP TABLE IF EXISTS /* schema */oban_sync_controls;

DROP TABLE IF EXISTS /* schema */oban_sync_cron_slots;

DROP TABLE IF EXISTS /* schema */oban_sync_crons;

DROP TABLE IF EXISTS /* schema */oban_sync_migrations;
