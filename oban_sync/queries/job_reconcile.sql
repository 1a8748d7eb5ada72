-- Hand back jobs this producer holds in the table but does not know of.
--
--   queue   text                 the producer's queue
--   owner   uuid as text         the producer
--   ids     bigint[] as text     jobs it runs, or whose outcome it has yet to write ...
--   fences  timestamp[] as text  ... and when each of them was started
--
-- Gives: id of every job handed back, its attempt not spent.
--
-- After a fetch whose reply was lost nobody runs the jobs it took, and no rescue would find them as
-- long as the producer lives. A job is known by its start: it may have been taken a second time.
UPDATE /* schema */oban_jobs
SET state = 'available',
    attempt = greatest(attempt - 1, 0)
WHERE id = ANY (ARRAY(
    SELECT job.id
    FROM /* schema */oban_jobs AS job
    WHERE job.state = 'executing'
      AND job.queue = %(queue)s::text
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
    ORDER BY job.id
    FOR UPDATE SKIP LOCKED
))
RETURNING id
