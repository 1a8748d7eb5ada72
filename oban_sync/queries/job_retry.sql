-- Make jobs available again, finished or waiting, for at least one more attempt.
--
--   ids      bigint[] as text  the jobs
--   channel  text              where nodes listen for available jobs
--
-- Gives: id of every job changed; available and executing ones are left alone. Nodes that run the
-- queues are woken at commit.
--
-- What earlier runs left in meta does not count against the new one: requests to stop, and how often
-- its process died. A deadline counts from now. A unique job gives up its key, as with Oban Pro; else
-- a job enqueued in its place would make this fail. Where the column can hold no more attempts, the
-- count goes back by one.
WITH retried AS (
    UPDATE /* schema */oban_jobs AS job
    SET state = 'available',
        attempt = least(job.attempt, width.most - 1),
        max_attempts = greatest(job.max_attempts, least(job.attempt, width.most - 1) + 1),
        scheduled_at = timezone('UTC', now()),
        completed_at = NULL,
        cancelled_at = NULL,
        discarded_at = NULL,
        meta = CASE
            WHEN jsonb_typeof(job.meta) = 'object' THEN /* schema */oban_sync_with_deadline(
                (
                    job.meta - ARRAY[
                        'cancel_requested_at', 'cancel_requested_by', 'rescued', 'rescued_start'
                    ]
                ) || CASE WHEN job.meta ? 'uniq_bmp' THEN '{"uniq_bmp": []}' ELSE '{}' END::jsonb,
                NULL,
                timezone('UTC', now())
            )
            ELSE job.meta
        END
    FROM (
        SELECT CASE atttypid WHEN 'pg_catalog.int2'::regtype THEN 32767 ELSE 2147483647 END AS most
        FROM pg_catalog.pg_attribute
        WHERE attrelid = (quote_ident(/* schema literal */) || '.oban_jobs')::regclass
          AND attname = 'max_attempts'
    ) AS width
    WHERE job.state::text NOT IN ('available', 'executing')
      AND job.id = ANY (ARRAY(
          SELECT held.id
          FROM /* schema */oban_jobs AS held
          WHERE held.id = ANY (%(ids)s::text::bigint[])
            AND held.state::text NOT IN ('available', 'executing')
          ORDER BY held.id
          FOR UPDATE
      ))
    RETURNING job.id, job.queue
),
told AS (
    SELECT pg_notify(
        %(channel)s::text, pg_catalog.concat('{"queue":', pg_catalog.to_json(woken.queue), '}')
    )
    FROM (SELECT DISTINCT queue FROM retried) AS woken
)
SELECT retried.id
FROM retried
CROSS JOIN (SELECT count(*) FROM told) AS told
