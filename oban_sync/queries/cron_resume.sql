-- Have the jobs of an entry inserted again, from its next time on.
--
--   name   text         the Oban instance
--   entry  text         the entry's name
--   now    timestamptz  times before this were not missed
--
-- Gives: nothing; no row is changed where there is no such entry.
UPDATE /* schema */oban_sync_crons
SET paused = false,
    paused_by = NULL,
    paused_at = NULL,
    since = CASE WHEN paused THEN %(now)s::timestamptz ELSE since END
WHERE name = %(name)s::text
  AND entry = %(entry)s::text
