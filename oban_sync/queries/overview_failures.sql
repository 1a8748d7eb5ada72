-- Jobs that failed lately: discarded ones, and those that wait for another try.
--
--   within      jobs        most waiting jobs that are looked at; the first ones that come to run
--   characters  characters  most of an error that are given, from its start and from its end
--   most        jobs        most jobs given
--
-- Gives: id, state, queue, worker, attempt, max_attempts, failed_at, error (of the last try; NULL where
-- there is none), the newest first.
--
-- Goes along the indexes of the two states. There is none by the time at which jobs failed, but
-- whatever failed lately is tried again soon.
SELECT
    failed.id,
    failed.state,
    failed.queue,
    failed.worker,
    failed.attempt,
    failed.max_attempts,
    least(greatest(failed.failed_at, '1970-01-01'), '9000-01-01') AT TIME ZONE 'UTC' AS failed_at,
    CASE
        WHEN length(last.error) > 2 * %(characters)s::integer
            THEN concat(
                left(last.error, %(characters)s::integer),
                E'\n',
                right(last.error, %(characters)s::integer)
            )
        ELSE last.error
    END AS error
FROM (
    SELECT
        job.id,
        job.state::text AS state,
        job.queue,
        job.worker,
        job.attempt,
        job.max_attempts,
        coalesce(
            CASE WHEN job.state = 'discarded' THEN job.discarded_at END,
            job.attempted_at,
            job.inserted_at
        ) AS failed_at,
        job.errors
    FROM (
        (
            SELECT id, state, queue, worker, attempt, max_attempts, discarded_at, attempted_at,
                inserted_at, errors
            FROM /* schema */oban_jobs
            WHERE state = 'discarded'
            ORDER BY discarded_at DESC
            LIMIT %(most)s::integer
        )
        UNION ALL
        (
            SELECT id, state, queue, worker, attempt, max_attempts, discarded_at, attempted_at,
                inserted_at, errors
            FROM /* schema */oban_jobs
            WHERE state IN ('scheduled', 'retryable')
            ORDER BY scheduled_at, id
            LIMIT %(within)s::integer
        )
    ) AS job
    WHERE job.state IN ('discarded', 'retryable')
    ORDER BY failed_at DESC, job.id DESC
    LIMIT %(most)s::integer
) AS failed
-- Of these alone, because errors may be long.
CROSS JOIN LATERAL (
    SELECT pg_catalog.to_jsonb(failed.errors) -> -1 ->> 'error' AS error
    OFFSET 0
) AS last
ORDER BY failed.failed_at DESC, failed.id DESC
