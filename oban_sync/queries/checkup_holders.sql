-- Who keeps vacuum from removing dead rows, and who sits in a transaction without doing anything.
--
--   seconds  seconds  sessions whose transaction is younger are left out
--
-- Gives: kind (session, prepared, slot, standby), name, detail, idle (it waits for its client),
-- seconds (age of its transaction, NULL where nobody knows), xids (transactions since its snapshot,
-- NULL where it has none), oldest first.
SELECT held.kind, held.name, held.detail, held.idle, held.seconds, held.xids
FROM (
    SELECT
        'session' AS kind,
        coalesce(usename::text, '?') || ', pid ' || pid AS name,
        coalesce(application_name, '') AS detail,
        coalesce(state LIKE 'idle in transaction%%', false) AS idle,
        pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - xact_start) AS seconds,
        pg_catalog.age(backend_xmin)::bigint AS xids
    FROM pg_catalog.pg_stat_activity
    WHERE xact_start IS NOT NULL
      AND pid <> pg_catalog.pg_backend_pid()
      AND backend_type = 'client backend'
      AND datname = pg_catalog.current_database()
      AND xact_start < pg_catalog.clock_timestamp()
          - pg_catalog.make_interval(secs => %(seconds)s::float8)
    UNION ALL
    SELECT
        'prepared',
        gid,
        owner::text,
        true,
        pg_catalog.date_part('epoch', pg_catalog.clock_timestamp() - prepared),
        pg_catalog.age(transaction)::bigint
    FROM pg_catalog.pg_prepared_xacts
    WHERE database = pg_catalog.current_database()
    UNION ALL
    SELECT
        'slot',
        slot_name::text,
        CASE WHEN active THEN 'active' ELSE 'not active' END,
        NOT active,
        NULL,
        greatest(pg_catalog.age(xmin), pg_catalog.age(catalog_xmin))::bigint
    FROM pg_catalog.pg_replication_slots
    WHERE xmin IS NOT NULL OR catalog_xmin IS NOT NULL
    UNION ALL
    SELECT
        'standby',
        coalesce(application_name, '?'),
        coalesce(state, ''),
        false,
        NULL,
        pg_catalog.age(backend_xmin)::bigint
    FROM pg_catalog.pg_stat_replication
    WHERE backend_xmin IS NOT NULL
) AS held
ORDER BY held.seconds DESC NULLS LAST, held.xids DESC NULLS LAST
LIMIT 20
