-- How many jobs each producer runs.
--
--   queue  text or NULL  only of this queue
--
-- Gives: producer (what attempted_by says; NULL where it says nothing), queue, jobs.
--
-- There are never more than all nodes have slots.
SELECT attempted_by[2] AS producer, queue, count(*) AS jobs
FROM /* schema */oban_jobs
WHERE state = 'executing'
  AND (%(queue)s::text IS NULL OR queue = %(queue)s::text)
GROUP BY attempted_by[2], queue
