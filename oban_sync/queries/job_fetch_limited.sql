-- Complete the jobs that finished plainly, and take new ones from a queue without lanes, as many as its
-- limits leave room for: one round trip, one commit.
--
--   ids        bigint[]             jobs that completed with nothing else to write, ascending
--   fences     timestamp[]          when each of them was started, in the same order
--   lock       text                 the name of the queue's lock
--   queue      text                 the queue
--   demand     jobs                 most jobs to take
--   node       text                 who takes them ...
--   owner      uuid as text         ... and through which producer
--   turn       bigint               number of the producer's turn; an older one takes nothing
--   forced     boolean              write the number even if nothing changes
--   kept       jobs                 what the producer runs and goes on with
--   most       jobs or NULL         most jobs at once over all nodes
--   rate       text                 the name that starts are counted under ...
--   algorithm  text or NULL         ... and how, if at all ...
--   allowed    weight               ... with so many ...
--   period     seconds              ... in this time
--   moment     timestamptz or NULL  the time, where it is not to be PostgreSQL's
--   shunned    bigint[]             jobs that could not be taken before
--   priority   number               only jobs behind this place are taken: those of a higher number, ...
--   due        timestamp[]          ... of the same that are due later than its only element, ...
--   after      bigint               ... or at the same moment with a larger id
--   peek       boolean              only tell what would be taken
--
-- Gives: the taken jobs' columns, lane (0), again_in (seconds after which there is room for more, where
-- that is known), cursor and spent (NULL), picked (what was to be taken; empty where all of it was, as
-- it stands in every row), needed (false), acked (how many of the finished jobs were still ours), others
-- (how many other producers the queue has), asked (how many jobs there was room for), written. One row
-- without a job when none was taken. Unordered: RETURNING keeps no order.
--
-- The lock is taken inside of the statement, after what finished is written, and what it protects is
-- read by a function, which sees what was committed while the lock was waited for. The statement
-- itself does not, and passes over jobs that others took in that time: their rows are looked at anew.
--
-- Weights fill the room in order: a heavy job that does not fit yet holds up those behind it.
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
        %(kept)s::integer,
        NULL::bigint[],
        %(rate)s::text,
        %(algorithm)s::text,
        %(allowed)s::integer,
        %(period)s::double precision,
        %(moment)s::timestamptz
    ) AS state
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
      AND (job.priority, job.scheduled_at, job.id)
          > (%(priority)s::integer, (%(due)s::timestamp[])[1], %(after)s::bigint)
    ORDER BY job.priority, job.scheduled_at, job.id
    -- Of a rate one more than fits, to know whether there is any.
    LIMIT (SELECT least(entered.jobs, entered.weight::integer + 1) FROM entered)
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
    WHERE ranked.total <= (SELECT coalesce(entered.weight, 2147483647) FROM entered)
),
taken AS (
    UPDATE /* schema */oban_jobs AS job
    SET state = 'executing',
        attempt = job.attempt + 1,
        attempted_at = (SELECT entered.attempted_at FROM entered),
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
)
SELECT
    taken.*,
    0::bigint AS lane,
    told.again_in,
    NULL::bigint AS cursor,
    NULL::integer AS spent,
    told.picked,
    false AS needed,
    told.acked,
    told.others,
    told.asked,
    told.written
FROM (
    SELECT
        CASE
            WHEN NOT entered.known THEN 0.5::double precision
            WHEN (SELECT count(*) FROM head) > bill.jobs THEN entered.again_in
        END AS again_in,
        CASE
            WHEN %(peek)s::boolean OR (SELECT count(*) FROM taken) < bill.jobs
                THEN ARRAY(SELECT chosen.id FROM chosen)
            ELSE '{}'
        END AS picked,
        entered.acked,
        entered.others,
        least(entered.jobs, entered.weight::integer) AS asked,
        CASE
            WHEN entered.known AND NOT %(peek)s::boolean THEN /* schema */oban_sync_limit_leave(
                %(owner)s::text,
                %(turn)s::bigint,
                %(kept)s::integer + (SELECT count(*) FROM taken)::integer,
                '{}',
                %(forced)s::boolean,
                %(rate)s::text,
                %(algorithm)s::text,
                %(allowed)s::integer,
                %(period)s::double precision,
                CASE WHEN %(algorithm)s::text IS NOT NULL THEN bill.weight END,
                entered.moment
            )
        END AS written
    FROM entered
    CROSS JOIN (
        SELECT
            count(*) AS jobs,
            sum(chosen.weight)::integer AS weight
        FROM chosen
    ) AS bill
    -- Stays a subselect, and so is called once.
    OFFSET 0
) AS told
LEFT JOIN taken ON true
