-- The limits of a queue, and how far they are used.
--
--   queue  text  the queue
--
-- Gives: said (JSON as text: the limits, as the node tells of them that started last), different (whether
-- another node tells of others), running (jobs that run, as producers with limits know), lanes (how many
-- values of what divides the queue have some), busiest (the most of one of these); no row where no live
-- node tells of limits.
WITH told AS MATERIALIZED (
    SELECT node.uuid, node.started_at, node.info -> 'limits' -> producer.queue AS said
    FROM /* schema */oban_sync_producers AS producer
    JOIN /* schema */oban_sync_nodes AS node ON node.uuid = producer.node_uuid
    WHERE producer.queue = %(queue)s::text
      AND node.beat_at > now() - make_interval(secs => least(node.max_age, 86400))
      AND jsonb_typeof(node.info -> 'limits' -> producer.queue) = 'object'
),
taken AS MATERIALIZED (
    SELECT lane.lane, count(*) AS jobs
    FROM /* schema */oban_sync_producers AS producer
    CROSS JOIN LATERAL unnest(producer.lanes) AS lane (lane)
    WHERE producer.queue = %(queue)s::text
    GROUP BY lane.lane
)
SELECT
    told.said::text AS said,
    (SELECT count(DISTINCT other.said) > 1 FROM told AS other) AS different,
    coalesce((
        SELECT sum(producer.running)
        FROM /* schema */oban_sync_producers AS producer
        WHERE producer.queue = %(queue)s::text
    ), 0)::integer AS running,
    (SELECT count(*) FROM taken)::integer AS lanes,
    coalesce((SELECT max(taken.jobs) FROM taken), 0)::integer AS busiest
FROM told
ORDER BY told.started_at DESC, told.uuid
LIMIT 1
