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
    failed.state::text AS state,
    failed.queue,
    failed.worker,
    failed.attempt,
    failed.max_attempts,
    least(greatest(failed.failed_at, '1970-01-01'), '9000-01-01') AT TIME ZONE 'UTC' AS failed_at,
    CASE
        WHEN length(failed.error) > 2 * %(characters)s::integer
            THEN concat(
                left(failed.error, %(characters)s::integer),
                E'\n',
                right(failed.error, %(characters)s::integer)
            )
        ELSE failed.error
    END AS error
FROM (
    SELECT
        job.id,
        job.state,
        job.queue,
        job.worker,
        job.attempt,
        job.max_attempts,
        coalesce(
            CASE WHEN job.state = 'discarded' THEN job.discarded_at END,
            job.attempted_at,
            job.inserted_at
        ) AS failed_at,
        pg_catalog.to_jsonb(job.errors) -> -1 ->> 'error' AS error
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
) AS failed
ORDER BY failed.failed_at DESC, failed.id DESC
LIMIT %(most)s::integer
