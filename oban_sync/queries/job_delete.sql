-- Delete jobs that are not executing.
--
--   ids  bigint[] as text  the jobs
--
-- Gives: id of every job deleted; executing ones are left alone.
DELETE FROM /* schema */oban_jobs AS job
WHERE job.state::text <> 'executing'
  AND job.id = ANY (ARRAY(
      SELECT held.id
      FROM /* schema */oban_jobs AS held
      WHERE held.id = ANY (%(ids)s::text::bigint[])
        AND held.state::text <> 'executing'
      ORDER BY held.id
      FOR UPDATE
  ))
RETURNING job.id
