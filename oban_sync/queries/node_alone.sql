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
              THEN node.beat_at > now() - make_interval(secs => node.max_age)
          ELSE EXISTS (
              SELECT FROM pg_catalog.pg_locks AS held
              WHERE held.locktype = 'advisory'
                AND held.objsubid = 1
                AND held.database = (
                    SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()
                )
                AND held.classid::bigint = ((node.lock_key >> 32) & 4294967295)
                AND held.objid::bigint = (node.lock_key & 4294967295)
                AND held.granted
          )
      END
) AS alone
