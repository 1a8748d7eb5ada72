-- When the cluster of an instance started, if that was just now.
--
--   name    text     the Oban instance
--   within  seconds  how long ago at the most
--
-- Gives: founded_at, or NULL: the start of the first node that found itself alone.
SELECT min(node.started_at) AS founded_at
FROM /* schema */oban_sync_nodes AS node
WHERE node.name = %(name)s::text
  AND node.founder
  AND node.started_at > now() - make_interval(secs => %(within)s::double precision)
