-- The name of the database.
--
-- Gives: name.
SELECT pg_catalog.current_database()::text AS name
