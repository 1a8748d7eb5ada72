-- The entries of an Oban, and how far each was settled.
--
--   name  text  the Oban instance
--
-- Gives: entry, expression, timezone, catch_up, overlap, worker, job and edited (JSON as text),
-- dynamic, paused, paused_by, paused_at, since, last_at and last_outcome (of the newest time that was
-- settled), declared (whether a node has the entry in its code).
--
-- Times are kept within what the client can express: a row made by hand must not hide the others.
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
    CASE WHEN cron.paused_at IS NOT NULL THEN
        least(greatest(cron.paused_at, '1970-01-01 00:00Z'), '9000-01-01 00:00Z')
    END AS paused_at,
    least(greatest(cron.since, '1970-01-01 00:00Z'), '9000-01-01 00:00Z') AS since,
    CASE WHEN slot.due_at IS NOT NULL THEN
        least(greatest(slot.due_at, '1970-01-01 00:00Z'), '9000-01-01 00:00Z')
    END AS last_at,
    slot.outcome AS last_outcome,
    EXISTS (
        SELECT FROM /* schema */oban_sync_nodes AS node
        WHERE node.name = cron.name
          AND cron.entry = ANY (node.crons)
    ) AS declared
FROM /* schema */oban_sync_crons AS cron
LEFT JOIN LATERAL (
    SELECT newest.due_at, newest.outcome
    FROM /* schema */oban_sync_cron_slots AS newest
    WHERE newest.name = cron.name
      AND newest.entry = cron.entry
    ORDER BY newest.due_at DESC
    LIMIT 1
) AS slot ON true
WHERE cron.name = %(name)s::text
ORDER BY cron.entry
