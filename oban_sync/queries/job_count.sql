-- How many jobs there are in each state.
--
--   queue  text or NULL  only of this queue
--   most   jobs          finished jobs of a state that are read; the newest ones
--
-- Gives: state, jobs, exact (or else there are so many at least), for every state that has an index.
SELECT 'available' AS state, count(*) AS jobs, true AS exact
FROM /* schema */oban_jobs
WHERE state = 'available'
  AND (%(queue)s::text IS NULL OR queue = %(queue)s)
UNION ALL
SELECT 'executing', count(*), true
FROM /* schema */oban_jobs
WHERE state = 'executing'
  AND (%(queue)s::text IS NULL OR queue = %(queue)s)
UNION ALL
SELECT waiting.state, count(*), true
FROM (
    SELECT state::text AS state
    FROM /* schema */oban_jobs
    WHERE state IN ('scheduled', 'retryable')
      AND (%(queue)s::text IS NULL OR queue = %(queue)s)
) AS waiting
GROUP BY waiting.state
UNION ALL
SELECT
    'completed',
    count(*) FILTER (WHERE %(queue)s::text IS NULL OR newest.queue = %(queue)s),
    count(*) < %(most)s
FROM (
    SELECT queue
    FROM /* schema */oban_jobs
    WHERE state = 'completed'
    ORDER BY completed_at DESC
    LIMIT %(most)s
) AS newest
UNION ALL
SELECT
    'cancelled',
    count(*) FILTER (WHERE %(queue)s::text IS NULL OR newest.queue = %(queue)s),
    count(*) < %(most)s
FROM (
    SELECT queue
    FROM /* schema */oban_jobs
    WHERE state = 'cancelled'
    ORDER BY cancelled_at DESC
    LIMIT %(most)s
) AS newest
UNION ALL
SELECT
    'discarded',
    count(*) FILTER (WHERE %(queue)s::text IS NULL OR newest.queue = %(queue)s),
    count(*) < %(most)s
FROM (
    SELECT queue
    FROM /* schema */oban_jobs
    WHERE state = 'discarded'
    ORDER BY discarded_at DESC
    LIMIT %(most)s
) AS newest
UNION ALL
-- Few have any, and there is no index of theirs; of a table never analyzed the planner knows nothing.
SELECT 'suspended', 0, reltuples <= 0
FROM pg_catalog.pg_class
WHERE oid = (quote_ident(/* schema literal */) || '.oban_jobs')::regclass
