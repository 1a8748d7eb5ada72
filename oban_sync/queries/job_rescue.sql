-- Give back executing jobs whose owner cannot be known, by their age.
--
--   rescue_after  seconds    since their start
--   ids           bigint[]   only these jobs, or NULL for all
--   at_most       jobs       most jobs given back by one call
--   most          entries    how many errors a job keeps
--   channel       text       where nodes listen for available jobs
--
-- Gives: id, queue, state of every job given back. One row without a job when there was none.
--
-- Jobs of our own nodes are not among them, however long they run, nor those of oban-py's producers
-- that still report. While nodes of Oban for Elixir are about, which report nowhere, a job is given
-- an hour, as their own lifeline does. The attempt was spent, as by theirs.
--
-- The sum keeps the planner off the primary key, along which it would look at every job there is.
WITH patience AS MATERIALIZED (
    SELECT make_interval(secs => greatest(
        %(rescue_after)s::double precision,
        CASE
            WHEN EXISTS (
                SELECT FROM /* schema */oban_peers WHERE expires_at > timezone('UTC', now())
            ) THEN 3600
            ELSE 0
        END
    )) AS age
),
orphan AS MATERIALIZED (
    SELECT job.id
    FROM /* schema */oban_jobs AS job
    WHERE job.state = 'executing'
      AND coalesce(job.attempted_at, job.inserted_at)
          < timezone('UTC', now()) - (SELECT patience.age FROM patience)
      AND NOT EXISTS (
          SELECT FROM /* schema */oban_sync_producers AS producer
          WHERE producer.uuid = job.attempted_by[2]
      )
      AND NOT EXISTS (
          SELECT FROM /* schema */oban_producers AS producer
          WHERE producer.uuid::text = job.attempted_by[2]
            AND producer.updated_at > timezone('UTC', now()) - make_interval(secs => 60)
      )
      AND (%(ids)s::bigint[] IS NULL OR job.id = ANY (%(ids)s::bigint[]))
    ORDER BY job.id + 0
    LIMIT %(at_most)s::integer
    FOR UPDATE SKIP LOCKED
),
rescued AS (
    UPDATE /* schema */oban_jobs AS job
    SET state = CASE
            WHEN /* schema */oban_sync_unwanted(job.meta, job.attempted_at) THEN 'cancelled'
            WHEN job.attempt < job.max_attempts THEN 'available'
            ELSE 'discarded'
        END::/* schema */oban_job_state,
        cancelled_at = CASE
            WHEN /* schema */oban_sync_unwanted(job.meta, job.attempted_at) THEN timezone('UTC', now())
            ELSE job.cancelled_at
        END,
        discarded_at = CASE
            WHEN job.attempt < job.max_attempts OR /* schema */oban_sync_unwanted(job.meta, job.attempted_at)
                THEN job.discarded_at
            ELSE timezone('UTC', now())
        END,
        meta = CASE
            WHEN jsonb_typeof(job.meta) = 'object' THEN job.meta ELSE '{}'
        END || jsonb_build_object(
            'rescued',
            1 + CASE
                WHEN jsonb_typeof(job.meta -> 'rescued') = 'number'
                    THEN greatest(0, least(1000, (job.meta ->> 'rescued')::numeric))::integer
                ELSE 0
            END,
            'rescued_start',
            jsonb_build_object('at', to_jsonb(job.attempted_at), 'attempt', job.attempt)
        ),
        errors = /* schema */oban_sync_add_error(
            job.errors,
            jsonb_build_object(
                'at',
                to_json(timezone('UTC', now())) OPERATOR(pg_catalog.#>>) '{}'::text[] || 'Z',
                'attempt', job.attempt,
                'error', concat(
                    'Nobody is known to run this job, started ',
                    timezone('UTC', now()) - job.attempted_at,
                    ' ago by node ', coalesce(to_json(job.attempted_by[1])::text, 'unknown'), '. ',
                    CASE
                        WHEN /* schema */oban_sync_unwanted(job.meta, job.attempted_at) THEN 'It had been asked to stop.'
                        WHEN job.attempt < job.max_attempts THEN 'It is run again.'
                        ELSE 'No attempts are left.'
                    END
                )
            ),
            %(most)s::integer
        )
    WHERE job.id = ANY (ARRAY(SELECT orphan.id FROM orphan))
    RETURNING job.id, job.queue, job.state::text AS state
),
told AS (
    SELECT pg_notify(
        %(channel)s::text, pg_catalog.concat('{"queue":', pg_catalog.to_json(woken.queue), '}')
    )
    FROM (SELECT DISTINCT queue FROM rescued WHERE state = 'available') AS woken
)
SELECT
    rescued.id,
    rescued.queue,
    rescued.state,
    told.count
FROM (SELECT count(*) FROM told) AS told
LEFT JOIN rescued ON true
