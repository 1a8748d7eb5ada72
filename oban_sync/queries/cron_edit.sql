-- Change an entry at run time, over what the code says of it.
--
--   name     text          the Oban instance
--   entry    text          the entry's name
--   changes  JSON as text  an object of what is to be different
--   anew     boolean       whether earlier changes are forgotten
--   now      timestamptz   times before this were not missed by what is new
--
-- Gives: nothing; no row is changed where there is no such entry.
WITH edit AS (
    SELECT
        cron.entry,
        CASE
            WHEN %(anew)s::boolean OR jsonb_typeof(cron.edited) <> 'object' THEN '{}'::jsonb
            ELSE cron.edited
        END || %(changes)s::text::jsonb AS edited
    FROM /* schema */oban_sync_crons AS cron
    WHERE cron.name = %(name)s::text
      AND cron.entry = %(entry)s::text
    FOR NO KEY UPDATE
)
UPDATE /* schema */oban_sync_crons AS cron
SET edited = edit.edited,
    since = CASE
        WHEN coalesce(cron.edited ->> 'expression', cron.expression)
                = coalesce(edit.edited ->> 'expression', cron.expression)
            AND coalesce(cron.edited ->> 'timezone', cron.timezone)
                = coalesce(edit.edited ->> 'timezone', cron.timezone)
            THEN cron.since
        ELSE %(now)s::timestamptz
    END
FROM edit
WHERE cron.name = %(name)s::text
  AND cron.entry = edit.entry
