-- Hand back jobs this producer holds in the table but does not know of.
--
--   owner   uuid as text  the producer
--   ids     bigint[]      jobs it runs, or whose outcome it has yet to write ...
--   fences  timestamp[]   ... and when each of them was started
--
-- Gives: id of every job handed back, its attempt not spent, and strays (how many there were, those
-- included that another transaction holds). One row without a job when none was handed back.
--
-- After a fetch whose reply was lost nobody runs the jobs it took, and no rescue would find them as
-- long as the producer lives. A job is known by its start: it may have been taken a second time. Its
-- queue may have been changed since.
WITH stray AS MATERIALIZED (
    SELECT job.id
    FROM /* schema */oban_jobs AS job
    WHERE job.state = 'executing'
      AND job.attempted_by[2] = %(owner)s::text
      AND NOT EXISTS (
          SELECT
          FROM ROWS FROM (
              pg_catalog.unnest(%(ids)s::bigint[]),
              pg_catalog.unnest(%(fences)s::timestamp[])
          ) AS known (id, fence)
          WHERE known.id = job.id
            AND known.fence = job.attempted_at
      )
),
back AS (
    UPDATE /* schema */oban_jobs AS job
    SET state = CASE
            WHEN /* schema */oban_sync_unwanted(job.meta, job.attempted_at) THEN 'cancelled'
            ELSE 'available'
        END::/* schema */oban_job_state,
        attempt = greatest(job.attempt - 1, 0),
        cancelled_at = CASE
            WHEN /* schema */oban_sync_unwanted(job.meta, job.attempted_at)
                THEN timezone('UTC', now())
            ELSE job.cancelled_at
        END
    WHERE job.id = ANY (ARRAY(
        SELECT held.id
        FROM /* schema */oban_jobs AS held
        WHERE held.id = ANY (ARRAY(SELECT stray.id FROM stray))
          AND held.state::text = 'executing'
          AND held.attempted_by[2] = %(owner)s::text
        ORDER BY held.id
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING job.id
)
SELECT back.id, found.strays
FROM (SELECT count(*) AS strays FROM stray) AS found
LEFT JOIN back ON true
