-- Write where running jobs are, over what was written before, and take away what is old.
--
--   stacks  JSON as text  array of {id, attempted_at, stack}
--   node    text          the node that runs them
--   keep    seconds       after which one is taken away
--
-- Gives: id of each that was written: not of a job that ended meanwhile.
WITH given AS MATERIALIZED (
    SELECT given.*
    FROM pg_catalog.jsonb_to_recordset(%(stacks)s::text::jsonb) AS given (
        id bigint, attempted_at timestamp, stack text
    )
),
gone AS (
    DELETE FROM /* schema */oban_sync_stacks AS old
    WHERE old.taken_at < now() - make_interval(secs => %(keep)s::double precision)
      AND old.job_id <> ALL (ARRAY(SELECT given.id FROM given))
)
INSERT INTO /* schema */oban_sync_stacks AS stack (job_id, attempted_at, node, stack)
SELECT job.id, given.attempted_at, %(node)s::text, given.stack
FROM /* schema */oban_jobs AS job
JOIN given ON given.id = job.id
WHERE job.id = ANY (ARRAY(SELECT given.id FROM given))
  AND job.state::text = 'executing'
  AND job.attempted_at = given.attempted_at
ON CONFLICT (job_id) DO UPDATE
SET attempted_at = excluded.attempted_at,
    node = excluded.node,
    stack = excluded.stack,
    taken_at = now()
RETURNING stack.job_id AS id
