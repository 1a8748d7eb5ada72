-- Whether a node is the only one of its instance that lives.
--
--   uuid  text  the node
--   name  text  its Oban instance
--
-- Gives: alone.
--
-- A row whose session lock is free belongs to a process that died; one without a lock counts for as
-- long as its own max_age.
SELECT NOT EXISTS (
    SELECT FROM /* schema */oban_sync_nodes AS node
    WHERE node.name = %(name)s::text
      AND node.uuid <> %(uuid)s::text
      AND CASE
          WHEN node.lock_key IS NULL
              THEN node.beat_at > now() - make_interval(secs => least(node.max_age, 1e9))
          ELSE node.lock_key = ANY (ARRAY(
              SELECT (lock.classid::bigint << 32) | lock.objid::bigint
              FROM pg_catalog.pg_locks AS lock
              WHERE lock.locktype = 'advisory'
                AND lock.objsubid = 1
                AND lock.granted
                AND lock.database = (
                    SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()
                )
          ))
      END
) AS alone
