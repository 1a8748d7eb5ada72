-- How many jobs there are in each state, without reading many of them.
--
--   most  jobs  of a state that are counted at the most
--
-- Gives: state, jobs (counted), exact (whether that is all), estimate (the planner's, or NULL where it
-- has none), for every state.
--
-- Each count goes along the index of its state and ends when it has enough; which jobs these are makes
-- no difference, so nothing is sorted. Suspended jobs have no index: few have any, and their number is
-- an estimate where the table was analyzed.
WITH counted AS (
    SELECT 'available' AS state, count(*) AS jobs
    FROM (
        SELECT FROM /* schema */oban_jobs WHERE state = 'available' ORDER BY queue LIMIT %(most)s
    ) AS few
    UNION ALL
    SELECT 'executing', count(*)
    FROM (
        SELECT FROM /* schema */oban_jobs WHERE state = 'executing' ORDER BY queue LIMIT %(most)s
    ) AS few
    UNION ALL
    SELECT 'completed', count(*)
    FROM (
        SELECT FROM /* schema */oban_jobs
        WHERE state = 'completed'
        ORDER BY completed_at
        LIMIT %(most)s
    ) AS few
    UNION ALL
    SELECT 'cancelled', count(*)
    FROM (
        SELECT FROM /* schema */oban_jobs
        WHERE state = 'cancelled'
        ORDER BY cancelled_at
        LIMIT %(most)s
    ) AS few
    UNION ALL
    SELECT 'discarded', count(*)
    FROM (
        SELECT FROM /* schema */oban_jobs
        WHERE state = 'discarded'
        ORDER BY discarded_at
        LIMIT %(most)s
    ) AS few
),
staged AS (
    SELECT
        count(*) AS jobs,
        count(*) FILTER (WHERE few.state = 'scheduled') AS scheduled,
        count(*) FILTER (WHERE few.state = 'retryable') AS retryable
    FROM (
        SELECT state
        FROM /* schema */oban_jobs
        WHERE state IN ('scheduled', 'retryable')
        ORDER BY scheduled_at
        LIMIT %(most)s
    ) AS few
),
estimated AS (
    SELECT
        entry.state,
        (entry.share * greatest(jobs.reltuples, 0))::bigint AS jobs
    FROM pg_catalog.pg_class AS jobs
    JOIN pg_catalog.pg_namespace AS space ON space.oid = jobs.relnamespace
    JOIN pg_catalog.pg_stats AS stats
        ON stats.schemaname = space.nspname
        AND stats.tablename = jobs.relname
        AND stats.attname = 'state'
    CROSS JOIN LATERAL unnest(
        stats.most_common_vals::text::text[], stats.most_common_freqs
    ) AS entry (state, share)
    WHERE jobs.oid = (quote_ident(/* schema literal */) || '.oban_jobs')::regclass
)
SELECT
    found.state,
    found.jobs,
    found.exact,
    estimated.jobs AS estimate
FROM (
    SELECT counted.state, counted.jobs, counted.jobs < %(most)s AS exact FROM counted
    UNION ALL
    SELECT 'scheduled', staged.scheduled, staged.jobs < %(most)s FROM staged
    UNION ALL
    SELECT 'retryable', staged.retryable, staged.jobs < %(most)s FROM staged
    UNION ALL
    SELECT 'suspended', 0, NOT EXISTS (SELECT FROM estimated WHERE estimated.state = 'suspended')
) AS found
LEFT JOIN estimated ON estimated.state = found.state
