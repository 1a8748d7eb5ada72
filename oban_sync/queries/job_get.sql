-- One job by id.
--
--   id  bigint  the job's id
--
-- Gives: the job's columns, jsonb and timestamps as text.
SELECT
    id,
    state::text AS state,
    queue,
    worker,
    attempt,
    max_attempts,
    priority,
    args::text AS args,
    meta::text AS meta,
    tags,
    to_jsonb(errors)::text AS errors,
    attempted_by,
    to_json(inserted_at) #>> '{}' AS inserted_at,
    to_json(scheduled_at) #>> '{}' AS scheduled_at,
    to_json(attempted_at) #>> '{}' AS attempted_at,
    to_json(completed_at) #>> '{}' AS completed_at,
    to_json(cancelled_at) #>> '{}' AS cancelled_at,
    to_json(discarded_at) #>> '{}' AS discarded_at
FROM /* schema */oban_jobs
WHERE id = %(id)s
