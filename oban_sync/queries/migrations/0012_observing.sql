-- What people look at: what ran and how long it took, what jobs logged, what nodes are, who did what.

-- What ran, added up by time: curves are drawn from these rows, never from counting jobs. One row
-- stands for `period` seconds from `started_at` on; nodes write the shortest periods, and the leader
-- sums up old ones to longer periods.
--
-- exec_time and wait_time are sketches: pairs of two little-endian bytes each, how many jobs there are
-- in a bin, and the bin, where bin b holds times of up to (1.02 / 0.98) ^ 2b nanoseconds; the count of a
-- bin with 32,768 added is one of 65,536 jobs each. A bin may come again, so two sketches are added by
-- putting one behind the other.
--
-- Every job is in each scope once, so that every curve is read from few rows:
--
--   raw       as a node wrote it; of these the leader makes the others some seconds later
--   each      by node, queue, worker and state, without times
--   queues    by queue
--   workers   by queue and worker
--   outcomes  by queue and state
--   nodes     by node and state
--   states    by state
--
-- What rows of a scope are not told apart by is '' in them. Of `jobs`, so many `failed`, to be tried
-- again or not.
CREATE TABLE IF NOT EXISTS /* schema */oban_sync_metrics (
    scope text NOT NULL DEFAULT 'raw',
    period integer NOT NULL,
    started_at timestamptz NOT NULL,
    name text NOT NULL,
    node text NOT NULL,
    queue text NOT NULL,
    worker text NOT NULL,
    state text NOT NULL,
    jobs bigint NOT NULL,
    failed bigint NOT NULL DEFAULT 0,
    exec_time bytea NOT NULL DEFAULT '',
    wait_time bytea NOT NULL DEFAULT '',

    PRIMARY KEY (scope, period, started_at, queue, worker, state, node, name)
);

-- Rows are added to for a while, and deleted by the thousand: what is left of them must not pile up.
ALTER TABLE /* schema */oban_sync_metrics SET (
    fillfactor = 80,
    autovacuum_vacuum_scale_factor = 0.05
);

-- info: version, python, pid, host and the like. workers: the names of all that the node can run;
-- NULL for nodes older than this column.
ALTER TABLE /* schema */oban_sync_nodes
ADD COLUMN IF NOT EXISTS info jsonb NOT NULL DEFAULT '{}',
ADD COLUMN IF NOT EXISTS workers text[];

