-- How much of the jobs table is dead.
--
-- Gives: live, dead (rows, as the statistics have it), bytes (with indexes), vacuumed (seconds since
-- the last vacuum, NULL for never), autovacuum (whether it may come).
SELECT
    stat.n_live_tup::bigint AS live,
    stat.n_dead_tup::bigint AS dead,
    pg_catalog.pg_total_relation_size(stat.relid)::bigint AS bytes,
    pg_catalog.date_part(
        'epoch',
        pg_catalog.clock_timestamp() - greatest(stat.last_vacuum, stat.last_autovacuum)
    ) AS vacuumed,
    pg_catalog.current_setting('autovacuum') = 'on'
    AND NOT coalesce('autovacuum_enabled=false' = ANY (class.reloptions), false) AS autovacuum
FROM pg_catalog.pg_stat_all_tables AS stat
JOIN pg_catalog.pg_class AS class ON class.oid = stat.relid
WHERE stat.relid = pg_catalog.to_regclass(
    pg_catalog.quote_ident(/* schema literal */) || '.oban_jobs'
)
