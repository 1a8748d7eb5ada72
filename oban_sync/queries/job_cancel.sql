-- Cancel jobs that wait, and ask those that run to stop.
--
--   ids      bigint[] as text  the jobs
--   by       text or NULL      who asks, kept in meta
--   channel  text              where nodes hear of orders
--
-- Gives: id, executing (whether it was only asked) of every job changed; finished ones are left alone.
-- Nodes are told at commit which running jobs to stop.
--
-- The request is in the row, so that a lost notification loses nothing. The first one of a run
-- counts; one from before the job's start is left over from a run that another Oban retried. It is
-- dated by the clock on the wall, because this transaction may be older than the job's start.
WITH changed AS (
    UPDATE /* schema */oban_jobs AS job
    SET state = CASE
            WHEN job.state::text = 'executing' THEN 'executing'
            ELSE 'cancelled'
        END::/* schema */oban_job_state,
        cancelled_at = CASE
            WHEN job.state::text = 'executing' THEN job.cancelled_at
            ELSE timezone('UTC', now())
        END,
        meta = CASE
            WHEN job.state::text <> 'executing' AND %(by)s::text IS NULL THEN job.meta
            WHEN job.state::text = 'executing'
                AND job.meta ->> 'cancel_requested_at' COLLATE "C"
                    >= to_char(job.attempted_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')
                THEN job.meta
            ELSE CASE
                WHEN jsonb_typeof(job.meta) = 'object' THEN job.meta - 'cancel_requested_by'
                ELSE '{}'
            END || jsonb_strip_nulls(jsonb_build_object(
                'cancel_requested_at',
                CASE
                    WHEN job.state::text = 'executing' THEN to_char(
                        timezone('UTC', clock_timestamp()), 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'
                    )
                END,
                'cancel_requested_by',
                %(by)s::text
            ))
        END
    WHERE job.state::text NOT IN ('completed', 'cancelled', 'discarded')
      AND job.id = ANY (ARRAY(
          SELECT held.id
          FROM /* schema */oban_jobs AS held
          WHERE held.id = ANY (%(ids)s::text::bigint[])
            AND held.state::text NOT IN ('completed', 'cancelled', 'discarded')
          ORDER BY held.id
          FOR UPDATE
      ))
    RETURNING job.id, job.state::text = 'executing' AS executing
),
told AS (
    SELECT pg_notify(
        %(channel)s::text, pg_catalog.concat('{"action":"pkill","job_id":', changed.id, '}')
    )
    FROM changed
    WHERE changed.executing
)
SELECT
    changed.id,
    changed.executing
FROM changed
CROSS JOIN (SELECT count(*) FROM told) AS told
