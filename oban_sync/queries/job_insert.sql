-- Store jobs, in the order given.
--
--   jobs   JSON as text  array of objects with the columns below; scheduled_at is naive UTC, and meta is
--                        {} where there is none
--   usual  JSON as text  object with the plain columns, for the jobs that have none of their own
--
-- Gives: id, inserted_at, scheduled_at, one row per job; ids grow in the order of the array. Without
-- scheduled_at it is the same as inserted_at.
--
-- Parameters are text, so that any DB-API driver can run it. Nodes are woken by the table's trigger.
-- Delays count on the database's clock. The order of ids follows from the sort: PostgreSQL fills in
-- defaults after it. The time of most rows is made into text once, in a subselect of its own.
INSERT INTO /* schema */oban_jobs
    (state, queue, worker, args, meta, tags, priority, max_attempts, scheduled_at, inserted_at)
SELECT
    CASE
        WHEN job.schedule_in IS NULL AND job.scheduled_at IS NULL THEN 'available'
        ELSE 'scheduled'
    END::/* schema */oban_job_state,
    coalesce(job.queue, usual.queue),
    coalesce(job.worker, usual.worker),
    job.args,
    CASE
        WHEN job.deadline IS NULL THEN job.meta
        ELSE /* schema */oban_sync_with_deadline(job.meta, job.deadline, job.start)
    END,
    coalesce(job.tags, usual.tags),
    coalesce(job.priority, usual.priority),
    coalesce(job.max_attempts, usual.max_attempts),
    job.start,
    timezone('UTC', now())
FROM pg_catalog.jsonb_to_record(%(usual)s::text::jsonb) AS usual (
    queue text,
    worker text,
    tags text[],
    priority integer,
    max_attempts integer
)
CROSS JOIN (
    SELECT
        given.position,
        given.queue,
        given.worker,
        given.args,
        coalesce(given.meta, '{}') AS meta,
        given.tags,
        given.priority,
        given.max_attempts,
        given.schedule_in,
        given.deadline,
        given.scheduled_at,
        coalesce(
            timezone('UTC', now()) + make_interval(secs => given.schedule_in),
            given.scheduled_at,
            timezone('UTC', now())
        ) AS start
    FROM ROWS FROM (
        pg_catalog.jsonb_to_recordset(%(jobs)s::text::jsonb) AS (
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
    CASE
        WHEN inserted_at = timezone('UTC', now()) THEN (
            SELECT pg_catalog.to_json(timezone('UTC', now())) OPERATOR(pg_catalog.#>>) '{}'::text[]
        )
        ELSE pg_catalog.to_json(inserted_at) OPERATOR(pg_catalog.#>>) '{}'::text[]
    END AS inserted_at,
    CASE
        WHEN scheduled_at <> inserted_at
            THEN pg_catalog.to_json(scheduled_at) OPERATOR(pg_catalog.#>>) '{}'::text[]
    END AS scheduled_at
