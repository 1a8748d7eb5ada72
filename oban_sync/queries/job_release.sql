-- Hand back jobs that were started but not finished, without spending the attempt.
--
--   ids      bigint[]             the jobs
--   fences   timestamp[]          when each was started
--   owner    uuid as text         the producer that started them
--   channel  text                 where nodes listen for available jobs
--
-- Gives: id, fence of every job handed back. A job that another transaction holds is left alone. One
-- that was asked to stop is cancelled instead. Nodes that run the queues are woken at commit.
WITH released AS (
    UPDATE /* schema */oban_jobs AS job
    SET state = CASE
            WHEN /* schema */oban_sync_unwanted(job.meta, job.attempted_at) THEN 'cancelled' ELSE 'available'
        END::/* schema */oban_job_state,
        attempt = greatest(job.attempt - 1, 0),
        cancelled_at = CASE
            WHEN /* schema */oban_sync_unwanted(job.meta, job.attempted_at) THEN timezone('UTC', now())
            ELSE job.cancelled_at
        END
    WHERE job.attempted_at
          = (%(fences)s::timestamp[])[pg_catalog.width_bucket(job.id, %(ids)s::bigint[])]
      AND job.attempted_by[2] = %(owner)s::text
      AND job.state::text = 'executing'
      AND job.id = ANY (ARRAY(
          SELECT held.id
          FROM /* schema */oban_jobs AS held
          WHERE held.id = ANY (%(ids)s::bigint[])
          ORDER BY held.id
          FOR UPDATE SKIP LOCKED
      ))
    RETURNING job.id, job.queue, job.attempted_at
),
told AS (
    SELECT pg_notify(
        %(channel)s::text,
        pg_catalog.concat('{"queue":', pg_catalog.to_json(woken.queue), '}')
    )
    FROM (SELECT DISTINCT queue FROM released) AS woken
)
SELECT
    released.id,
    released.attempted_at
FROM released
CROSS JOIN (SELECT count(*) FROM told) AS told
