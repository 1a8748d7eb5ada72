-- Keep how far a running job has come, by its own account.
--
--   id        bigint             the job
--   fence     timestamp as text  when it was started
--   owner     uuid as text       the producer that started it
--   progress  JSON as text       an object: done, total, note, at, attempt
--
-- Gives: nothing; no row is changed where the job does not run that very start any more, or another
-- transaction holds it. That may be the job's own, so it must not be waited for.
UPDATE /* schema */oban_jobs AS job
SET meta = CASE
        WHEN jsonb_typeof(job.meta) = 'object' THEN job.meta ELSE '{}'
    END::jsonb || jsonb_build_object('oban_sync', CASE
        WHEN jsonb_typeof(job.meta -> 'oban_sync') = 'object' THEN job.meta -> 'oban_sync'
        ELSE '{}'
    END::jsonb || jsonb_build_object('progress', %(progress)s::text::jsonb))
WHERE job.id = (
    SELECT held.id
    FROM /* schema */oban_jobs AS held
    WHERE held.id = %(id)s::bigint
      AND held.state::text = 'executing'
      AND held.attempted_at = %(fence)s::text::timestamp
      AND held.attempted_by[2] = %(owner)s::text
    FOR UPDATE SKIP LOCKED
)
