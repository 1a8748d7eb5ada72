-- Make due jobs available, and tell which queues have available jobs.
--
--   queues   text[]            the queues to look after
--   most     jobs              most jobs changed by one call; call again while it returns that many
--   shunned  bigint[] as text  jobs that could not be staged before
--   channel  text              where nodes listen for available jobs
--
-- Gives: staged (how many), awake (the queues that have available jobs, the staged ones included).
--
-- Rows that another transaction holds are skipped; the next call gets them. awake backs up the
-- notifications: a node that missed one finds its jobs by this. LIMIT keeps its subselect from being
-- turned into a join, which would read all available jobs.
WITH staged AS (
    UPDATE /* schema */oban_jobs AS job
    SET state = 'available'
    WHERE job.id = ANY (ARRAY(
        SELECT id
        FROM /* schema */oban_jobs
        WHERE state IN ('scheduled', 'retryable')
          AND scheduled_at <= timezone('UTC', now())
          AND queue = ANY (%(queues)s::text[])
          AND id <> ALL (%(shunned)s::text::bigint[])
        ORDER BY scheduled_at, id
        LIMIT %(most)s::integer
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING job.queue
),
woken AS (
    SELECT queue, count(*) AS jobs FROM staged GROUP BY queue
),
told AS (
    SELECT pg_notify(
        %(channel)s::text, pg_catalog.concat('{"queue":', pg_catalog.to_json(queue), '}')
    )
    FROM woken
)
SELECT
    (SELECT coalesce(sum(jobs), 0)::integer FROM woken) AS staged,
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
        UNION
        SELECT queue FROM woken
    ) AS awake,
    (SELECT count(*) FROM told) AS told
