-- Store one job, as job_insert does, in less of PostgreSQL's time: nothing is sorted, and there is no set.
--
--   usual  JSON as text  object with the plain columns; tags are not among those that are looked at
--   job    JSON as text  object with args, and meta, schedule_in, scheduled_at where it has them
--
-- Gives: id, inserted_at, scheduled_at, as job_insert.
--
-- For jobs without tags and deadline. The parameters are cast once, and not by way of text: they are
-- looked into several times.
INSERT INTO /* schema */oban_jobs
    (state, queue, worker, args, meta, tags, priority, max_attempts, scheduled_at, inserted_at)
VALUES (
    CASE
        WHEN %(job)s::jsonb OPERATOR(pg_catalog.->>) 'schedule_in' IS NULL
            AND %(job)s::jsonb OPERATOR(pg_catalog.->>) 'scheduled_at' IS NULL THEN 'available'
        ELSE 'scheduled'
    END::/* schema */oban_job_state,
    %(usual)s::jsonb OPERATOR(pg_catalog.->>) 'queue',
    %(usual)s::jsonb OPERATOR(pg_catalog.->>) 'worker',
    %(job)s::jsonb OPERATOR(pg_catalog.->) 'args',
    coalesce(%(job)s::jsonb OPERATOR(pg_catalog.->) 'meta', '{}'),
    '{}',
    (%(usual)s::jsonb OPERATOR(pg_catalog.->>) 'priority')::integer,
    (%(usual)s::jsonb OPERATOR(pg_catalog.->>) 'max_attempts')::integer,
    coalesce(
        timezone('UTC', now()) + make_interval(
            secs => (%(job)s::jsonb OPERATOR(pg_catalog.->>) 'schedule_in')::double precision
        ),
        (%(job)s::jsonb OPERATOR(pg_catalog.->>) 'scheduled_at')::timestamp,
        timezone('UTC', now())
    ),
    timezone('UTC', now())
)
RETURNING
    id,
    pg_catalog.to_json(inserted_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS inserted_at,
    CASE
        WHEN scheduled_at <> inserted_at
            THEN pg_catalog.to_json(scheduled_at) OPERATOR(pg_catalog.#>>) '{}'::text[]
    END AS scheduled_at
