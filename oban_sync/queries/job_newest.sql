-- The job that was stored last.
--
-- Gives: its id; NULL where there are no jobs.
SELECT max(id) FROM /* schema */oban_jobs
