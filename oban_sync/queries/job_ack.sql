-- Write outcomes of any kind.
--
--   outcomes  JSON as text  array of {id, fence, state, spent, schedule_in, meta, error}
--   owner     uuid as text  the producer that ran the jobs
--   most      entries       how many errors a job keeps
--
-- Gives: id, fence of every outcome that was written. A job that is no longer executing the start it
-- was taken with is left alone, and so is one that another transaction holds.
--
-- meta is merged: another writer's keys stay.
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
SET state = outcome.state::/* schema */oban_job_state,
    attempt = CASE WHEN outcome.spent THEN job.attempt ELSE greatest(job.attempt - 1, 0) END,
    scheduled_at = coalesce(
        timezone('UTC', now()) + make_interval(secs => outcome.schedule_in), job.scheduled_at
    ),
    completed_at = CASE
        WHEN outcome.state = 'completed' THEN timezone('UTC', now()) ELSE job.completed_at
    END,
    cancelled_at = CASE
        WHEN outcome.state = 'cancelled' THEN timezone('UTC', now()) ELSE job.cancelled_at
    END,
    discarded_at = CASE
        WHEN outcome.state = 'discarded' THEN timezone('UTC', now()) ELSE job.discarded_at
    END,
    meta = CASE
        WHEN outcome.meta IS NULL THEN job.meta ELSE coalesce(job.meta, '{}') || outcome.meta
    END,
    errors = CASE
        WHEN outcome.error IS NULL THEN job.errors
        ELSE /* schema */oban_sync_add_error(job.errors, outcome.error, %(most)s)
    END
FROM outcome
WHERE job.id = outcome.id
  AND job.attempted_at = outcome.fence
  AND job.attempted_by[2] = %(owner)s::text
  AND job.state::text = 'executing'
  AND job.id = ANY (ARRAY(
      SELECT held.id
      FROM /* schema */oban_jobs AS held
      WHERE held.id = ANY (ARRAY(SELECT id FROM outcome))
      ORDER BY held.id
      FOR UPDATE SKIP LOCKED
  ))
RETURNING job.id, job.attempted_at
