-- The indexes that lanes are found by.
--
--   prefix  text  what their names begin with
--
-- Gives: name, valid (whether it was finished).
SELECT
    index.relname::text AS name,
    entry.indisvalid AS valid
FROM pg_catalog.pg_index AS entry
JOIN pg_catalog.pg_class AS index ON index.oid = entry.indexrelid
WHERE entry.indrelid = pg_catalog.to_regclass('/* schema */oban_jobs')
  AND pg_catalog.starts_with(index.relname::text, %(prefix)s::text)
