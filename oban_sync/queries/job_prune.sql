-- Delete finished jobs.
--
--   ids    bigint[] as text   the jobs
--   state  text               the state they are in: completed, cancelled or discarded
--   upto   timestamp as text  none of them ended after it
--
-- Gives: nothing; the count of rows is that of the jobs deleted.
--
-- A job that another transaction holds is skipped, and so is one that runs again by now. The state
-- is compared as text to keep the planner off the states' indexes, which hold all the others, too.
DELETE FROM /* schema */oban_jobs
WHERE id = ANY (ARRAY(
    SELECT id
    FROM /* schema */oban_jobs
    WHERE id = ANY (%(ids)s::text::bigint[])
      AND state::text = %(state)s::text
      AND CASE state::text
          WHEN 'completed' THEN completed_at
          WHEN 'cancelled' THEN cancelled_at
          WHEN 'discarded' THEN discarded_at
      END <= %(upto)s::text::timestamp
    FOR UPDATE SKIP LOCKED
))
