-- Remember that a migration was applied.
--
--   version  integer  its number
--
-- Gives: nothing.
INSERT INTO /* schema */oban_sync_migrations (version) VALUES (%(version)s)
ON CONFLICT (version) DO NOTHING
