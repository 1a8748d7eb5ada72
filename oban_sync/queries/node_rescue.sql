-- Give back the jobs of a node that died, and take its row away with the last of them.
--
--   uuid     text            the node
--   beats    bigint          its beats as they were seen: after another one it is alive
--   ids      bigint[]        only these jobs, or NULL for all
--   at_most  jobs            most jobs given back by one call
--   deaths   count           so many deaths of its process make a job suspect of causing them
--   spacing  seconds         between the starts of jobs that are suspect
--   reason   text            how the node was found dead, for the errors of the jobs
--   most     entries         how many errors a job keeps
--   channel  text            where nodes listen for available jobs
--
-- Gives: id, queue, state of every job given back, and gone (whether the row went too). One row
-- without a job when there was none.
--
-- The attempt is not spent. meta.rescued counts the deaths, meta.rescued_start remembers the start
-- that was cut off: an outcome of that very start is still accepted until the job starts again.
--
-- A job that was running at `deaths` deaths is given up, if no other suspect ran beside it: which
-- one of several it was cannot be told. Suspects therefore start one after the other, the one
-- started last before the others, and each further death doubles the distance.
WITH dead AS MATERIALIZED (
    SELECT node.uuid, node.node
    FROM /* schema */oban_sync_nodes AS node
    WHERE node.uuid = %(uuid)s::text
      AND node.beats = %(beats)s::bigint
    -- Whoever waited would go on by what it saw before the wait.
    FOR UPDATE SKIP LOCKED
),
mine AS MATERIALIZED (
    SELECT
        job.id,
        job.attempted_at,
        job.attempt,
        /* schema */oban_sync_unwanted(job.meta, job.attempted_at) AS unwanted,
        1 + CASE
            WHEN jsonb_typeof(job.meta -> 'rescued') = 'number'
                THEN greatest(0, least(1000, (job.meta ->> 'rescued')::numeric))::integer
            ELSE 0
        END AS deaths
    FROM /* schema */oban_jobs AS job
    WHERE job.state = 'executing'
      AND job.attempted_by[2] = ANY (ARRAY(
          SELECT producer.uuid
          FROM /* schema */oban_sync_producers AS producer
          CROSS JOIN dead
          WHERE producer.node_uuid = dead.uuid
      ))
),
ranked AS MATERIALIZED (
    SELECT
        mine.*,
        mine.deaths >= %(deaths)s::integer - 1 AS suspect,
        count(*) FILTER (WHERE mine.deaths >= %(deaths)s::integer - 1) OVER () AS suspects,
        row_number() OVER (
            PARTITION BY mine.deaths >= %(deaths)s::integer - 1
            ORDER BY mine.attempted_at DESC, mine.id
        ) - 1 AS place
    FROM mine
),
verdict AS MATERIALIZED (
    SELECT
        ranked.*,
        CASE
            WHEN ranked.unwanted THEN 'cancelled'
            WHEN ranked.deaths >= %(deaths)s::integer AND ranked.suspects = 1 THEN 'discarded'
            WHEN ranked.deaths >= 4 * %(deaths)s::integer THEN 'discarded'
            WHEN ranked.suspect AND ranked.place > 0 THEN 'scheduled'
            ELSE 'available'
        END AS state
    FROM ranked
),
held AS MATERIALIZED (
    SELECT job.id
    FROM /* schema */oban_jobs AS job
    WHERE job.id = ANY (ARRAY(SELECT mine.id FROM mine))
      AND (%(ids)s::bigint[] IS NULL OR job.id = ANY (%(ids)s::bigint[]))
      AND job.state::text = 'executing'
      -- Looked at once more in the row that is locked: it may be another node's by now.
      AND job.attempted_by[2] = ANY (ARRAY(
          SELECT producer.uuid
          FROM /* schema */oban_sync_producers AS producer
          CROSS JOIN dead
          WHERE producer.node_uuid = dead.uuid
      ))
    ORDER BY job.id
    LIMIT %(at_most)s::integer
    FOR UPDATE SKIP LOCKED
),
rescued AS (
    UPDATE /* schema */oban_jobs AS job
    SET state = verdict.state::/* schema */oban_job_state,
        attempt = CASE
            WHEN verdict.state IN ('available', 'scheduled') THEN greatest(job.attempt - 1, 0)
            ELSE job.attempt
        END,
        scheduled_at = CASE
            WHEN verdict.state = 'scheduled' THEN timezone('UTC', now()) + make_interval(
                secs => verdict.place * %(spacing)s::double precision
                    * 2 ^ least(verdict.deaths - %(deaths)s::integer + 1, 8)
            )
            ELSE job.scheduled_at
        END,
        cancelled_at = CASE
            WHEN verdict.state = 'cancelled' THEN timezone('UTC', now()) ELSE job.cancelled_at
        END,
        discarded_at = CASE
            WHEN verdict.state = 'discarded' THEN timezone('UTC', now()) ELSE job.discarded_at
        END,
        meta = CASE
            WHEN jsonb_typeof(job.meta) = 'object' THEN job.meta ELSE '{}'
        END || jsonb_build_object(
            'rescued', verdict.deaths,
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
                    'Node ', to_json(dead.node), ' was found dead while it ran this job (',
                    %(reason)s::text, '). ',
                    CASE verdict.state
                        WHEN 'discarded' THEN concat(
                            'That was death ', verdict.deaths, ' with this job running, so it is ',
                            'taken for the cause and given up; retry it to run it again.'
                        )
                        WHEN 'cancelled' THEN 'It had been asked to stop.'
                        ELSE 'It is run again, and the attempt is not spent.'
                    END
                )
            ),
            %(most)s::integer
        )
    FROM verdict
    CROSS JOIN dead
    WHERE job.id = verdict.id
      AND job.id = ANY (ARRAY(SELECT held.id FROM held))
    RETURNING job.id, job.queue, verdict.state
),
gone AS (
    DELETE FROM /* schema */oban_sync_nodes
    WHERE uuid = (SELECT dead.uuid FROM dead)
      AND (SELECT count(*) FROM mine) = (SELECT count(*) FROM held)
    RETURNING uuid
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
    (SELECT count(*) FROM gone) = 1 AS gone,
    told.count
FROM (SELECT count(*) FROM told) AS told
LEFT JOIN rescued ON true
