-- What is installed in a schema.
--
--   schema  text  the schema's name
--
-- Gives: jobs, marker (whether these tables exist), trigger (whether inserts wake the nodes).
SELECT
    to_regclass(quote_ident(%(schema)s::text) || '.oban_jobs') IS NOT NULL AS jobs,
    to_regclass(quote_ident(%(schema)s::text) || '.oban_sync_migrations') IS NOT NULL AS marker,
    EXISTS (
        SELECT FROM pg_trigger
        WHERE tgname = 'oban_sync_notify_insert'
          AND tgenabled <> 'D'
          AND tgrelid = to_regclass(quote_ident(%(schema)s::text) || '.oban_jobs')
    ) AS trigger
