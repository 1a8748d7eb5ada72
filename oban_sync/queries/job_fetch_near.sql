-- Take jobs from a queue with lanes by a look at its head alone, while that is enough. Under the lock
-- of the queue.
--
--   queue      text          the queue
--   demand     jobs          most jobs to take
--   node       text          who takes them ...
--   owner      uuid as text  ... and through which producer
--   turn       bigint        number of the producer's turn; an older one takes nothing
--   kept       bigint[]      the lane of each job that the producer runs and goes on with
--   most       jobs or NULL  most jobs at once over all nodes
--   share      jobs or NULL  most jobs of a lane at once over all nodes
--   burst      boolean       whether a lane may have more while slots would stay empty
--   rate       text          the name that starts are counted under ...
--   algorithm  text or NULL  ... and how, if at all ...
--   allowed    weight        ... with so many ...
--   period     seconds       ... in this time ...
--   by_lane    boolean       ... for each lane by itself
--   cursor     bigint        not used here: where the next turn goes on in the circle of lanes ...
--   spent      jobs          ... and how much was used of that lane's turn
--   shunned    bigint[]      jobs that could not be taken before
--   peek       boolean       only tell what would be taken
--
-- Gives: as job_fetch_lanes; needed is true where lanes without room filled the head, so that others
-- may wait behind it.
--
-- The first part of job_fetch_lanes, and of the same shape. To set up a statement with all that it may
-- need costs more than this takes.
WITH me AS MATERIALIZED (
    SELECT producer.uuid
    FROM /* schema */oban_sync_producers AS producer
    WHERE producer.uuid = %(owner)s::text
      AND producer.turn < %(turn)s::bigint
    FOR NO KEY UPDATE SKIP LOCKED
),
others AS MATERIALIZED (
    SELECT other.running, other.lanes
    FROM /* schema */oban_sync_producers AS other
    WHERE other.queue = %(queue)s::text
      AND other.uuid <> %(owner)s::text
),
busy AS MATERIALIZED (
    SELECT
        array_agg(held.lane ORDER BY held.lane) AS lanes,
        array_agg(held.jobs ORDER BY held.lane) AS jobs
    FROM (
        SELECT run.lane, count(*)::integer AS jobs
        FROM (
            SELECT pg_catalog.unnest(%(kept)s::bigint[]) AS lane
            UNION ALL
            SELECT pg_catalog.unnest(others.lanes) FROM others
        ) AS run
        WHERE %(share)s::integer IS NOT NULL
        GROUP BY run.lane
    ) AS held
),
rate AS MATERIALIZED (
    SELECT CASE
        WHEN %(algorithm)s::text IS NOT NULL AND NOT %(by_lane)s::boolean
            THEN /* schema */oban_sync_rate_room(
                %(rate)s::text,
                0,
                %(algorithm)s::text,
                %(allowed)s::integer,
                %(period)s::double precision,
                statement_timestamp()
            )
    END AS room
),
whole AS MATERIALIZED (
    SELECT
        size.goal,
        CASE WHEN size.goal > 0 THEN 3 * size.goal / 2 + 20 ELSE 0 END AS breadth,
        coalesce(rate.room[1], 2147483647) AS rate_room,
        rate.room[2] AS again_in
    FROM me
    CROSS JOIN LATERAL (
        SELECT greatest(0, least(
            %(demand)s::integer,
            %(most)s::integer - cardinality(%(kept)s::bigint[])
                - (SELECT coalesce(sum(others.running), 0)::integer FROM others)
        )) AS goal
    ) AS size
    CROSS JOIN rate
),
head AS MATERIALIZED (
    SELECT
        job.id,
        job.priority,
        job.scheduled_at,
        /* lane */ AS lane,
        /* schema */oban_sync_weight(job.meta, %(allowed)s::integer) AS weight
    FROM /* schema */oban_jobs AS job
    WHERE job.state = 'available'
      AND job.queue = %(queue)s::text
      AND job.attempt < job.max_attempts
      AND job.id <> ALL (%(shunned)s::bigint[])
    ORDER BY job.priority, job.scheduled_at, job.id
    LIMIT coalesce((SELECT whole.breadth FROM whole), 0)
),
near AS MATERIALIZED (
    SELECT
        ranked.id,
        ranked.priority,
        ranked.scheduled_at,
        ranked.lane,
        ranked.weight,
        ranked.rank > ranked.share_room AS over,
        ranked.total > coalesce(
            max(own.room[1]) OVER (PARTITION BY ranked.lane), 2147483647
        ) AS too_soon,
        max(own.room[2]) OVER (PARTITION BY ranked.lane) AS again_in
    FROM (
        SELECT
            head.*,
            row_number() OVER in_lane AS rank,
            sum(head.weight) OVER in_lane AS total,
            coalesce(%(share)s::integer, 2147483647) - CASE
                WHEN (SELECT busy.lanes FROM busy)[
                    pg_catalog.width_bucket(head.lane, (SELECT busy.lanes FROM busy))
                ] = head.lane THEN (SELECT busy.jobs FROM busy)[
                    pg_catalog.width_bucket(head.lane, (SELECT busy.lanes FROM busy))
                ]
                ELSE 0
            END AS share_room
        FROM head
        WINDOW in_lane AS (
            PARTITION BY head.lane ORDER BY head.priority, head.scheduled_at, head.id
        )
    ) AS ranked
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN %(algorithm)s::text IS NOT NULL AND %(by_lane)s::boolean AND ranked.rank = 1
                THEN /* schema */oban_sync_rate_room(
                    %(rate)s::text,
                    ranked.lane,
                    %(algorithm)s::text,
                    %(allowed)s::integer,
                    %(period)s::double precision,
                    statement_timestamp()
                )
        END AS room
        -- Stays a subselect, and so is called once.
        OFFSET 0
    ) AS own
),
ordered AS MATERIALIZED (
    SELECT
        near.id,
        near.lane,
        near.weight,
        near.over,
        row_number() OVER in_turn AS position,
        sum(near.weight) OVER in_turn AS sum
    FROM near
    WHERE (NOT near.over OR %(burst)s::boolean)
      AND NOT near.too_soon
    WINDOW in_turn AS (ORDER BY near.over, near.priority, near.scheduled_at, near.id)
),
chosen AS MATERIALIZED (
    SELECT ordered.id, ordered.lane, ordered.weight
    FROM ordered
    WHERE ordered.position <= (SELECT whole.goal FROM whole)
      AND ordered.sum <= (SELECT whole.rate_room FROM whole)
),
held AS MATERIALIZED (
    SELECT job.id
    FROM /* schema */oban_jobs AS job
    WHERE job.id = ANY (ARRAY(SELECT chosen.id FROM chosen))
      AND job.state::text = 'available'
      AND job.queue || '' = %(queue)s::text
    FOR UPDATE SKIP LOCKED
),
taken AS (
    UPDATE /* schema */oban_jobs AS job
    SET state = 'executing',
        attempt = job.attempt + 1,
        attempted_at = (SELECT timezone('UTC', statement_timestamp())),
        attempted_by = (SELECT ARRAY[%(node)s::text, %(owner)s::text])
    WHERE job.id = ANY (ARRAY(SELECT held.id FROM held WHERE NOT %(peek)s::boolean))
    RETURNING
        job.priority,
        job.scheduled_at,
        job.id,
        job.worker,
        job.args::text,
        coalesce(job.meta, '{}')::text AS meta,
        pg_catalog.to_jsonb(job.errors)::text AS errors,
        nullif(job.tags, '{}') AS tags,
        job.attempt,
        job.max_attempts,
        job.inserted_at,
        job.attempted_at,
        /* lane */ AS lane
),
reported AS (
    UPDATE /* schema */oban_sync_producers AS producer
    SET turn = %(turn)s::bigint,
        running = cardinality(%(kept)s::bigint[]) + (SELECT count(*) FROM taken)::integer,
        lanes = %(kept)s::bigint[] || ARRAY(SELECT taken.lane FROM taken)
    WHERE producer.uuid = (SELECT me.uuid FROM me)
      AND NOT %(peek)s::boolean
),
charged AS MATERIALIZED (
    SELECT /* schema */oban_sync_rate_charge(
        %(rate)s::text,
        bill.lane,
        %(algorithm)s::text,
        %(allowed)s::integer,
        %(period)s::double precision,
        bill.weight,
        statement_timestamp()
    ) AS done
    FROM (
        SELECT
            CASE WHEN %(by_lane)s::boolean THEN chosen.lane ELSE 0 END AS lane,
            sum(chosen.weight)::integer AS weight
        FROM chosen
        WHERE %(algorithm)s::text IS NOT NULL
          AND NOT %(peek)s::boolean
          AND chosen.id = ANY (ARRAY(SELECT held.id FROM held))
        GROUP BY 1
        ORDER BY 1
    ) AS bill
)
SELECT
    taken.*,
    told.again_in,
    %(cursor)s::bigint AS cursor,
    %(spent)s::integer AS spent,
    told.picked,
    told.needed,
    told.charged
FROM (
    SELECT
        CASE
            WHEN whole.goal IS NULL THEN 0.5::double precision
            WHEN chosen.jobs < whole.goal OR held.jobs < chosen.jobs THEN least(
                CASE WHEN held.jobs < chosen.jobs THEN 0.2 END,
                (SELECT min(near.again_in) FROM near WHERE near.too_soon),
                CASE WHEN (SELECT count(*) FROM ordered) > chosen.jobs THEN whole.again_in END
            )
        END AS again_in,
        ARRAY(SELECT chosen.id FROM chosen) AS picked,
        coalesce(
            whole.goal > 0
                AND (SELECT count(*) FROM head) >= whole.breadth
                AND (SELECT count(*) FROM ordered WHERE NOT ordered.over) < whole.goal,
            false
        ) AS needed,
        (SELECT count(*) FROM charged) AS charged
    FROM (SELECT count(*) AS jobs FROM chosen) AS chosen
    CROSS JOIN (SELECT count(*) AS jobs FROM held) AS held
    LEFT JOIN whole ON true
) AS told
LEFT JOIN taken ON true
