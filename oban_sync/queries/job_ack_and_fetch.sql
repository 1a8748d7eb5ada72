-- Complete the jobs that finished plainly and take new ones: one round trip, one commit.
--
--   ids       bigint[]      jobs that completed with nothing else to write, ascending
--   fences    timestamp[]   when each of them was started, in the same order
--   queue     text          the queue to take from
--   demand    jobs          most jobs to take
--   node      text          who takes them ...
--   owner     uuid as text  ... and through which producer; finished jobs must be its own
--   shunned   bigint[]      jobs that could not be taken before
--   priority  number        only jobs behind this place are taken: those of a higher number, ...
--   due       timestamp[]   ... of the same that are due later than its only element, ...
--   after     bigint        ... or at the same moment with a larger id
--
-- Gives: the taken jobs' columns, and acked (how many of the finished jobs were still ours). One row
-- without a job when none was taken. Unordered: RETURNING keeps no order.
--
-- Nothing is joined: while its statistics say that the table is empty, the planner would read all
-- of it to join it with the finished jobs. width_bucket finds an id's place among the ids.
-- The place is where the scan of the index begins: what is before it is not even read.
-- state::text keeps the planner off the index on executing jobs, which is all dead entries. The
-- subselects run once, not for every row.
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
taken AS (
    UPDATE /* schema */oban_jobs AS job
    SET state = 'executing',
        attempt = job.attempt + 1,
        attempted_at = (SELECT timezone('UTC', now())),
        attempted_by = (SELECT ARRAY[%(node)s::text, %(owner)s::text])
    WHERE job.id = ANY (ARRAY(
        SELECT id
        FROM /* schema */oban_jobs
        WHERE state = 'available'
          AND queue = %(queue)s::text
          AND attempt < max_attempts
          AND id <> ALL (%(shunned)s::bigint[])
          AND (priority, scheduled_at, id)
              > (%(priority)s::integer, (%(due)s::timestamp[])[1], %(after)s::bigint)
        ORDER BY priority, scheduled_at, id
        LIMIT %(demand)s::integer
        FOR UPDATE SKIP LOCKED
    ))
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
SELECT taken.*, acked.count AS acked
FROM (SELECT count(*) FROM acked) AS acked
LEFT JOIN taken ON true
