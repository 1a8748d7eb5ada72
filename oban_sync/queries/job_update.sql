-- Change columns of jobs; those that are not given stay as they are.
--
--   changes      JSON as text  array of {id} and any of the columns below; scheduled_at is naive UTC
--   transaction  text          the one that read the jobs, if they may not have changed since, or ''
--   channel      text          where nodes listen for available jobs
--
-- Gives: the columns of every job changed, jsonb and timestamps as text. Nodes are woken at commit
-- where a job became available, or is available in another queue.
--
-- meta is merged: another writer's keys stay, and so does the key of a unique job. A job that waits
-- for its time moves between scheduled and available with it, and its deadline moves along.
WITH change AS (
    SELECT *
    FROM pg_catalog.jsonb_to_recordset(%(changes)s::text::jsonb) AS change (
        id bigint,
        args jsonb,
        max_attempts integer,
        meta jsonb,
        priority integer,
        queue text,
        schedule_in double precision,
        scheduled_at timestamp,
        tags text[],
        worker text
    )
),
changed AS (
    UPDATE /* schema */oban_jobs AS job
    SET args = coalesce(change.args, job.args),
        max_attempts = coalesce(change.max_attempts, job.max_attempts),
        meta = /* schema */oban_sync_with_deadline(
            CASE
                WHEN change.meta IS NULL THEN job.meta
                WHEN jsonb_typeof(job.meta) = 'object'
                    THEN job.meta || (change.meta - ARRAY['uniq', 'uniq_bmp', 'uniq_key'])
                ELSE change.meta
            END,
            NULL,
            coalesce(
                timezone('UTC', now()) + make_interval(secs => change.schedule_in),
                change.scheduled_at
            )
        ),
        priority = coalesce(change.priority, job.priority),
        queue = coalesce(change.queue, job.queue),
        scheduled_at = coalesce(
            timezone('UTC', now()) + make_interval(secs => change.schedule_in),
            change.scheduled_at,
            job.scheduled_at
        ),
        state = CASE
            WHEN job.state::text = 'available'
                AND coalesce(
                    change.schedule_in > 0, change.scheduled_at > timezone('UTC', now())
                )
                THEN 'scheduled'
            WHEN job.state::text = 'scheduled'
                AND coalesce(
                    change.schedule_in <= 0, change.scheduled_at <= timezone('UTC', now())
                )
                THEN 'available'
            ELSE job.state::text
        END::/* schema */oban_job_state,
        tags = coalesce(change.tags, job.tags),
        worker = coalesce(change.worker, job.worker)
    FROM change
    WHERE job.id = change.id
      AND (
          %(transaction)s::text = ''
          OR %(transaction)s::text = pg_catalog.txid_current()::text
      )
    RETURNING
        job.*,
        coalesce(change.queue, change.schedule_in::text, change.scheduled_at::text) IS NOT NULL
            AS moved
),
told AS (
    SELECT pg_notify(
        %(channel)s::text, pg_catalog.concat('{"queue":', pg_catalog.to_json(woken.queue), '}')
    )
    FROM (
        SELECT DISTINCT changed.queue
        FROM changed
        WHERE changed.moved
          AND changed.state::text = 'available'
    ) AS woken
)
SELECT
    id,
    state::text AS state,
    queue,
    worker,
    attempt,
    max_attempts,
    priority,
    args::text AS args,
    meta::text AS meta,
    tags,
    pg_catalog.to_jsonb(errors)::text AS errors,
    attempted_by,
    pg_catalog.to_json(inserted_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS inserted_at,
    pg_catalog.to_json(scheduled_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS scheduled_at,
    pg_catalog.to_json(attempted_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS attempted_at,
    pg_catalog.to_json(completed_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS completed_at,
    pg_catalog.to_json(cancelled_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS cancelled_at,
    pg_catalog.to_json(discarded_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS discarded_at
FROM changed
CROSS JOIN (SELECT count(*) FROM told) AS told
