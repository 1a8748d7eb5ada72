-- Make waiting jobs of a queue available whatever their time.
--
--   queue  text  the queue
--
-- Gives: the number of jobs changed, as the command's row count.
--
-- For draining in tests, where nobody wants to wait.
UPDATE /* schema */oban_jobs
SET state = 'available'
WHERE id = ANY (ARRAY(
    SELECT id
    FROM /* schema */oban_jobs
    WHERE state IN ('scheduled', 'retryable')
      AND queue = %(queue)s
    ORDER BY id
    FOR UPDATE SKIP LOCKED
))
