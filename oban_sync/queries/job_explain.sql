-- All that tells why a job does not run, as it stands at this moment.
--
--   id    bigint  the job
--   most  jobs    most jobs before it that are counted
--   seen  jobs    most running jobs of its queue that are looked at
--   told  ids     most of these that are named
--
-- Gives: facts (JSON as text), one row; none where there is no such job.
--
-- What is wanted of the job's row comes from subselects, not from joins: each is known before the
-- jobs are looked for, so that an index leads to those and no more of them are read than asked for.
-- Without an order, so that the planner is not led to the primary key. What holds a queue's limits
-- stands in the rows of nodes, as they say it, and is asked of the same functions that jobs are taken
-- by; its lanes are told apart as by lane_worker, lane_args and lane_meta.
WITH RECURSIVE job AS MATERIALIZED (
    SELECT job.*
    FROM /* schema */oban_jobs AS job
    WHERE job.id = %(id)s::bigint
),
held AS MATERIALIZED (
    SELECT (lock.classid::bigint << 32) | lock.objid::bigint AS key
    FROM pg_catalog.pg_locks AS lock
    WHERE lock.locktype = 'advisory'
      AND lock.objsubid = 1
      AND lock.granted
      AND lock.database = (
          SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()
      )
),
seen AS MATERIALIZED (
    SELECT
        node.*,
        CASE
            WHEN node.lock_key IS NOT NULL
                THEN node.lock_key = ANY (ARRAY(SELECT held.key FROM held))
        END AS locked,
        greatest(
            0,
            date_part(
                'epoch',
                now() - least(greatest(node.beat_at, '1970-01-01 00:00Z'), '9000-01-01 00:00Z')
            )
        ) AS beat_age
    FROM /* schema */oban_sync_nodes AS node
),
node AS MATERIALIZED (
    SELECT seen.*, seen.beat_age <= aged.patience AS lives, aged.patience
    FROM seen
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN seen.locked IS FALSE THEN seen.unlocked_max_age ELSE seen.max_age
        END AS patience
    ) AS aged
),
producer AS MATERIALIZED (
    SELECT producer.*
    FROM /* schema */oban_sync_producers AS producer
    WHERE producer.queue = (SELECT job.queue FROM job)
),
options AS MATERIALIZED (
    SELECT node.info -> 'limits' -> producer.queue AS said
    FROM producer
    JOIN node ON node.uuid = producer.node_uuid
    WHERE node.lives
      AND jsonb_typeof(node.info -> 'limits' -> producer.queue) = 'object'
    -- Of several deployments the last one counts.
    ORDER BY node.started_at DESC, node.uuid
    LIMIT 1
),
folded (step, lane) AS (
    SELECT 0, 0::bigint
    UNION ALL
    SELECT
        folded.step + 1,
        CASE field.said ->> 0
            WHEN 'worker' THEN pg_catalog.hashtextextended(job.worker, folded.lane)
            WHEN 'args' THEN pg_catalog.jsonb_hash_extended(
                coalesce(job.args -> (field.said ->> 1), 'null'), folded.lane
            )
            ELSE pg_catalog.jsonb_hash_extended(
                coalesce(job.meta -> (field.said ->> 1), 'null'), folded.lane
            )
        END
    FROM folded
    CROSS JOIN job
    CROSS JOIN options
    CROSS JOIN LATERAL (SELECT options.said -> 'by' -> folded.step AS said) AS field
    WHERE field.said IS NOT NULL
),
lane AS MATERIALIZED (
    SELECT folded.lane
    FROM folded
    ORDER BY folded.step DESC
    LIMIT 1
),
rate AS MATERIALIZED (
    SELECT
        /* schema */oban_sync_rate_room(
            'queue:' || job.queue,
            CASE
                WHEN options.said -> 'rate' ->> 'partitioned' = 'true' THEN lane.lane ELSE 0
            END,
            options.said -> 'rate' ->> 'algorithm',
            (options.said -> 'rate' ->> 'allowed')::integer,
            (options.said -> 'rate' ->> 'period')::double precision,
            now()
        ) AS room,
        /* schema */oban_sync_weight(
            job.meta, (options.said -> 'rate' ->> 'allowed')::integer
        ) AS weight
    FROM job
    CROSS JOIN options
    CROSS JOIN lane
    WHERE jsonb_typeof(options.said -> 'rate') = 'object'
),
run AS MATERIALIZED (
    SELECT
        run.id,
        run.attempted_by[2] AS owner,
        NOT EXISTS (
            SELECT
            FROM options
            CROSS JOIN job
            CROSS JOIN LATERAL jsonb_array_elements(
                CASE
                    WHEN jsonb_typeof(options.said -> 'by') = 'array' THEN options.said -> 'by'
                    ELSE '[]'
                END
            ) AS field (said)
            WHERE CASE field.said ->> 0
                WHEN 'worker' THEN run.worker <> job.worker
                WHEN 'args' THEN coalesce(run.args -> (field.said ->> 1), 'null')
                    <> coalesce(job.args -> (field.said ->> 1), 'null')
                ELSE coalesce(run.meta -> (field.said ->> 1), 'null')
                    <> coalesce(job.meta -> (field.said ->> 1), 'null')
            END
        ) AS alike
    FROM /* schema */oban_jobs AS run
    WHERE run.state = 'executing'
      AND run.queue = (SELECT job.queue FROM job)
    LIMIT %(seen)s::integer
)
SELECT jsonb_build_object(
    'now', to_json(timezone('UTC', now())),
    'job', jsonb_build_object(
        'id', job.id,
        'state', job.state::text,
        'queue', job.queue,
        'worker', job.worker,
        'priority', job.priority,
        'attempt', job.attempt,
        'max_attempts', job.max_attempts,
        'inserted_at', to_json(job.inserted_at),
        'scheduled_at', to_json(job.scheduled_at),
        'attempted_at', to_json(job.attempted_at),
        'completed_at', to_json(job.completed_at),
        'cancelled_at', to_json(job.cancelled_at),
        'discarded_at', to_json(job.discarded_at),
        'node', job.attempted_by[1],
        'owner', job.attempted_by[2],
        'error', left(to_jsonb(job.errors) -> -1 ->> 'error', 20000),
        'error_at', to_jsonb(job.errors) -> -1 ->> 'at',
        'deadline_at', left(job.meta -> 'oban_sync' ->> 'deadline_at', 100),
        'deaths', CASE
            WHEN jsonb_typeof(job.meta -> 'rescued') = 'number'
                THEN greatest(0, least(1000, (job.meta ->> 'rescued')::numeric))::integer
            ELSE 0
        END,
        'unwanted', /* schema */oban_sync_unwanted(job.meta, job.attempted_at),
        'cancel_requested_at', left(job.meta ->> 'cancel_requested_at', 100),
        'cancel_requested_by', left(job.meta ->> 'cancel_requested_by', 200),
        'workflow', left(job.meta ->> 'workflow_id', 200),
        'deps', CASE
            WHEN jsonb_typeof(job.meta -> 'deps') = 'array' THEN jsonb_path_query_array(
                job.meta -> 'deps', '$[0 to 19]'
            )
        END
    ),
    'key_held_by', to_jsonb(ARRAY(
        SELECT other.id
        FROM /* schema */oban_jobs AS other
        WHERE other.meta ? 'uniq_key'
          AND /* schema */oban_sync_watched(other.state, other.meta)
          AND other.meta ->> 'uniq_key' = (SELECT job.meta ->> 'uniq_key' FROM job)
          AND other.id <> %(id)s::bigint
        LIMIT %(told)s::integer
    )),
    'before', CASE
        WHEN job.state::text = 'available' THEN (
            SELECT count(*)
            FROM (
                SELECT
                FROM /* schema */oban_jobs AS other
                WHERE other.state = 'available'
                  AND other.queue = (SELECT job.queue FROM job)
                  AND ROW(other.priority, other.scheduled_at, other.id) < ROW(
                      (SELECT job.priority FROM job),
                      (SELECT job.scheduled_at FROM job),
                      (SELECT job.id FROM job)
                  )
                  AND other.attempt < other.max_attempts
                LIMIT %(most)s::integer
            ) AS counted
        )
    END,
    'running', jsonb_build_object(
        'jobs', (SELECT count(*) FROM run),
        'alike', (SELECT count(*) FROM run WHERE run.alike),
        'strangers', (
            SELECT count(*)
            FROM run
            WHERE run.owner IS NULL
               OR NOT EXISTS (SELECT FROM producer WHERE producer.uuid = run.owner)
        ),
        'ids', to_jsonb(ARRAY(
            SELECT run.id FROM run ORDER BY run.id LIMIT %(told)s::integer
        )),
        'alike_ids', to_jsonb(ARRAY(
            SELECT run.id FROM run WHERE run.alike ORDER BY run.id LIMIT %(told)s::integer
        ))
    ),
    'nodes', coalesce((
        SELECT jsonb_agg(
            jsonb_build_object(
                'uuid', node.uuid,
                'name', node.name,
                'node', node.node,
                'lives', node.lives,
                'beat_age', node.beat_age,
                'producer', producer.uuid,
                'limit', producer.job_limit,
                'paused', producer.paused,
                'busy', (SELECT count(*) FROM run WHERE run.owner = producer.uuid),
                'knows', CASE
                    WHEN (SELECT job.worker FROM job) = ANY (node.workers) THEN true
                    -- What its children import by themselves, it does not know.
                    WHEN node.info -> 'setups' ? producer.queue THEN NULL
                    WHEN node.workers IS NOT NULL THEN false
                END,
                'stops', node.info -> 'stopping' ? producer.uuid,
                'beat', node.info -> 'beat',
                'degraded', node.info -> 'degraded',
                'look', node.info -> 'look'
            )
            ORDER BY node.started_at, node.uuid, producer.started_at
        )
        FROM producer
        JOIN node ON node.uuid = producer.node_uuid
    ), '[]'),
    'workers', to_jsonb(ARRAY(
        SELECT DISTINCT known.worker
        FROM node
        CROSS JOIN LATERAL unnest(node.workers) AS known (worker)
        WHERE node.lives
        LIMIT 1000
    )),
    'alive', (SELECT count(*) FROM node WHERE node.lives),
    'queues', to_jsonb(ARRAY(
        SELECT DISTINCT other.queue
        FROM /* schema */oban_sync_producers AS other
        WHERE other.node_uuid = ANY (ARRAY(SELECT node.uuid FROM node WHERE node.lives))
        LIMIT 1000
    )),
    'owner', (
        SELECT jsonb_build_object(
            'uuid', node.uuid,
            'name', node.name,
            'node', node.node,
            'lives', node.lives,
            'locked', node.locked,
            'beat_age', node.beat_age,
            'beat', node.info -> 'beat',
            'patience', node.patience
        )
        FROM /* schema */oban_sync_producers AS own
        JOIN node ON node.uuid = own.node_uuid
        WHERE own.uuid = (SELECT job.attempted_by[2] FROM job)
    ),
    'rescue_after', (
        SELECT min((node.info ->> 'rescue_after')::double precision)
        FROM node
        WHERE node.lives AND jsonb_typeof(node.info -> 'rescue_after') = 'number'
    ),
    'leaders', coalesce((
        SELECT jsonb_agg(
            jsonb_build_object('name', lease.name, 'node', lease.node) ORDER BY lease.name
        )
        FROM /* schema */oban_sync_leaders AS lease
        WHERE lease.expires_at > now()
    ), '[]'),
    'controls', coalesce((
        SELECT jsonb_agg(
            to_jsonb(control) || jsonb_build_object(
                'ended', coalesce(control.until <= now(), false)
            )
            ORDER BY control.seq
        )
        FROM /* schema */oban_sync_controls AS control
        WHERE control.queue IN ('*', (SELECT job.queue FROM job))
    ), '[]'),
    'limits', (
        SELECT options.said || jsonb_build_object(
            'running', (SELECT coalesce(sum(producer.running), 0) FROM producer),
            'in_lane', (
                SELECT count(*)
                FROM producer
                CROSS JOIN LATERAL unnest(producer.lanes) AS taken (lane)
                WHERE taken.lane = (SELECT lane.lane FROM lane)
            ),
            'room', (SELECT rate.room[1] FROM rate),
            'again_in', (SELECT rate.room[2] FROM rate),
            'weight', (SELECT rate.weight FROM rate)
        )
        FROM options
    )
)::text AS facts
FROM job
