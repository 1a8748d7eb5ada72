-- The nodes, and how long ago each beat.
--
-- Gives: name, node, seconds (since its beat), lives, leads, queues (text[]), oldest node first.
SELECT
    node.name,
    node.node,
    pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - node.beat_at) AS seconds,
    node.beat_at > pg_catalog.clock_timestamp()
        - pg_catalog.make_interval(secs => node.max_age) AS lives,
    EXISTS (
        SELECT FROM /* schema */oban_sync_leaders AS lease
        WHERE lease.name = node.name
          AND lease.uuid = node.uuid
          AND lease.expires_at > pg_catalog.clock_timestamp()
    ) AS leads,
    ARRAY(
        SELECT producer.queue
        FROM /* schema */oban_sync_producers AS producer
        WHERE producer.node_uuid = node.uuid
        ORDER BY producer.queue
    ) AS queues
FROM /* schema */oban_sync_nodes AS node
ORDER BY node.started_at, node.uuid
