-- How many jobs the planner thinks there are; none is read.
--
--   state  oban_job_state  in this state
--   queue  text or NULL    only of this queue
--
-- Gives: the plan, line by line.
EXPLAIN
SELECT
FROM /* schema */oban_jobs
WHERE state = %(state)s::/* schema */oban_job_state
  AND (%(queue)s::text IS NULL OR queue = %(queue)s)
