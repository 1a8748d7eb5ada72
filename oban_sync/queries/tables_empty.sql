-- Delete what tests leave: jobs, what was asked of queues, cron entries, what was counted and
-- written down.
--
-- Gives: the number of jobs deleted.
--
-- Not by TRUNCATE, which would wait for every transaction that has only read one of the tables.
-- Nodes that run stay: they would end if their rows were gone.
WITH
controls AS (DELETE FROM /* schema */oban_sync_controls),
slots AS (DELETE FROM /* schema */oban_sync_cron_slots),
crons AS (DELETE FROM /* schema */oban_sync_crons),
metrics AS (DELETE FROM /* schema */oban_sync_metrics),
logs AS (DELETE FROM /* schema */oban_sync_logs),
audit AS (DELETE FROM /* schema */oban_sync_audit),
stacks AS (DELETE FROM /* schema */oban_sync_stacks),
rates AS (DELETE FROM /* schema */oban_sync_rates),
jobs AS (DELETE FROM /* schema */oban_jobs RETURNING id)
SELECT count(*) FROM jobs
