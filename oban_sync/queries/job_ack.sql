-- Write outcomes of any kind.
--
--   outcomes  JSON as text  array of {id, fence, state, spent, schedule_in, meta, error}
--   owner     uuid as text  the producer that ran the jobs
--   most      entries       how many errors a job keeps
--
-- Gives: id, fence of every outcome that was written. A job that is no longer executing the start it
-- was taken with is left alone, and so is one that another transaction holds.
--
-- A job that was rescued from this very start, and has not been started since, takes the outcome all
-- the same: its node was only slow. A job that was asked to stop is not run again, but cancelled.
-- meta is merged: another writer's keys stay, also of what the library keeps in it.
WITH outcome AS (
    SELECT *
    FROM pg_catalog.jsonb_to_recordset(%(outcomes)s::text::jsonb) AS outcome (
        id bigint,
        fence timestamp,
        state text,
        spent boolean,
        schedule_in double precision,
        meta jsonb,
        error jsonb
    )
)
UPDATE /* schema */oban_jobs AS job
SET state = CASE
        WHEN outcome.state IN ('retryable', 'scheduled') AND /* schema */oban_sync_unwanted(
            job.meta, job.attempted_at
        ) THEN 'cancelled'
        ELSE outcome.state
    END::/* schema */oban_job_state,
    attempt = greatest(0, CASE
        WHEN job.state::text = 'executing' THEN job.attempt
        ELSE (job.meta -> 'rescued_start' ->> 'attempt')::integer
    END - CASE WHEN outcome.spent THEN 0 ELSE 1 END),
    scheduled_at = coalesce(
        timezone('UTC', now()) + make_interval(secs => outcome.schedule_in), job.scheduled_at
    ),
    completed_at = CASE
        WHEN outcome.state = 'completed' THEN timezone('UTC', now()) ELSE job.completed_at
    END,
    cancelled_at = CASE
        WHEN outcome.state = 'cancelled' THEN timezone('UTC', now())
        WHEN outcome.state IN ('retryable', 'scheduled') AND /* schema */oban_sync_unwanted(
            job.meta, job.attempted_at
        ) THEN timezone('UTC', now())
        ELSE job.cancelled_at
    END,
    discarded_at = CASE
        WHEN outcome.state = 'discarded' THEN timezone('UTC', now())
        WHEN job.state::text = 'executing' THEN job.discarded_at
    END,
    meta = CASE
        WHEN job.state::text = 'executing' AND outcome.meta IS NULL THEN job.meta
        ELSE CASE
            WHEN job.state::text = 'executing' THEN coalesce(job.meta, '{}')
            -- Once is enough: the same outcome, sent again, must find nothing to do.
            ELSE (job.meta - 'rescued_start') || CASE
                WHEN job.state::text = 'discarded' AND job.meta ? 'uniq_bmp' THEN '{"uniq_bmp": []}'
                ELSE '{}'
            END::jsonb
        END || (coalesce(outcome.meta, '{}') || CASE
            WHEN jsonb_typeof(outcome.meta -> 'oban_sync') = 'object'
                AND jsonb_typeof(job.meta -> 'oban_sync') = 'object'
                THEN jsonb_build_object(
                    'oban_sync', (job.meta -> 'oban_sync') || (outcome.meta -> 'oban_sync')
                )
            ELSE '{}'
        END::jsonb)
    END,
    errors = CASE
        WHEN outcome.error IS NULL THEN job.errors
        ELSE /* schema */oban_sync_add_error(job.errors, outcome.error, %(most)s)
    END
FROM outcome
WHERE job.id = outcome.id
  AND job.attempted_at = outcome.fence
  AND job.attempted_by[2] = %(owner)s::text
  AND CASE
      WHEN job.state::text = 'executing' THEN true
      WHEN job.state::text IN ('available', 'scheduled', 'retryable', 'discarded')
          THEN job.meta -> 'rescued_start' -> 'at' = to_jsonb(job.attempted_at)
      ELSE false
  END
  AND job.id = ANY (ARRAY(
      SELECT held.id
      FROM /* schema */oban_jobs AS held
      WHERE held.id = ANY (ARRAY(SELECT id FROM outcome))
      ORDER BY held.id
      FOR UPDATE SKIP LOCKED
  ))
RETURNING job.id, job.attempted_at
