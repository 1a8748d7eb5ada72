-- Where a running job was, when that was last looked at.
--
--   id  bigint  the job
--
-- Gives: job_id, attempted_at, node, text, taken_at; no row for a job that does not run, or that was
-- started once more since then.
SELECT
    stack.job_id,
    stack.attempted_at AT TIME ZONE 'UTC' AS attempted_at,
    stack.node,
    stack.stack AS text,
    stack.taken_at
FROM /* schema */oban_sync_stacks AS stack
JOIN /* schema */oban_jobs AS job ON job.id = stack.job_id
WHERE stack.job_id = %(id)s::bigint
  AND job.id = %(id)s::bigint
  AND job.state::text = 'executing'
  AND job.attempted_at = stack.attempted_at
