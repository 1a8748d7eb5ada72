-- A word to whoever listens.
--
--   channel  text  the channel
--
-- Gives: told, of no meaning.
SELECT pg_catalog.pg_notify(%(channel)s::text, '') AS told
