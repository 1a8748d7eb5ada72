-- Take jobs from a queue without lanes, as many as its limits leave room for. Under its lock.
--
--   queue      text          the queue
--   demand     jobs          most jobs to take
--   node       text          who takes them ...
--   owner      uuid as text  ... and through which producer
--   turn       bigint        number of the producer's turn; an older one takes nothing
--   kept       jobs          what the producer runs and goes on with
--   most       jobs or NULL  most jobs at once over all nodes
--   rate       text          the name that starts are counted under ...
--   algorithm  text or NULL  ... and how, if at all ...
--   allowed    weight        ... with so many ...
--   period     seconds       ... in this time
--   shunned    bigint[]      jobs that could not be taken before
--   peek       boolean       only tell what would be taken
--
-- Gives: the taken jobs' columns, lane (0), again_in (seconds after which there is room for more, where
-- that is known), cursor and spent (NULL), picked (what was to be taken), needed (false). One row
-- without a job when none was taken. Unordered: RETURNING keeps no order.
--
-- A producer without a row is not known to the others, and takes nothing. One that is about to be taken
-- away, or is written by its node, is not waited for.
--
-- Weights fill the room in order: a heavy job that does not fit yet holds up those behind it.
WITH me AS MATERIALIZED (
    SELECT producer.uuid
    FROM /* schema */oban_sync_producers AS producer
    WHERE producer.uuid = %(owner)s::text
      AND producer.turn < %(turn)s::bigint
    FOR NO KEY UPDATE SKIP LOCKED
),
rate AS MATERIALIZED (
    SELECT CASE WHEN %(algorithm)s::text IS NOT NULL THEN /* schema */oban_sync_rate_room(
            %(rate)s::text,
            0,
            %(algorithm)s::text,
            %(allowed)s::integer,
            %(period)s::double precision,
            statement_timestamp()
        ) END AS room
),
room AS MATERIALIZED (
    SELECT
        greatest(0, least(
            %(demand)s::integer,
            %(most)s::integer - %(kept)s::integer - (
                SELECT coalesce(sum(other.running), 0)::integer
                FROM /* schema */oban_sync_producers AS other
                WHERE other.queue = %(queue)s::text
                  AND other.uuid <> %(owner)s::text
            ),
            -- One more than fits, to know whether there is any.
            rate.room[1]::integer + 1
        )) AS jobs,
        coalesce(rate.room[1], 2147483647) AS weight,
        rate.room[2] AS again_in
    FROM me
    CROSS JOIN rate
),
head AS MATERIALIZED (
    SELECT
        job.id,
        job.priority,
        job.scheduled_at,
        /* schema */oban_sync_weight(job.meta, %(allowed)s::integer) AS weight
    FROM /* schema */oban_jobs AS job
    WHERE job.state = 'available'
      AND job.queue = %(queue)s::text
      AND job.attempt < job.max_attempts
      AND job.id <> ALL (%(shunned)s::bigint[])
    ORDER BY job.priority, job.scheduled_at, job.id
    LIMIT coalesce((SELECT room.jobs FROM room), 0)
    FOR UPDATE SKIP LOCKED
),
chosen AS MATERIALIZED (
    SELECT ranked.id, ranked.weight
    FROM (
        SELECT
            head.id,
            head.weight,
            sum(head.weight) OVER (ORDER BY head.priority, head.scheduled_at, head.id) AS total
        FROM head
    ) AS ranked
    WHERE ranked.total <= (SELECT room.weight FROM room)
),
taken AS (
    UPDATE /* schema */oban_jobs AS job
    SET state = 'executing',
        attempt = job.attempt + 1,
        attempted_at = (SELECT timezone('UTC', statement_timestamp())),
        attempted_by = (SELECT ARRAY[%(node)s::text, %(owner)s::text])
    WHERE job.id = ANY (ARRAY(SELECT chosen.id FROM chosen WHERE NOT %(peek)s::boolean))
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
        job.attempted_at
),
reported AS (
    UPDATE /* schema */oban_sync_producers AS producer
    SET turn = %(turn)s::bigint,
        running = %(kept)s::integer + (SELECT count(*) FROM taken)::integer
    WHERE producer.uuid = (SELECT me.uuid FROM me)
      AND NOT %(peek)s::boolean
),
charged AS MATERIALIZED (
    SELECT /* schema */oban_sync_rate_charge(
        %(rate)s::text,
        0,
        %(algorithm)s::text,
        %(allowed)s::integer,
        %(period)s::double precision,
        bill.weight,
        statement_timestamp()
    ) AS done
    FROM (
        SELECT sum(chosen.weight)::integer AS weight
        FROM chosen
        WHERE %(algorithm)s::text IS NOT NULL
          AND NOT %(peek)s::boolean
    ) AS bill
    WHERE bill.weight IS NOT NULL
)
SELECT
    taken.*,
    0::bigint AS lane,
    told.again_in,
    NULL::bigint AS cursor,
    NULL::integer AS spent,
    told.picked,
    false AS needed,
    told.charged
FROM (
    SELECT
        CASE
            WHEN NOT EXISTS (SELECT FROM me) THEN 0.5::double precision
            WHEN (SELECT count(*) FROM head) > (SELECT count(*) FROM chosen)
                THEN (SELECT room.again_in FROM room)
        END AS again_in,
        ARRAY(SELECT chosen.id FROM chosen) AS picked,
        (SELECT count(*) FROM charged) AS charged
) AS told
LEFT JOIN taken ON true
