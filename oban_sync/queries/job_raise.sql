-- Raise the priority of waiting jobs by the steps that are due.
--
--   ids           bigint[] as text  the jobs
--   waits         float8[] as text  seconds that each has to wait for its first step
--   priority      priority          the priority they have
--   max_priority  priority          the first they may get
--   interval      seconds           between two steps of a job
--
-- Gives: nothing; the count of rows is that of the jobs raised.
--
-- The last step of a job is kept with it, as the moment at which it was due, in the seconds of that
-- clock: the next is due one interval later, whoever takes it and whenever. So nobody takes a step
-- twice, and those that nobody took in time are made up for together. A job that was put off since
-- has to wait anew.
--
-- A job that another transaction holds is skipped; it may be starting just now. What others wrote
-- into meta is kept, and where that is no object the job stays as it is.
WITH wanted AS MATERIALIZED (
    SELECT *
    FROM ROWS FROM (
        pg_catalog.unnest(%(ids)s::text::bigint[]),
        pg_catalog.unnest(%(waits)s::text::float8[])
    ) AS wanted (id, wait)
),
held AS MATERIALIZED (
    SELECT
        job.id,
        greatest(
            pg_catalog.date_part('epoch', job.scheduled_at) + wanted.wait,
            CASE
                WHEN jsonb_typeof(job.meta -> 'oban_sync' -> 'raised_at') = 'number' THEN least(
                    greatest((job.meta -> 'oban_sync' ->> 'raised_at')::numeric, 0), 1e12
                )::float8 + %(interval)s::float8
            END,
            -- A job may be scheduled for -infinity, which no number is an interval later than.
            0
        ) AS due_at,
        pg_catalog.date_part('epoch', timezone('UTC', now())) AS moment
    FROM wanted
    JOIN /* schema */oban_jobs AS job ON job.id = wanted.id
    WHERE job.state::text = 'available'
      AND job.priority = %(priority)s::integer
      AND job.priority > %(max_priority)s::integer
      AND coalesce(jsonb_typeof(job.meta), 'object') = 'object'
    FOR UPDATE OF job SKIP LOCKED
),
due AS (
    SELECT
        held.id,
        held.due_at,
        pg_catalog.floor(
            least((held.moment - held.due_at) / %(interval)s::float8, 1000000000)
        )::integer AS further
    FROM held
    WHERE held.due_at <= held.moment
)
UPDATE /* schema */oban_jobs AS job
SET priority = greatest(%(max_priority)s::integer, job.priority - 1 - due.further),
    meta = coalesce(job.meta, '{}') || jsonb_build_object(
        'oban_sync',
        CASE
            WHEN jsonb_typeof(job.meta -> 'oban_sync') = 'object' THEN job.meta -> 'oban_sync'
            ELSE '{}'
        END || jsonb_build_object(
            'raised_at', pg_catalog.round(
                (due.due_at + due.further * %(interval)s::float8)::numeric, 3
            )
        )
    )
FROM due
WHERE job.id = due.id
