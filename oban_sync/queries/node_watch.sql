-- The other nodes, as those see them who judge whether they live.
--
--   uuid  text  the node that looks
--
-- Gives: uuid, node, beats, max_age, unlocked_max_age, locked (whether its session lock is held; NULL
-- where there is none), server (which start of PostgreSQL answers), one row per node; one row with
-- NULLs when there are no others.
WITH held AS MATERIALIZED (
    SELECT (lock.classid::bigint << 32) | lock.objid::bigint AS key
    FROM pg_catalog.pg_locks AS lock
    WHERE lock.locktype = 'advisory'
      AND lock.objsubid = 1
      AND lock.granted
      AND lock.database = (
          SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()
      )
)
SELECT
    node.uuid,
    node.node,
    node.beats,
    node.max_age,
    node.unlocked_max_age,
    CASE
        WHEN node.lock_key IS NOT NULL THEN node.lock_key = ANY (ARRAY(SELECT held.key FROM held))
    END AS locked,
    server.started_at::text AS server
FROM (SELECT pg_catalog.pg_postmaster_start_time() AS started_at) AS server
LEFT JOIN /* schema */oban_sync_nodes AS node ON node.uuid <> %(uuid)s::text
