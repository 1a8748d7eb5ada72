-- Lean partial indexes: a job is in one of them at a time, and in none but the last when it is done.
--
-- The staging and finished ones have the names and definitions of oban-py's, so that a table made by
-- it does not carry each of them twice.
CREATE INDEX IF NOT EXISTS oban_jobs_available_index
ON /* schema */oban_jobs (queue, priority, scheduled_at, id)
WHERE state = 'available';

CREATE INDEX IF NOT EXISTS oban_jobs_staging_index
ON /* schema */oban_jobs (scheduled_at, id) INCLUDE (queue)
WHERE state IN ('scheduled', 'retryable');

CREATE INDEX IF NOT EXISTS oban_jobs_executing_index
ON /* schema */oban_jobs (queue, id)
WHERE state = 'executing';

CREATE INDEX IF NOT EXISTS oban_jobs_completed_at_index
ON /* schema */oban_jobs (completed_at)
WHERE state = 'completed';

CREATE INDEX IF NOT EXISTS oban_jobs_cancelled_at_index
ON /* schema */oban_jobs (cancelled_at)
WHERE state = 'cancelled';

CREATE INDEX IF NOT EXISTS oban_jobs_discarded_at_index
ON /* schema */oban_jobs (discarded_at)
WHERE state = 'discarded';
