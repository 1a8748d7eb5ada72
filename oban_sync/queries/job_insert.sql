-- Store jobs, in the order given.
--
--   jobs  JSON  array of objects with the columns below; scheduled_at is naive UTC
--
-- Gives: id, inserted_at, scheduled_at, one row per job; ids grow in the order of the array.
--
-- One parameter, as text, so that any DB-API driver can run it. Nodes are woken by the table's
-- trigger. Delays count on the database's clock. The order of ids follows from the sort: PostgreSQL
-- fills in defaults after it.
INSERT INTO /* schema */oban_jobs
    (state, queue, worker, args, meta, tags, priority, max_attempts, scheduled_at, inserted_at)
SELECT
    CASE
        WHEN job.schedule_in IS NULL AND job.scheduled_at IS NULL THEN 'available'
        ELSE 'scheduled'
    END::/* schema */oban_job_state,
    job.queue,
    job.worker,
    job.args,
    CASE
        WHEN job.deadline IS NULL THEN job.meta
        ELSE /* schema */oban_sync_with_deadline(job.meta, job.deadline, job.start)
    END,
    job.tags,
    job.priority,
    job.max_attempts,
    job.start,
    timezone('UTC', now())
FROM (
    SELECT
        *,
        coalesce(
            timezone('UTC', now()) + make_interval(secs => given.schedule_in),
            given.scheduled_at,
            timezone('UTC', now())
        ) AS start
    FROM ROWS FROM (
        pg_catalog.jsonb_to_recordset(%(jobs)s::jsonb) AS (
            queue text,
            worker text,
            args jsonb,
            meta jsonb,
            tags text[],
            priority integer,
            max_attempts integer,
            schedule_in double precision,
            deadline double precision,
            scheduled_at timestamp
        )
    ) WITH ORDINALITY AS given (
        queue,
        worker,
        args,
        meta,
        tags,
        priority,
        max_attempts,
        schedule_in,
        deadline,
        scheduled_at,
        position
    )
) AS job
ORDER BY job.position
RETURNING
    id,
    pg_catalog.to_json(inserted_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS inserted_at,
    pg_catalog.to_json(scheduled_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS scheduled_at
