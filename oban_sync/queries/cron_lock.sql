-- One entry, kept from being changed, and from being settled by another node, until the transaction
-- ends.
--
--   name   text  the Oban instance
--   entry  text  the entry's name
--
-- Gives: entry, expression, timezone, catch_up, overlap, worker, job and edited (JSON as text),
-- dynamic, paused, paused_by, since.
SELECT
    cron.entry,
    cron.expression,
    cron.timezone,
    cron.catch_up,
    cron.overlap,
    cron.worker,
    cron.job::text AS job,
    cron.edited::text AS edited,
    cron.dynamic,
    cron.paused,
    cron.paused_by,
    least(greatest(cron.since, '1970-01-01 00:00Z'), '9000-01-01 00:00Z') AS since
FROM /* schema */oban_sync_crons AS cron
WHERE cron.name = %(name)s::text
  AND cron.entry = %(entry)s::text
FOR NO KEY UPDATE
