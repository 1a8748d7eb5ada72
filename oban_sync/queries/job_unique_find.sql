-- Find the jobs in whose favour new ones were not stored, and clear the way where there are none.
--
--   jobs     JSON as text  array of objects with the columns below, as for the insert
--   channel  text          where nodes listen for available jobs
--
-- Gives: position in the array, and the columns of the job that is there in its place, jsonb and
-- timestamps as text; of one that gave way only the id. Of a job without a row, the one that was
-- there has gone, or become another's business, since the insert was refused.
--
-- A job that holds the key, but is in a state that does not count for the new one, or older than its
-- period, gives its key up. Fields named in `replace` for its state are taken from the new job; of
-- several new ones the last counts. meta is merged, and a deadline moves with the time.
--
-- LIMIT keeps its subselect from being turned into a join, which might read the whole table.
WITH job AS MATERIALIZED (
    SELECT
        given.*,
        given.meta OPERATOR(pg_catalog.->>) 'uniq_key' AS key,
        coalesce(
            timezone('UTC', now()) + make_interval(secs => given.schedule_in),
            given.scheduled_at,
            timezone('UTC', now())
        ) AS start,
        coalesce(
            timezone('UTC', now()) - make_interval(secs => given.period), '-infinity'
        ) AS since
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
            period double precision,
            replace jsonb
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
        replace,
        position
    )
),
found AS MATERIALIZED (
    SELECT
        job.position,
        one.id,
        one.counts,
        one.state,
        CASE WHEN one.counts THEN one.fields END AS fields
    FROM job
    CROSS JOIN LATERAL (
        SELECT
            holder.id,
            holder.state::text AS state,
            holder.state::text = ANY (job.states::text[]) AND holder.inserted_at > job.since AS counts,
            job.replace -> holder.state::text AS fields
        FROM /* schema */oban_jobs AS holder
        WHERE holder.meta ->> 'uniq_key' = job.key
          AND holder.meta ? 'uniq_key'
          AND /* schema */oban_sync_watched(holder.state, holder.meta)
        UNION ALL
        SELECT
            former.id,
            former.state::text,
            true,
            job.replace -> former.state::text
        FROM /* schema */oban_jobs AS former
        WHERE former.meta ->> 'uniq_key' = job.key
          AND former.meta ? 'uniq_key'
          AND former.meta -> 'uniq_bmp' = '[]'
          AND /* schema */oban_sync_own_key(former.meta)
          AND former.state = ANY (job.states::/* schema */oban_job_state[])
          AND former.inserted_at > job.since
        ORDER BY counts DESC, id
        LIMIT 1
    ) AS one
),
held AS MATERIALIZED (
    SELECT
        one.id,
        one.meta
    FROM /* schema */oban_jobs AS one
    WHERE one.id = ANY (ARRAY(
        SELECT found.id FROM found WHERE NOT found.counts OR found.fields IS NOT NULL
    ))
    ORDER BY one.id
    FOR UPDATE
),
wish AS MATERIALIZED (
    SELECT DISTINCT ON (held.id)
        held.id,
        found.counts,
        found.fields,
        found.state AS found_in,
        job.*,
        CASE
            WHEN NOT found.counts THEN held.meta || '{"uniq_bmp": []}'
            WHEN found.fields ? 'meta'
                THEN held.meta || (job.meta - ARRAY['uniq', 'uniq_bmp', 'uniq_key'])
            ELSE held.meta
        END AS merged,
        CASE WHEN found.fields ? 'meta' THEN job.deadline END AS seconds
    FROM held
    JOIN found ON found.id = held.id
    JOIN job ON job.position = found.position
    ORDER BY held.id, found.counts DESC, found.position DESC
),
changed AS (
    UPDATE /* schema */oban_jobs AS one
    SET args = CASE WHEN wish.fields ? 'args' THEN wish.args ELSE one.args END,
        max_attempts = CASE
            WHEN wish.fields ? 'max_attempts' THEN greatest(
                wish.max_attempts,
                one.attempt + CASE
                    WHEN one.state::text IN ('executing', 'completed', 'cancelled', 'discarded')
                        THEN 0
                    ELSE 1
                END
            )
            ELSE one.max_attempts
        END,
        priority = CASE WHEN wish.fields ? 'priority' THEN wish.priority ELSE one.priority END,
        queue = CASE WHEN wish.fields ? 'queue' THEN wish.queue ELSE one.queue END,
        worker = CASE WHEN wish.fields ? 'worker' THEN wish.worker ELSE one.worker END,
        tags = CASE WHEN wish.fields ? 'tags' THEN wish.tags ELSE one.tags END,
        scheduled_at = CASE
            WHEN wish.fields ? 'scheduled_at' THEN wish.start ELSE one.scheduled_at
        END,
        state = CASE
            WHEN NOT coalesce(wish.fields ? 'scheduled_at', false) THEN one.state::text
            WHEN one.state::text = 'available' AND wish.start > timezone('UTC', now())
                THEN 'scheduled'
            WHEN one.state::text = 'scheduled' AND wish.start <= timezone('UTC', now())
                THEN 'available'
            ELSE one.state::text
        END::/* schema */oban_job_state,
        meta = CASE
            WHEN wish.fields ? 'scheduled_at'
                THEN /* schema */oban_sync_with_deadline(wish.merged, wish.seconds, wish.start)
            WHEN wish.fields ? 'meta'
                THEN /* schema */oban_sync_with_deadline(
                    wish.merged, wish.seconds, one.scheduled_at
                )
            ELSE wish.merged
        END
    FROM wish
    WHERE one.id = wish.id
      AND CASE
          WHEN wish.counts THEN one.state::text = wish.found_in
          ELSE /* schema */oban_sync_watched(one.state, one.meta)
              AND NOT (
                  one.state::text = ANY (wish.states::text[]) AND one.inserted_at > wish.since
              )
      END
    RETURNING
        one.id,
        one AS whole,
        wish.counts,
        wish.fields ?| ARRAY['queue', 'scheduled_at'] AS moved
),
there AS (
    SELECT changed.id, changed.whole FROM changed WHERE changed.counts
    UNION ALL
    SELECT one.id, one
    FROM /* schema */oban_jobs AS one
    WHERE one.id = ANY (ARRAY(
        SELECT found.id
        FROM found
        WHERE found.counts AND found.id <> ALL (ARRAY(SELECT held.id FROM held))
    ))
),
told AS (
    SELECT pg_notify(
        %(channel)s::text, pg_catalog.concat('{"queue":', pg_catalog.to_json(woken.queue), '}')
    )
    FROM (
        SELECT DISTINCT (changed.whole).queue
        FROM changed
        WHERE changed.counts
          AND changed.moved
          AND (changed.whole).state::text = 'available'
    ) AS woken
)
SELECT
    found.position,
    found.id,
    (there.whole).state::text AS state,
    (there.whole).queue AS queue,
    (there.whole).worker AS worker,
    (there.whole).attempt AS attempt,
    (there.whole).max_attempts AS max_attempts,
    (there.whole).priority AS priority,
    (there.whole).args::text AS args,
    (there.whole).meta::text AS meta,
    (there.whole).tags AS tags,
    pg_catalog.to_jsonb((there.whole).errors)::text AS errors,
    (there.whole).attempted_by AS attempted_by,
    pg_catalog.to_json((there.whole).inserted_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS inserted_at,
    pg_catalog.to_json((there.whole).scheduled_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS scheduled_at,
    pg_catalog.to_json((there.whole).attempted_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS attempted_at,
    pg_catalog.to_json((there.whole).completed_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS completed_at,
    pg_catalog.to_json((there.whole).cancelled_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS cancelled_at,
    pg_catalog.to_json((there.whole).discarded_at) OPERATOR(pg_catalog.#>>) '{}'::text[] AS discarded_at
FROM found
LEFT JOIN there ON there.id = found.id AND found.counts
CROSS JOIN (SELECT count(*) FROM told) AS told
WHERE there.id IS NOT NULL
   OR found.id = ANY (ARRAY(SELECT changed.id FROM changed))
