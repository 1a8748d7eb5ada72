-- Have the times of an entry skipped.
--
--   name   text          the Oban instance
--   entry  text          the entry's name
--   by     text or NULL  who wants it
--
-- Gives: nothing; no row is changed where there is no such entry. Who paused it first is kept.
UPDATE /* schema */oban_sync_crons
SET paused = true,
    paused_by = CASE WHEN paused THEN paused_by ELSE %(by)s::text END,
    paused_at = CASE WHEN paused THEN paused_at ELSE now() END
WHERE name = %(name)s::text
  AND entry = %(entry)s::text