-- How queues stand at the moment: for dashboards, and for whatever decides how many nodes there shall
-- be. A queue is in it that a live node runs, or that has jobs available or executing. Who reads the
-- view needs SELECT on it and EXECUTE on its function, and no table.
--
--   available       jobs that could start; of more than 10,000 only so many are counted
--   executing       jobs that run
--   scheduled       jobs that wait for their time, among the next 1,000 of all queues
--   retryable       jobs that failed and wait for another try, likewise
--   oldest_age      seconds since the one was due that has been available for longest; 0 without any
--   slots           jobs at once on all live nodes together
--   busy            executing jobs of these nodes
--   nodes           live nodes that run the queue; none of these three counts what is being stopped
--   paused          whether none of them takes jobs; of a queue that nobody runs, what was asked last
--                   of every node, by whichever instance
--   throughput      jobs a second that ran, over a minute, until some seconds ago
--   drain_estimate  seconds until all available ones have run, at this throughput; NULL where there
--                   are some and nothing runs
--
-- A function, which knows the tables only when it runs: a view of their columns would keep Oban and
-- its migrations from dropping or altering what is theirs. It looks with its owner's rights, so that
-- whoever may ask it need not be allowed to read jobs.
CREATE OR REPLACE FUNCTION /* schema */oban_sync_queue_health()
RETURNS TABLE (
    queue text,
    available bigint,
    executing bigint,
    scheduled bigint,
    retryable bigint,
    oldest_age double precision,
    slots bigint,
    busy bigint,
    nodes bigint,
    paused boolean,
    throughput double precision,
    drain_estimate double precision
)
LANGUAGE sql STABLE SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
-- Along indexes, in their order, whatever the planner takes the tables for; and never compiled, which
-- takes ten times as long as to run it.
SET enable_seqscan = off
SET enable_bitmapscan = off
SET enable_sort = off
SET jit = off
AS $function$
    WITH RECURSIVE filled AS (
        -- One look into the index for each queue, however many jobs it has.
        (
            SELECT job.queue
            FROM /* schema */oban_jobs AS job
            WHERE job.state = 'available'
            ORDER BY job.queue
            LIMIT 1
        )
        UNION ALL
        SELECT (
            SELECT job.queue
            FROM /* schema */oban_jobs AS job
            WHERE job.state = 'available'
              AND job.queue > filled.queue
            ORDER BY job.queue
            LIMIT 1
        )
        FROM filled
        WHERE filled.queue IS NOT NULL
    ),
    held AS MATERIALIZED (
        SELECT (lock.classid::bigint << 32) | lock.objid::bigint AS key
        FROM pg_catalog.pg_locks AS lock
        WHERE lock.locktype = 'advisory'
          AND lock.objsubid = 1
          AND lock.granted
          AND lock.database = (
              SELECT oid FROM pg_catalog.pg_database WHERE datname = current_database()
          )
    ),
    producer AS (
        SELECT producer.*
        FROM /* schema */oban_sync_producers AS producer
        JOIN /* schema */oban_sync_nodes AS node ON node.uuid = producer.node_uuid
        WHERE node.beat_at > now() - make_interval(
            secs => greatest(
                0,
                least(
                    CASE
                        WHEN node.lock_key IS NOT NULL
                         AND node.lock_key <> ALL (ARRAY(SELECT held.key FROM held))
                            THEN node.unlocked_max_age
                        ELSE node.max_age
                    END,
                    86400
                )
            )
        )
          -- What takes no more jobs is no help, and may be gone any moment.
          AND (node.info -> 'stopping' ? producer.uuid) IS NOT TRUE
    ),
    run AS (
        SELECT
            producer.queue,
            sum(producer.job_limit) AS slots,
            count(DISTINCT producer.node_uuid) AS nodes,
            bool_and(producer.paused) AS paused
        FROM producer
        GROUP BY producer.queue
    ),
    executing AS (
        SELECT
            job.queue,
            count(*) AS jobs,
            count(*) FILTER (
                WHERE job.attempted_by[2] = ANY (ARRAY(SELECT producer.uuid FROM producer))
            ) AS busy
        FROM (
            SELECT job.queue, job.attempted_by
            FROM /* schema */oban_jobs AS job
            WHERE job.state = 'executing'
            ORDER BY job.queue, job.id
        ) AS job
        GROUP BY job.queue
    ),
    waiting AS (
        SELECT
            job.queue,
            count(*) FILTER (WHERE job.state = 'scheduled') AS scheduled,
            count(*) FILTER (WHERE job.state = 'retryable') AS retryable
        FROM (
            SELECT job.queue, job.state::text AS state
            FROM /* schema */oban_jobs AS job
            WHERE job.state IN ('scheduled', 'retryable')
            ORDER BY job.scheduled_at, job.id
            -- Each is read from the table: the index knows neither queue nor state.
            LIMIT 1000
        ) AS job
        GROUP BY job.queue
    ),
    ran AS (
        -- Of ten seconds, counted on a clock of the node's own, the row is the one that their middle
        -- falls in: it may begin five seconds after them, and they are written when they are over. So
        -- those that began less than 15 seconds ago, and a moment, may not be there yet.
        SELECT metric.queue, sum(metric.jobs) / 60.0::double precision AS throughput
        FROM /* schema */oban_sync_metrics AS metric
        WHERE metric.scope IN ('raw', 'queues')
          AND metric.period IN (1, 2, 5, 10)
          AND metric.started_at >= now() - interval '77 s'
          AND metric.started_at < now() - interval '17 s'
        GROUP BY metric.queue
    ),
    found AS (
        SELECT filled.queue FROM filled WHERE filled.queue IS NOT NULL
        UNION
        SELECT run.queue FROM run
        UNION
        SELECT executing.queue FROM executing
    )
    SELECT
        found.queue,
        available.jobs AS available,
        coalesce(executing.jobs, 0) AS executing,
        coalesce(waiting.scheduled, 0) AS scheduled,
        coalesce(waiting.retryable, 0) AS retryable,
        coalesce(
            greatest(0, extract(epoch FROM timezone('UTC', now()) - oldest.due_at)), 0
        )::double precision AS oldest_age,
        coalesce(run.slots, 0) AS slots,
        coalesce(executing.busy, 0) AS busy,
        coalesce(run.nodes, 0) AS nodes,
        coalesce(
            run.paused,
            (
                SELECT control.value = 'true'
                FROM /* schema */oban_sync_controls AS control
                WHERE control.aspect = 'paused'
                  AND control.node = '*'
                  AND control.queue IN (found.queue, '*')
                  AND (control.until IS NULL OR control.until > now())
                ORDER BY control.seq DESC
                LIMIT 1
            ),
            false
        ) AS paused,
        coalesce(ran.throughput, 0) AS throughput,
        CASE
            WHEN available.jobs = 0 THEN 0
            ELSE available.jobs / nullif(ran.throughput, 0)
        END AS drain_estimate
    FROM found
    LEFT JOIN run ON run.queue = found.queue
    LEFT JOIN executing ON executing.queue = found.queue
    LEFT JOIN waiting ON waiting.queue = found.queue
    LEFT JOIN ran ON ran.queue = found.queue
    CROSS JOIN LATERAL (
        SELECT count(*) - (
            -- No node takes one without attempts left. The index does not tell, so they are looked for
            -- among the first ones alone: of more jobs than these, they make no difference.
            SELECT count(*)
            FROM (
                SELECT job.attempt, job.max_attempts
                FROM /* schema */oban_jobs AS job
                WHERE job.state = 'available'
                  AND job.queue = found.queue
                ORDER BY job.priority, job.scheduled_at, job.id
                LIMIT 100
            ) AS head
            WHERE head.attempt >= head.max_attempts
        ) AS jobs
        FROM (
            SELECT
            FROM /* schema */oban_jobs AS job
            WHERE job.state = 'available'
              AND job.queue = found.queue
            ORDER BY job.priority, job.scheduled_at, job.id
            LIMIT 10000
        ) AS first
    ) AS available
    CROSS JOIN LATERAL (
        -- In the index they stand by priority.
        SELECT min(first.scheduled_at) AS due_at
        FROM generate_series(0, 9) AS level
        CROSS JOIN LATERAL (
            SELECT job.scheduled_at
            FROM /* schema */oban_jobs AS job
            WHERE job.state = 'available'
              AND job.queue = found.queue
              AND job.priority = level
              AND job.attempt < job.max_attempts
            ORDER BY job.scheduled_at
            LIMIT 1
        ) AS first
    ) AS oldest
