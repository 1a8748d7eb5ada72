-- Start one job, which is known by its id.
--
--   id     bigint        the job
--   early  boolean       though it waits for its time
--   node   text          who takes it ...
--   owner  uuid as text  ... and through which producer
--
-- Gives: the job's columns as a fetch gives them, and its queue; no row where it is not available,
-- or somebody else holds it.
UPDATE /* schema */oban_jobs AS job
SET state = 'executing',
    attempt = job.attempt + 1,
    attempted_at = timezone('UTC', now()),
    attempted_by = ARRAY[%(node)s::text, %(owner)s::text]
WHERE job.id = ANY (ARRAY(
    SELECT held.id
    FROM /* schema */oban_jobs AS held
    WHERE held.id = %(id)s::bigint
      AND (
          held.state = 'available'
          OR (%(early)s::boolean AND held.state IN ('scheduled', 'retryable'))
      )
      AND held.attempt < held.max_attempts
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
    job.attempted_at,
    job.queue
