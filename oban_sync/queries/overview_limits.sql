-- The limits of a queue, and how far they are used.
--
--   queue  text  the queue
--
-- Gives: said (JSON as text: the limits, as the node tells of them that started last), different (whether
-- another node tells of others, or of none), running (jobs that run, as producers with limits know),
-- lanes (how many values of what divides the queue have some), busiest (the most of one of these); no
-- row where no live node tells of limits.
WITH held AS MATERIALIZED (
    SELECT (lock.classid::bigint << 32) | lock.objid::bigint AS key
    FROM pg_catalog.pg_locks AS lock
    WHERE lock.locktype = 'advisory'
      AND lock.objsubid = 1
      AND lock.granted
      AND lock.database = (
          SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()
      )
),
producer AS MATERIALIZED (
    SELECT producer.*
    FROM /* schema */oban_sync_producers AS producer
    WHERE producer.queue = %(queue)s::text
),
told AS MATERIALIZED (
    SELECT node.uuid, node.started_at, node.info -> 'limits' -> producer.queue AS said
    FROM producer
    JOIN /* schema */oban_sync_nodes AS node ON node.uuid = producer.node_uuid
    WHERE node.beat_at > now() - make_interval(
        secs => greatest(
            0,
            least(
                CASE
                    WHEN node.lock_key IS NOT NULL
                     AND node.lock_key <> ALL (ARRAY(SELECT held.key FROM held))
                        THEN node.unlocked_max_age
                    ELSE node.max_age
                END,
                86400
            )
        )
    )
),
taken AS MATERIALIZED (
    SELECT lane.lane, count(*) AS jobs
    FROM producer
    CROSS JOIN LATERAL unnest(producer.lanes) AS lane (lane)
    GROUP BY lane.lane
)
SELECT
    told.said::text AS said,
    EXISTS (SELECT FROM told AS other WHERE other.said IS DISTINCT FROM told.said) AS different,
    coalesce((SELECT sum(producer.running) FROM producer), 0)::bigint AS running,
    (SELECT count(*) FROM taken) AS lanes,
    coalesce((SELECT max(taken.jobs) FROM taken), 0) AS busiest
FROM told
WHERE jsonb_typeof(told.said) = 'object'
ORDER BY told.started_at DESC, told.uuid
LIMIT 1
