-- Whether there is anything to stage, and which queues have available jobs.
--
--   queues   text[]            the queues looked after
--   shunned  bigint[] as text  jobs that could not be staged before
--
-- Gives: due (whether any job is), awake (the queues that have available jobs).
--
-- It changes and locks nothing, so that it can go along with a beat. LIMIT keeps the subselects from
-- being turned into joins, which would read all available jobs.
SELECT
    (
        SELECT true
        FROM /* schema */oban_jobs
        WHERE state IN ('scheduled', 'retryable')
          AND scheduled_at <= timezone('UTC', now())
          AND queue = ANY (%(queues)s::text[])
          AND id <> ALL (%(shunned)s::text::bigint[])
        ORDER BY scheduled_at, id
        LIMIT 1
    ) IS NOT NULL AS due,
    ARRAY(
        SELECT own.queue
        FROM pg_catalog.unnest(%(queues)s::text[]) AS own (queue)
        WHERE (
            SELECT true
            FROM /* schema */oban_jobs AS job
            WHERE job.state = 'available'
              AND job.queue = own.queue
              AND job.attempt < job.max_attempts
            ORDER BY job.priority, job.scheduled_at, job.id
            LIMIT 1
        )
        ORDER BY own.queue
    ) AS awake
