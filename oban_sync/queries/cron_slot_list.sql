-- What became of the times of an entry, newest first.
--
--   name   text   the Oban instance
--   entry  text   the entry's name
--   most   times  most rows given
--
-- Gives: due_at, outcome, job_id, node, settled_at, reason.
SELECT
    least(greatest(slot.due_at, '1970-01-01 00:00Z'), '9000-01-01 00:00Z') AS due_at,
    slot.outcome,
    slot.job_id,
    slot.node,
    least(greatest(slot.settled_at, '1970-01-01 00:00Z'), '9000-01-01 00:00Z') AS settled_at,
    slot.reason
FROM /* schema */oban_sync_cron_slots AS slot
WHERE slot.name = %(name)s::text
  AND slot.entry = %(entry)s::text
ORDER BY slot.due_at DESC
LIMIT %(most)s::integer
