-- The nodes that take part, and their queues.
--
-- Gives: uuid, name, node, leader, started_at, beat_at, beat_age (seconds since then), queues (JSON as
-- text: array of {queue, limit, paused, uuid}), info (JSON as text), workers (text[] or NULL), oldest
-- node first.
SELECT
    node.uuid,
    node.name,
    node.node,
    EXISTS (
        SELECT FROM /* schema */oban_sync_leaders AS lease
        WHERE lease.name = node.name
          AND lease.uuid = node.uuid
          AND lease.expires_at > clock_timestamp()
    ) AS leader,
    least(greatest(node.started_at, '1970-01-01 00:00Z'), '9000-01-01 00:00Z') AS started_at,
    least(greatest(node.beat_at, '1970-01-01 00:00Z'), '9000-01-01 00:00Z') AS beat_at,
    greatest(
        0,
        date_part(
            'epoch',
            clock_timestamp()
                - least(greatest(node.beat_at, '1970-01-01 00:00Z'), '9000-01-01 00:00Z')
        )
    ) AS beat_age,
    coalesce((
        SELECT jsonb_agg(
            jsonb_build_object(
                'queue', producer.queue,
                'limit', producer.job_limit,
                'paused', producer.paused,
                'uuid', producer.uuid
            )
            ORDER BY producer.queue, producer.started_at
        )
        FROM /* schema */oban_sync_producers AS producer
        WHERE producer.node_uuid = node.uuid
    ), '[]')::text AS queues,
    node.info::text AS info,
    node.workers
FROM /* schema */oban_sync_nodes AS node
ORDER BY node.started_at, node.uuid
