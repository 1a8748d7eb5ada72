-- Complete the jobs that finished plainly, and take new ones from a queue with lanes: what a partition,
-- or the key of fair share, tells apart. Takes the lock of the queue, as job_fetch_limited does.
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
--   fair       boolean       whether lanes take turns
--   start      bigint        lanes after this one come first
--   cursor     bigint        the lane whose turn was not over ...
--   spent      jobs          ... and how much of it was used
--   weighted   bigint[]      lanes that get more than one job in their turn, ascending ...
--   weights    bigint[]      ... and how many, in the same order
--   moment     timestamptz or NULL  the time, where it is not to be PostgreSQL's
--   shunned    bigint[]      jobs that could not be taken before
--   peek       boolean       only tell what would be taken
--
-- Gives: the taken jobs' columns, lane, again_in (seconds after which there is room for more, where that
-- is known), cursor and spent (where the next turn goes on), picked and acked and others (as
-- job_fetch_limited), needed (whether the head of the queue was not enough), asked (NULL).
-- One row without a job when none was taken. Unordered.
--
-- Without fair share the head of the queue is looked at first, and what fits is taken in order. Where
-- lanes without room fill it, and with fair share always, lanes are visited in a circle: a lane costs a
-- look into the index, whatever waits in it. Without the index, the available jobs are read instead, a
-- million at the most.
--
-- Nothing is joined that could be large: a lane's place in a sorted array is found by width_bucket.
WITH RECURSIVE acked AS (
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
        coalesce((
            SELECT entry.indisvalid
            FROM pg_catalog.pg_index AS entry
            WHERE entry.indexrelid = pg_catalog.to_regclass(/* index literal */)
        ), false) AS indexed,
        CASE
            WHEN %(fair)s::boolean OR entered.jobs = 0 THEN 0
            ELSE 3 * entered.jobs / 2 + 20
        END AS breadth,
        entered.weight AS rate_room,
        entered.again_in
    FROM entered
    WHERE entered.known
),
busy AS MATERIALIZED (
    SELECT entered.busy_lanes AS lanes, entered.busy_jobs AS jobs
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
        ranked.*,
        max(own.room[1]) OVER (PARTITION BY ranked.lane) AS rate_room,
        max(own.room[2]) OVER (PARTITION BY ranked.lane) AS again_in,
        0 AS place
    FROM (
        SELECT
            head.*,
            row_number() OVER in_lane AS rank,
            sum(head.weight) OVER in_lane AS total,
            %(share)s::integer - CASE
                WHEN busy.lanes[pg_catalog.width_bucket(head.lane, busy.lanes)] = head.lane
                    THEN busy.jobs[pg_catalog.width_bucket(head.lane, busy.lanes)]
                ELSE 0
            END AS share_room
        FROM head
        CROSS JOIN busy
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
far AS MATERIALIZED (
    SELECT whole.goal > 0 AND (%(fair)s::boolean OR (
        (SELECT count(*) FROM head) >= whole.breadth
        AND (
            SELECT count(*)
            FROM near
            WHERE near.rank <= coalesce(near.share_room, 2147483647)
              AND near.total <= coalesce(near.rate_room, 2147483647)
        ) < whole.goal
    )) AS needed
    FROM whole
),
walk (lane, wrapped, steps, found, is_open, share_room, rate_room, again_in, weight) AS (
    SELECT
        %(start)s::bigint,
        false,
        0,
        0,
        false,
        NULL::integer,
        NULL::double precision,
        NULL::double precision,
        1
    FROM whole
    WHERE whole.indexed
      AND (SELECT far.needed FROM far)
    UNION ALL
    SELECT
        step.lane,
        step.wrapped,
        walk.steps + 1,
        walk.found + entry.is_open::integer,
        entry.is_open,
        entry.share_room,
        own.room[1],
        own.room[2],
        step.weight
    FROM walk
    CROSS JOIN LATERAL (
        (
            SELECT
                /* lane */ AS lane,
                walk.wrapped,
                /* schema */oban_sync_weight(job.meta, %(allowed)s::integer) AS weight
            FROM /* schema */oban_jobs AS job
            WHERE job.state = 'available'
              AND job.queue = /* queue */
              AND job.attempt < job.max_attempts
              AND job.id <> ALL (%(shunned)s::bigint[])
              AND /* lane */ > walk.lane
            ORDER BY /* lane */, job.priority, job.scheduled_at, job.id
            LIMIT 1
        )
        UNION ALL
        (
            SELECT
                /* lane */ AS lane,
                true,
                /* schema */oban_sync_weight(job.meta, %(allowed)s::integer) AS weight
            FROM /* schema */oban_jobs AS job
            WHERE job.state = 'available'
              AND job.queue = /* queue */
              AND job.attempt < job.max_attempts
              AND job.id <> ALL (%(shunned)s::bigint[])
              AND /* lane */ <= %(start)s::bigint
              AND NOT walk.wrapped
            ORDER BY /* lane */, job.priority, job.scheduled_at, job.id
            LIMIT 1
        )
        LIMIT 1
    ) AS step
    CROSS JOIN busy
    CROSS JOIN LATERAL (
        SELECT CASE
            WHEN %(algorithm)s::text IS NOT NULL AND %(by_lane)s::boolean
                THEN /* schema */oban_sync_rate_room(
                    %(rate)s::text,
                    step.lane,
                    %(algorithm)s::text,
                    %(allowed)s::integer,
                    %(period)s::double precision,
                    (SELECT entered.moment FROM entered)
                )
        END AS room
        OFFSET 0
    ) AS own
    CROSS JOIN LATERAL (
        SELECT
            share.room AS share_room,
            (%(burst)s::boolean OR coalesce(share.room, 1) > 0)
                AND coalesce(own.room[1], step.weight) >= step.weight AS is_open
        FROM (
            SELECT %(share)s::integer - CASE
                WHEN busy.lanes[pg_catalog.width_bucket(step.lane, busy.lanes)] = step.lane
                    THEN busy.jobs[pg_catalog.width_bucket(step.lane, busy.lanes)]
                ELSE 0
            END AS room
        ) AS share
    ) AS entry
    WHERE walk.found < (SELECT whole.goal FROM whole)
      AND walk.steps < 500
      AND (NOT step.wrapped OR step.lane <= %(start)s::bigint)
),
reached AS MATERIALIZED (
    SELECT
        max(walk.steps) AS steps,
        max(walk.found) AS found,
        2 * (SELECT whole.goal FROM whole) / greatest(1, max(walk.found)) + 1 AS most,
        (array_agg(walk.lane ORDER BY walk.steps DESC))[1] AS lane
    FROM walk
),
visited AS MATERIALIZED (
    SELECT
        job.id,
        job.priority,
        job.scheduled_at,
        walk.lane,
        job.weight,
        row_number() OVER in_lane AS rank,
        sum(job.weight) OVER in_lane AS total,
        walk.share_room,
        walk.rate_room,
        walk.again_in,
        walk.steps AS place
    FROM walk
    CROSS JOIN LATERAL (
        SELECT
            job.id,
            job.priority,
            job.scheduled_at,
            /* schema */oban_sync_weight(job.meta, %(allowed)s::integer) AS weight
        FROM /* schema */oban_jobs AS job
        WHERE job.state = 'available'
          AND job.queue = /* queue */
          AND job.attempt < job.max_attempts
          AND job.id <> ALL (%(shunned)s::bigint[])
          AND /* lane */ = walk.lane
        ORDER BY /* lane */, job.priority, job.scheduled_at, job.id
        -- Every lane that was found has a job: beyond its first turn no other gets more than the rest.
        -- Nor is more read than a few rounds: where lanes are uneven, the next turn follows at once.
        LIMIT least(
            (SELECT whole.goal FROM whole),
            greatest(
                least(
                    (SELECT whole.goal FROM whole) - (SELECT reached.found FROM reached) + 1,
                    (SELECT reached.most FROM reached)
                ),
                CASE
                    WHEN (%(weighted)s::bigint[])[
                        pg_catalog.width_bucket(walk.lane, %(weighted)s::bigint[])
                    ] = walk.lane THEN (%(weights)s::bigint[])[
                        pg_catalog.width_bucket(walk.lane, %(weighted)s::bigint[])
                    ]
                END
            ),
            CASE WHEN NOT %(burst)s::boolean THEN walk.share_room END,
            walk.rate_room::integer + 1
        )
    ) AS job
    WHERE walk.is_open
    WINDOW in_lane AS (PARTITION BY walk.steps ORDER BY job.priority, job.scheduled_at, job.id)
),
surveyed AS MATERIALIZED (
    SELECT
        ranked.*,
        max(own.room[1]) OVER (PARTITION BY ranked.lane) AS rate_room,
        max(own.room[2]) OVER (PARTITION BY ranked.lane) AS again_in
    FROM (
        SELECT
            job.*,
            row_number() OVER in_lane AS rank,
            sum(job.weight) OVER in_lane AS total,
            %(share)s::integer - CASE
                WHEN busy.lanes[pg_catalog.width_bucket(job.lane, busy.lanes)] = job.lane
                    THEN busy.jobs[pg_catalog.width_bucket(job.lane, busy.lanes)]
                ELSE 0
            END AS share_room,
            dense_rank() OVER (ORDER BY job.lane <= %(start)s::bigint, job.lane) AS place
        FROM (
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
              AND (SELECT far.needed FROM far)
              AND NOT (SELECT whole.indexed FROM whole)
            ORDER BY job.priority, job.scheduled_at, job.id
            -- What can be read before the statement's time is up.
            LIMIT 1000000
        ) AS job
        CROSS JOIN busy
        WINDOW in_lane AS (
            PARTITION BY job.lane ORDER BY job.priority, job.scheduled_at, job.id
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
    WHERE ranked.rank <= (SELECT whole.goal FROM whole)
),
pool AS MATERIALIZED (
    SELECT
        found.*,
        found.rank > coalesce(found.share_room, 2147483647) AS over,
        found.total > coalesce(found.rate_room, 2147483647) AS too_soon
    FROM (
        SELECT id, priority, scheduled_at, lane, weight, rank, total, share_room, rate_room, again_in,
            place
        FROM near
        UNION ALL
        SELECT id, priority, scheduled_at, lane, weight, rank, total, share_room, rate_room, again_in,
            place
        FROM visited
        WHERE visited.id <> ALL (ARRAY(SELECT near.id FROM near))
        UNION ALL
        SELECT id, priority, scheduled_at, lane, weight, rank, total, share_room, rate_room, again_in,
            place
        FROM surveyed
        WHERE surveyed.id <> ALL (ARRAY(SELECT near.id FROM near))
    ) AS found
),
ordered AS MATERIALIZED (
    SELECT
        placed.*,
        row_number() OVER in_turn AS position,
        sum(placed.weight) OVER in_turn AS sum
    FROM (
        SELECT
            pool.*,
            -- The place of the job in its lane's turn, counted over all of the lane's turns.
            pool.rank - 1 + CASE
                WHEN pool.lane = %(cursor)s::bigint THEN %(spent)s::integer ELSE 0
            END AS share,
            CASE
                WHEN (%(weighted)s::bigint[])[
                    pg_catalog.width_bucket(pool.lane, %(weighted)s::bigint[])
                ] = pool.lane THEN (%(weights)s::bigint[])[
                    pg_catalog.width_bucket(pool.lane, %(weighted)s::bigint[])
                ]
                ELSE 1
            END AS turn
        FROM pool
        WHERE (NOT pool.over OR %(burst)s::boolean)
          AND NOT pool.too_soon
    ) AS placed
    WINDOW in_turn AS (
        ORDER BY
            placed.over,
            CASE WHEN %(fair)s::boolean THEN placed.share / placed.turn END,
            CASE WHEN %(fair)s::boolean THEN placed.place END,
            placed.priority,
            placed.scheduled_at,
            placed.id
    )
),
chosen AS MATERIALIZED (
    SELECT
        ordered.id,
        ordered.lane,
        ordered.weight,
        ordered.position,
        ordered.share % ordered.turn + 1 AS spent
    FROM ordered
    CROSS JOIN whole
    WHERE ordered.position <= whole.goal
      AND ordered.sum <= coalesce(whole.rate_room, 2147483647)
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
        -- All in one order, in case that somebody else writes them without the lock.
        ORDER BY chosen.lane
    ) AS bill
)
SELECT
    taken.*,
    told.again_in,
    told.cursor,
    told.spent,
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
                -- Somebody else holds some of them.
                CASE WHEN held.jobs < chosen.jobs THEN 0.2 END,
                CASE
                    WHEN held.jobs > 0 AND (SELECT count(*) FROM ordered) = held.jobs AND (
                        SELECT max(pool.rank)
                        FROM pool
                        WHERE pool.place > 0 AND NOT pool.too_soon
                    ) >= reached.most THEN 0.001
                END,
                -- There are more lanes than one turn visits.
                CASE WHEN reached.steps >= 500 THEN 0.05 END,
                (SELECT min(walk.again_in) FROM walk WHERE walk.rate_room < walk.weight),
                (SELECT min(pool.again_in) FROM pool WHERE pool.too_soon),
                CASE
                    WHEN (SELECT count(*) FROM ordered) > chosen.jobs THEN whole.again_in
                END
            )
        END AS again_in,
        coalesce(
            CASE WHEN %(fair)s::boolean THEN chosen.lane END, reached.lane, %(cursor)s::bigint
        ) AS cursor,
        CASE
            WHEN %(fair)s::boolean AND chosen.jobs > 0 THEN chosen.spent
            WHEN reached.lane IS NULL THEN %(spent)s::integer
            ELSE 0
        END AS spent,
        CASE
            WHEN %(peek)s::boolean OR (SELECT count(*) FROM taken) < chosen.jobs
                THEN ARRAY(SELECT chosen.id FROM chosen)
            ELSE '{}'
        END AS picked,
        (SELECT far.needed FROM far) IS TRUE AS needed,
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
    FROM reached
    CROSS JOIN (
        SELECT
            count(*) AS jobs,
            (array_agg(chosen.lane ORDER BY chosen.position DESC))[1] AS lane,
            (array_agg(chosen.spent ORDER BY chosen.position DESC))[1] AS spent
        FROM chosen
    ) AS chosen
    CROSS JOIN (SELECT count(*) AS jobs FROM held) AS held
    LEFT JOIN whole ON true
    CROSS JOIN entered
    -- Stays a subselect, and so is called once.
    OFFSET 0
) AS told
LEFT JOIN taken ON true
