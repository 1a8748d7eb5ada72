-- The executing jobs, and those that no living node of ours runs.
--
-- Gives: executing, ownerless, seconds (since the oldest of the ownerless was started).
SELECT
    count(*)::integer AS executing,
    count(*) FILTER (WHERE owner.uuid IS NULL)::integer AS ownerless,
    max(pg_catalog.date_part('epoch', timezone('UTC', now()) - job.attempted_at))
        FILTER (WHERE owner.uuid IS NULL) AS seconds
FROM /* schema */oban_jobs AS job
LEFT JOIN (
    SELECT producer.uuid
    FROM /* schema */oban_sync_producers AS producer
    JOIN /* schema */oban_sync_nodes AS node ON node.uuid = producer.node_uuid
    WHERE node.beat_at > pg_catalog.clock_timestamp()
        - pg_catalog.make_interval(secs => node.max_age)
) AS owner ON owner.uuid = job.attempted_by[2]
WHERE job.state = 'executing'
