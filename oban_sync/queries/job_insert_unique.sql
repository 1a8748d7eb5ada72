-- Store jobs of which some are unique, in the order given, but for those that are there already.
--
--   jobs    JSON as text      array of objects with the columns below; scheduled_at is naive UTC, and
--                             meta is {} where there is none
--   usual   JSON as text      object with the plain columns, for the jobs that have none of their own
--   ids     bigint[] as text  their ids, where they were drawn before, or NULL
--   count   jobs              how many ids to draw else
--   states  text[] as text    a job in one of these counts as the same, where a row has no others
--   period  seconds           and only if it is no older, or NULL for ever; likewise
--
-- Gives: id, inserted_at, scheduled_at of the jobs that were stored; ids grow in the order of the
-- array. Unless that is all of them, also the id alone of every job. Without scheduled_at it is the
-- same as inserted_at.
--
-- The index decides, and waits for whoever inserts the same key at the moment. Keys are inserted in
-- their order, so that two such statements cannot wait for each other; ids are drawn before that. Of
-- jobs with one key the first wins. What gave up its key is looked up, where there is such a job: it
-- counts all the same. The sort keeps that look on its index.
--
-- In tables of oban-py ids are ALWAYS GENERATED, hence the OVERRIDING. LIMIT keeps its subselect from
-- being turned into a join, which might read the whole table.
WITH drawn AS MATERIALIZED (
    SELECT coalesce(
        %(ids)s::text::bigint[],
        ARRAY(
            SELECT pg_catalog.nextval((
                SELECT coalesce(
                    pg_get_serial_sequence(quote_ident(/* schema literal */) || '.oban_jobs', 'id'),
                    quote_ident(/* schema literal */) || '.oban_jobs_id_seq'
                )::regclass
            ))
            FROM pg_catalog.generate_series(1, %(count)s::text::integer)
        )
    ) AS ids
),
yielded AS MATERIALIZED (
    SELECT EXISTS (
        SELECT
        FROM (
            SELECT
            FROM /* schema */oban_jobs AS former
            WHERE former.meta ? 'uniq_key'
              AND former.meta -> 'uniq_bmp' = '[]'
              AND /* schema */oban_sync_own_key(former.meta)
            ORDER BY former.meta ->> 'uniq_key'
            LIMIT 1
        ) AS former
    ) AS any
),
stored AS (
    INSERT INTO /* schema */oban_jobs
        (
            id,
            state,
            queue,
            worker,
            args,
            meta,
            tags,
            priority,
            max_attempts,
            scheduled_at,
            inserted_at
        )
    OVERRIDING SYSTEM VALUE
    SELECT
        (SELECT drawn.ids FROM drawn)[job.position],
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
            given.states,
            given.period,
            given.position,
            given.meta OPERATOR(pg_catalog.->>) 'uniq_key' AS key,
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
                scheduled_at timestamp,
                states text,
                period double precision
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
            states,
            period,
            position
        )
    ) AS job
    WHERE job.key IS NULL
       OR NOT (SELECT yielded.any FROM yielded)
       OR (
          SELECT true
          FROM /* schema */oban_jobs AS former
          WHERE former.meta ->> 'uniq_key' = job.key
            AND former.meta ? 'uniq_key'
            AND former.meta -> 'uniq_bmp' = '[]'
            AND /* schema */oban_sync_own_key(former.meta)
            AND former.state = ANY (
                coalesce(job.states, %(states)s::text)::/* schema */oban_job_state[]
            )
            AND former.inserted_at > coalesce(
                timezone('UTC', now()) - make_interval(
                    secs => CASE
                        WHEN job.states IS NULL THEN %(period)s::text::double precision
                        ELSE job.period
                    END
                ),
                '-infinity'
            )
          LIMIT 1
       ) IS NULL
    ORDER BY job.key COLLATE "C", job.position
    ON CONFLICT ((meta ->> 'uniq_key'))
        WHERE meta ? 'uniq_key' AND /* schema */oban_sync_watched(state, meta)
        DO NOTHING
    RETURNING id, inserted_at, scheduled_at
)
SELECT
    stored.id,
    CASE
        WHEN stored.inserted_at = timezone('UTC', now()) THEN (
            SELECT pg_catalog.to_json(timezone('UTC', now())) OPERATOR(pg_catalog.#>>) '{}'::text[]
        )
        ELSE pg_catalog.to_json(stored.inserted_at) OPERATOR(pg_catalog.#>>) '{}'::text[]
    END AS inserted_at,
    CASE
        WHEN stored.scheduled_at <> stored.inserted_at
            THEN pg_catalog.to_json(stored.scheduled_at) OPERATOR(pg_catalog.#>>) '{}'::text[]
    END AS scheduled_at
FROM stored
UNION ALL
SELECT
    pg_catalog.unnest(drawn.ids),
    NULL,
    NULL
FROM drawn
WHERE (SELECT count(*) FROM stored) < pg_catalog.cardinality(drawn.ids)
