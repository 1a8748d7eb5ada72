-- Renew a node's lease, and bring back what was asked of it.
--
--   uuid              text            the node's identity
--   name              text            its Oban instance
--   node              text            what people call it
--   beats             bigint          how many beats there were, this one included
--   lock_key          bigint or NULL  what its LISTEN session holds a lock on, where sessions count
--   max_age           seconds         without a beat it is dead after these ...
--   unlocked_max_age  seconds         ... or after these, when its session is gone too
--   crons             text[]          the cron entries that its code declares
--   founder           boolean         it was alone when it started
--   info              JSON as text    what it is, or NULL: that and workers are as they were
--   workers           text[]          what it can run, or NULL for not known
--   producers         JSON as text    array of {uuid, queue, job_limit, paused}: all that it has
--   ping              text            a channel that only this node hears, told of the beat
--
-- Gives: fresh (whether the node's row had to be made: at the first beat, or because others took the
-- node for dead), cancels (its executing jobs that were asked to stop), controls (texts of JSON: what
-- was asked of queues, by seq, and whether it has ended).
WITH node AS (
    INSERT INTO /* schema */oban_sync_nodes AS node
        (
            uuid, name, node, beats, lock_key, max_age, unlocked_max_age, crons, founder,
            info, workers
        )
    VALUES (
        %(uuid)s::text,
        %(name)s::text,
        %(node)s::text,
        %(beats)s::bigint,
        %(lock_key)s::bigint,
        %(max_age)s::double precision,
        %(unlocked_max_age)s::double precision,
        %(crons)s::text[],
        %(founder)s::boolean,
        coalesce(%(info)s::text::jsonb, '{}'),
        %(workers)s::text[]
    )
    ON CONFLICT (uuid) DO UPDATE
    SET beats = excluded.beats,
        lock_key = excluded.lock_key,
        beat_at = now(),
        -- Not from what was to be inserted: it is empty where nothing is said.
        info = coalesce(%(info)s::text::jsonb, node.info),
        workers = CASE
            WHEN %(info)s::text IS NULL THEN node.workers ELSE %(workers)s::text[]
        END
    RETURNING node.uuid, node.xmax = 0 AS fresh
),
given AS MATERIALIZED (
    SELECT given.*
    FROM pg_catalog.jsonb_to_recordset(%(producers)s::text::jsonb) AS given (
        uuid text, queue text, job_limit integer, paused boolean
    )
),
kept AS (
    INSERT INTO /* schema */oban_sync_producers AS producer
        (uuid, node_uuid, queue, job_limit, paused)
    SELECT given.uuid, node.uuid, given.queue, given.job_limit, given.paused
    FROM given
    CROSS JOIN node
    ON CONFLICT (uuid) DO UPDATE
    SET job_limit = excluded.job_limit,
        paused = excluded.paused
    WHERE producer.job_limit <> excluded.job_limit
       OR producer.paused <> excluded.paused
),
gone AS (
    DELETE FROM /* schema */oban_sync_producers
    WHERE node_uuid = %(uuid)s::text
      AND uuid <> ALL (ARRAY(SELECT given.uuid FROM given))
),
told AS (
    SELECT pg_notify(%(ping)s::text, '{"beats":' || %(beats)s::bigint || '}')
)
SELECT
    node.fresh,
    ARRAY(
        SELECT job.id
        FROM /* schema */oban_jobs AS job
        WHERE job.state = 'executing'
          AND job.meta ? 'cancel_requested_at'
          AND /* schema */oban_sync_unwanted(job.meta, job.attempted_at)
          AND job.attempted_by[2] = ANY (ARRAY(SELECT given.uuid FROM given))
    ) AS cancels,
    ARRAY(
        SELECT (
            to_jsonb(control) || jsonb_build_object(
                'ended', coalesce(control.until <= now(), false)
            )
        )::text
        FROM /* schema */oban_sync_controls AS control
        WHERE control.name = %(name)s::text
          AND control.node IN ('*', %(node)s::text)
        ORDER BY control.seq
    ) AS controls,
    (SELECT count(*) FROM told) AS told
FROM node