$function$;

REVOKE ALL ON FUNCTION /* schema */oban_sync_queue_health() FROM PUBLIC;

CREATE OR REPLACE VIEW /* schema */oban_queue_health AS
SELECT * FROM /* schema */oban_sync_queue_health();

-- What one run of a job logged: lines is an array of [time, level, logger, message], of which the
-- oldest may have been dropped.
CREATE TABLE IF NOT EXISTS /* schema */oban_sync_logs (
    job_id bigint NOT NULL,
    attempted_at timestamp NOT NULL,
    attempt integer NOT NULL,
    node text NOT NULL,
    lines jsonb NOT NULL,
    dropped integer NOT NULL DEFAULT 0,
    written_at timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (job_id, attempted_at)
);

CREATE INDEX IF NOT EXISTS oban_sync_logs_written_index
ON /* schema */oban_sync_logs (written_at);

-- Who changed what by hand: from the dashboard, or from the command line.
CREATE TABLE IF NOT EXISTS /* schema */oban_sync_audit (
    id bigserial PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT now(),
    name text NOT NULL,
    via text NOT NULL,
    who text,
    action text NOT NULL,
    subject text NOT NULL,
    detail jsonb NOT NULL DEFAULT '{}'
);

-- Where running jobs are at this moment: written by their nodes when somebody asks. Of no use later.
CREATE UNLOGGED TABLE IF NOT EXISTS /* schema */oban_sync_stacks (
    job_id bigint PRIMARY KEY,
    attempted_at timestamp NOT NULL,
    node text NOT NULL,
    stack text NOT NULL,
    taken_at timestamptz NOT NULL DEFAULT now()
);
