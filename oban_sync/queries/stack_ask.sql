-- Ask the node that runs a job where the job's own code is.
--
--   id       bigint  the job
--   channel  text    where only our nodes listen
--
-- Gives: asked (whether it runs on a node of ours that hears of this).
WITH told AS (
    SELECT pg_notify(%(channel)s::text, '{"stack":' || job.id || '}')
    FROM /* schema */oban_jobs AS job
    JOIN /* schema */oban_sync_producers AS producer ON producer.uuid = job.attempted_by[2]
    JOIN /* schema */oban_sync_nodes AS node ON node.uuid = producer.node_uuid
    WHERE job.id = %(id)s::bigint
      -- As text, so that no index on the state comes into question.
      AND job.state::text = 'executing'
      AND (node.info ->> 'degraded') IS DISTINCT FROM 'true'
)
SELECT count(*) > 0 AS asked
FROM told
