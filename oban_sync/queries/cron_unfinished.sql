-- A job of an entry that is not finished.
--
--   name   text  the Oban instance
--   entry  text  the entry's name
--   most   jobs  so many of its last jobs are looked at
--
-- Gives: id, state; no row where all are finished.
SELECT job.id, job.state::text AS state
FROM (
    SELECT slot.job_id
    FROM /* schema */oban_sync_cron_slots AS slot
    WHERE slot.name = %(name)s::text
      AND slot.entry = %(entry)s::text
      AND slot.outcome = 'inserted'
    ORDER BY slot.due_at DESC
    LIMIT %(most)s::integer
) AS slot
JOIN /* schema */oban_jobs AS job ON job.id = slot.job_id
WHERE job.state NOT IN ('completed', 'cancelled', 'discarded')
ORDER BY job.id
LIMIT 1
