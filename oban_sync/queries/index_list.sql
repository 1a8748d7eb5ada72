-- The indexes of the jobs table.
--
-- Gives: name, valid.
SELECT
    index.relname::text AS name,
    entry.indisvalid AS valid
FROM pg_catalog.pg_index AS entry
JOIN pg_catalog.pg_class AS index ON index.oid = entry.indexrelid
WHERE entry.indrelid = pg_catalog.to_regclass('/* schema */oban_jobs')
ORDER BY index.relname
