-- Complete the jobs that finished plainly and take new ones: one round trip, one commit.
--
--   ids      bigint[] as text     jobs that completed with nothing else to write
--   fences   timestamp[] as text  when each of them was started
--   queue    text                 the queue to take from
--   demand   jobs                 most jobs to take
--   node     text                 who takes them ...
--   owner    uuid as text         ... and through which producer; finished jobs must be its own
--   shunned  bigint[] as text     jobs that could not be taken before
--
-- Gives: acked (how many of the finished jobs were still ours), and the taken jobs' columns. One row
-- without a job when none was taken. Unordered: RETURNING keeps no order. Times go through to_json
-- because plain text would follow the session's DateStyle.
--
-- state::text keeps the planner off the index on executing jobs, which is all dead entries. The
-- subselect in ARRAY() runs once and leaves the planner no join to get wrong.
WITH acked AS (
    UPDATE /* schema */oban_jobs AS job
    SET state = 'completed',
        completed_at = timezone('UTC', now())
    FROM ROWS FROM (
        pg_catalog.unnest(%(ids)s::text::bigint[]),
        pg_catalog.unnest(%(fences)s::text::timestamp[])
    ) AS done (id, fence)
    WHERE job.id = done.id
      AND job.attempted_at = done.fence
      AND job.attempted_by[2] = %(owner)s::text
      AND job.state::text = 'executing'
    RETURNING job.id
),
taken AS (
    UPDATE /* schema */oban_jobs AS job
    SET state = 'executing',
        attempt = job.attempt + 1,
        attempted_at = timezone('UTC', now()),
        attempted_by = ARRAY[%(node)s::text, %(owner)s::text]
    WHERE job.id = ANY (ARRAY(
        SELECT id
        FROM /* schema */oban_jobs
        WHERE state = 'available'
          AND queue = %(queue)s::text
          AND attempt < max_attempts
          AND id <> ALL (%(shunned)s::text::bigint[])
        ORDER BY priority, scheduled_at, id
        LIMIT %(demand)s::integer
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING
        job.id,
        job.worker,
        job.args::text,
        coalesce(job.meta, '{}')::text AS meta,
        pg_catalog.to_jsonb(job.errors)::text AS errors,
        coalesce(job.tags, '{}') AS tags,
        job.attempt,
        job.max_attempts,
        job.priority,
        pg_catalog.to_json(job.inserted_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS inserted_at,
        pg_catalog.to_json(job.scheduled_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS scheduled_at,
        pg_catalog.to_json(job.attempted_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS attempted_at
)
SELECT acked.count, taken.*
FROM (SELECT count(*) FROM acked) AS acked
LEFT JOIN taken ON true
