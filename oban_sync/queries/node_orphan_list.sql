-- The jobs that a node left executing.
--
--   uuid  text  the node
--
-- Gives: id, in order.
--
-- The sum keeps the planner off the primary key, along which it would look at every job there is.
SELECT job.id
FROM /* schema */oban_jobs AS job
WHERE job.state = 'executing'
  AND job.attempted_by[2] = ANY (ARRAY(
      SELECT producer.uuid
      FROM /* schema */oban_sync_producers AS producer
      WHERE producer.node_uuid = %(uuid)s::text
  ))
ORDER BY job.id + 0
