-- Keep what runs of jobs logged so far; what was kept of the same run before is replaced.
--
--   runs  JSON as text  an array of objects: job_id, attempted_at, attempt, node, lines, dropped
--
-- Gives: nothing.
--
-- In the order of the key, so that two who write the same, as a node and the one that took its job
-- for lost, wait for one another at the most.
INSERT INTO /* schema */oban_sync_logs AS log (
    job_id, attempted_at, attempt, node, lines, dropped
)
SELECT run.job_id, run.attempted_at, run.attempt, run.node, run.lines, run.dropped
FROM jsonb_to_recordset(%(runs)s::text::jsonb) AS run (
    job_id bigint, attempted_at timestamp, attempt integer, node text, lines jsonb, dropped integer
)
ORDER BY run.job_id, run.attempted_at
ON CONFLICT (job_id, attempted_at) DO UPDATE
SET lines = EXCLUDED.lines,
    dropped = EXCLUDED.dropped,
    written_at = now()
