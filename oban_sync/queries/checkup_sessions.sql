-- The connections of a server, by whose they are.
--
-- What a role may not see of others is NULL: then they count without a name.
--
-- Gives: role, database, application, sessions, hidden (there may be more to know), most first.
SELECT
    coalesce(usename::text, '?') AS role,
    coalesce(datname::text, '?') AS database,
    coalesce(application_name, '') AS application,
    count(*)::integer AS sessions,
    bool_or(backend_type IS NULL) AS hidden
FROM pg_catalog.pg_stat_activity
WHERE backend_type = 'client backend'
   OR (backend_type IS NULL AND usesysid IS NOT NULL)
GROUP BY 1, 2, 3
ORDER BY count(*) DESC, 1, 2, 3
