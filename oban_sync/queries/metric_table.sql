-- How large the table of jobs is.
--
-- Gives: jobs (about how many there are, by the planner; where it does not know yet, by the bytes).
SELECT
    CASE
        WHEN jobs.reltuples > 0 THEN jobs.reltuples
        ELSE pg_catalog.pg_relation_size(jobs.oid) / 400
    END::double precision AS jobs
FROM pg_catalog.pg_class AS jobs
WHERE jobs.oid = (quote_ident(/* schema literal */) || '.oban_jobs')::regclass
