-- Make waiting jobs available before their time.
--
--   queues  text[] or NULL               of these queues
--   until   timestamp as text or NULL    whose time comes by then, in UTC
--
-- Gives: the number of jobs changed.
--
-- For draining in tests, where nobody wants to wait.
WITH hastened AS (
    UPDATE /* schema */oban_jobs
    SET state = 'available'
    WHERE id = ANY (ARRAY(
        SELECT id
        FROM /* schema */oban_jobs
        WHERE state IN ('scheduled', 'retryable')
          AND (%(queues)s::text[] IS NULL OR queue = ANY (%(queues)s::text[]))
          AND (%(until)s::text IS NULL OR scheduled_at <= %(until)s::text::timestamp)
        ORDER BY id
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING id
)
SELECT count(*) FROM hastened
