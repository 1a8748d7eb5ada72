-- What the role may not do with our tables, of what an Oban does with them.
--
-- Gives: name (of a table, or of a sequence that gives one its numbers), lacking (the privileges).
-- No row where nothing is lacking.
WITH ours AS (
    SELECT pg_catalog.to_regclass(
        pg_catalog.quote_ident(/* schema literal */) || wanted.name
    )::oid AS id, wanted.rights
    FROM (
        VALUES
            ('.oban_jobs', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']),
            -- Of who did what nothing is changed later.
            ('.oban_sync_audit', ARRAY['SELECT', 'INSERT']),
            ('.oban_sync_controls', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']),
            ('.oban_sync_cron_slots', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']),
            ('.oban_sync_crons', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']),
            ('.oban_sync_leaders', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']),
            ('.oban_sync_logs', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']),
            ('.oban_sync_metrics', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']),
            -- Written by those who install.
            ('.oban_sync_migrations', ARRAY['SELECT']),
            ('.oban_sync_nodes', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']),
            ('.oban_sync_producers', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']),
            ('.oban_sync_rates', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE']),
            ('.oban_sync_stacks', ARRAY['SELECT', 'INSERT', 'UPDATE', 'DELETE'])
    ) AS wanted (name, rights)
),
lacking AS (
    SELECT ours.id, needed.privilege, needed.rank
    FROM ours
    CROSS JOIN LATERAL pg_catalog.unnest(ours.rights) WITH ORDINALITY AS needed (privilege, rank)
    WHERE NOT pg_catalog.has_table_privilege(ours.id, needed.privilege)
    UNION ALL
    SELECT link.objid, 'USAGE', 1
    FROM ours
    -- Sequences of identity columns are bound in another way, and need no right.
    JOIN pg_catalog.pg_depend AS link
        ON link.refobjid = ours.id
        AND link.deptype = 'a'
        AND link.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
        AND link.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
    JOIN pg_catalog.pg_class AS counter ON counter.oid = link.objid
    -- In this order, which AND does not promise: asked of anything else, it is an error.
    WHERE CASE
        WHEN counter.relkind = 'S'
            THEN NOT pg_catalog.has_sequence_privilege(link.objid, 'USAGE')
        ELSE false
    END
)
SELECT
    class.relname::text AS name,
    pg_catalog.array_agg(lacking.privilege ORDER BY lacking.rank) AS lacking
FROM lacking
JOIN pg_catalog.pg_class AS class ON class.oid = lacking.id
GROUP BY class.relname
ORDER BY class.relname
