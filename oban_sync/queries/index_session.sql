-- Set a session up for work on indexes.
--
--   timeout       milliseconds as text  most time of a statement
--   lock_timeout  milliseconds as text  most time of one wait for other transactions
--
-- Gives: the settings.
SELECT
    pg_catalog.set_config('statement_timeout', %(timeout)s::text, false),
    pg_catalog.set_config('lock_timeout', %(lock_timeout)s::text, false),
    pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false)
