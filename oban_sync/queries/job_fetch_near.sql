-- Complete the jobs that finished plainly, and take new ones from a queue with lanes by a look at its
-- head alone, while that is enough. Takes the lock of the queue, as job_fetch_limited does.
--
--   ids        bigint[]      jobs that completed with nothing else to write, ascending
--   fences     timestamp[]   when each of them was started, in the same order
--   lock       text          the name of the queue's lock
--   queue      text          the queue
--   demand     jobs          most jobs to take
--   node       text          who takes them ...
--   owner      uuid as text  ... and through which producer
--   turn       bigint        number of the producer's turn; an older one takes nothing
--   forced     boolean       write the number even if nothing changes
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
--   moment     timestamptz or NULL  the time, where it is not to be PostgreSQL's
--   shunned    bigint[]      jobs that could not be taken before
--   peek       boolean       only tell what would be taken
--
-- Gives: as job_fetch_lanes; needed is true where lanes without room filled the head, so that others
-- may wait behind it.
--
-- The first part of job_fetch_lanes, and of the same shape. To set up a statement with all that it may
-- need costs more than this takes.
WITH acked AS (
    UPDATE /* schema */oban_jobs AS job
    SET state = 'completed',
        completed_at = (SELECT timezone('UTC', now()))
    WHERE job.id = ANY (%(ids)s::bigint[])
      AND job.attempted_at
          = (%(fences)s::timestamp[])[pg_catalog.width_bucket(job.id, %(ids)s::bigint[])]
      AND job.attempted_by[2] = %(owner)s::text
      AND job.state::text = 'executing'
    RETURNING job.id
),
entered AS MATERIALIZED (
    SELECT
        state.*,
        finished.jobs AS acked,
        pg_catalog.timezone('UTC', state.moment) AS attempted_at
    FROM (SELECT count(*) AS jobs FROM acked) AS finished
    CROSS JOIN LATERAL /* schema */oban_sync_limit_enter(
        pg_catalog.hashtextextended(
            %(lock)s::text, pg_catalog.hashtextextended(/* schema literal */, 0)
        ),
        %(queue)s::text,
        %(owner)s::text,
        %(turn)s::bigint,
        -- Depends on what finished, and so comes after it.
        CASE WHEN finished.jobs >= 0 THEN %(demand)s::integer END,
        %(most)s::integer,
        cardinality(%(kept)s::bigint[]),
        CASE WHEN %(share)s::integer IS NOT NULL THEN %(kept)s::bigint[] END,
        %(rate)s::text,
        CASE WHEN NOT %(by_lane)s::boolean THEN %(algorithm)s::text END,
        %(allowed)s::integer,
        %(period)s::double precision,
        %(moment)s::timestamptz
    ) AS state
),
whole AS MATERIALIZED (
    SELECT
        entered.jobs AS goal,
        CASE WHEN entered.jobs > 0 THEN 3 * entered.jobs / 2 + 20 ELSE 0 END AS breadth,
        coalesce(entered.weight, 2147483647) AS rate_room,
        entered.again_in,
        entered.busy_lanes,
        entered.busy_jobs
    FROM entered
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
                WHEN (SELECT whole.busy_lanes FROM whole)[
                    pg_catalog.width_bucket(head.lane, (SELECT whole.busy_lanes FROM whole))
                ] = head.lane THEN (SELECT whole.busy_jobs FROM whole)[
                    pg_catalog.width_bucket(head.lane, (SELECT whole.busy_lanes FROM whole))
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
                    (SELECT entered.moment FROM entered)
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
        attempted_at = (SELECT entered.attempted_at FROM entered),
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
charged AS MATERIALIZED (
    SELECT /* schema */oban_sync_rate_charge(
        %(rate)s::text,
        bill.lane,
        %(algorithm)s::text,
        %(allowed)s::integer,
        %(period)s::double precision,
        bill.weight,
        (SELECT entered.moment FROM entered)
    ) AS done
    FROM (
        SELECT
            chosen.lane,
            sum(chosen.weight)::integer AS weight
        FROM chosen
        WHERE %(algorithm)s::text IS NOT NULL
          AND %(by_lane)s::boolean
          AND NOT %(peek)s::boolean
          AND chosen.id = ANY (ARRAY(SELECT held.id FROM held))
        GROUP BY chosen.lane
        ORDER BY chosen.lane
    ) AS bill
)
SELECT
    taken.*,
    told.again_in,
    %(cursor)s::bigint AS cursor,
    %(spent)s::integer AS spent,
    told.picked,
    told.needed,
    told.acked,
    told.others,
    NULL::integer AS asked,
    told.charged,
    told.written
FROM (
    SELECT
        CASE
            WHEN NOT entered.known THEN 0.5::double precision
            WHEN chosen.jobs < whole.goal OR held.jobs < chosen.jobs THEN least(
                CASE WHEN held.jobs < chosen.jobs THEN 0.2 END,
                (SELECT min(near.again_in) FROM near WHERE near.too_soon),
                CASE WHEN (SELECT count(*) FROM ordered) > chosen.jobs THEN whole.again_in END
            )
        END AS again_in,
        CASE
            WHEN %(peek)s::boolean OR (SELECT count(*) FROM taken) < chosen.jobs
                THEN ARRAY(SELECT chosen.id FROM chosen)
            ELSE '{}'
        END AS picked,
        coalesce(
            whole.goal > 0
                AND (SELECT count(*) FROM head) >= whole.breadth
                AND (SELECT count(*) FROM ordered WHERE NOT ordered.over) < whole.goal,
            false
        ) AS needed,
        entered.acked,
        entered.others,
        (SELECT count(*) FROM charged) AS charged,
        CASE
            WHEN entered.known AND NOT %(peek)s::boolean THEN /* schema */oban_sync_limit_leave(
                %(owner)s::text,
                %(turn)s::bigint,
                cardinality(%(kept)s::bigint[]) + (SELECT count(*) FROM taken)::integer,
                %(kept)s::bigint[] || ARRAY(SELECT taken.lane FROM taken),
                %(forced)s::boolean,
                %(rate)s::text,
                %(algorithm)s::text,
                %(allowed)s::integer,
                %(period)s::double precision,
                CASE
                    WHEN %(algorithm)s::text IS NOT NULL AND NOT %(by_lane)s::boolean THEN (
                        SELECT sum(chosen.weight)::integer
                        FROM chosen
                        WHERE chosen.id = ANY (ARRAY(SELECT held.id FROM held))
                    )
                END,
                entered.moment
            )
        END AS written
    FROM (SELECT count(*) AS jobs FROM chosen) AS chosen
    CROSS JOIN (SELECT count(*) AS jobs FROM held) AS held
    CROSS JOIN whole
    CROSS JOIN entered
    -- Stays a subselect, and so is called once.
    OFFSET 0
) AS told
LEFT JOIN taken ON true
