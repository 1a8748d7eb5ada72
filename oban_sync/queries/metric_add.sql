-- Add what was counted to what is there.
--
--   period  seconds         how long the periods are
--   rows    JSON as text    array of {scope, at, age, name, node, queue, worker, state, jobs, failed,
--                           exec_time, wait_time}: when the period began, in seconds since 1970, or
--                           else seconds since its middle; packed sketches in hexadecimal digits
--
-- Gives: nothing; the count of rows is that of the rows written.
--
-- By PostgreSQL's clock, so that what nodes counted at the same time comes together whatever theirs
-- say. Several nodes may be called the same, and a period may be written more than once: so it is added.
INSERT INTO /* schema */oban_sync_metrics AS metric
    (
        scope, period, started_at, name, node, queue, worker, state, jobs, failed, exec_time, wait_time
    )
SELECT
    given.scope,
    %(period)s::integer,
    to_timestamp(
        coalesce(
            given.at,
            floor(
                (extract(epoch FROM now())::double precision - given.age)
                / %(period)s::integer
            ) * %(period)s::integer
        )
    ) AS started_at,
    given.name,
    given.node,
    given.queue,
    given.worker,
    given.state,
    given.jobs,
    given.failed,
    decode(given.exec_time, 'hex'),
    decode(given.wait_time, 'hex')
FROM pg_catalog.jsonb_to_recordset(%(rows)s::text::jsonb) AS given (
    scope text,
    at double precision,
    age double precision,
    name text,
    node text,
    queue text,
    worker text,
    state text,
    jobs bigint,
    failed bigint,
    exec_time text,
    wait_time text
)
ORDER BY
    given.scope, started_at, given.queue, given.worker, given.state, given.node, given.name
ON CONFLICT (scope, period, started_at, queue, worker, state, node, name) DO UPDATE
SET jobs = metric.jobs + excluded.jobs,
    failed = metric.failed + excluded.failed,
    exec_time = metric.exec_time || excluded.exec_time,
    wait_time = metric.wait_time || excluded.wait_time
