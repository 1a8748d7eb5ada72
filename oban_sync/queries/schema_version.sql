-- The newest migration that was applied.
--
-- Gives: version, NULL when none was.
SELECT max(version) AS version FROM /* schema */oban_sync_migrations
