-- What a server is, and how it treats a session of this role.
--
-- Gives: version (number), version_text, at (its clock), database, role, max_connections, reserved
-- (connections for superusers and the like), isolation, read_only, synchronous_commit, and in
-- milliseconds, 0 for none: idle_session_timeout, statement_timeout, idle_in_transaction_timeout.
SELECT
    pg_catalog.current_setting('server_version_num')::integer AS version,
    pg_catalog.current_setting('server_version') AS version_text,
    pg_catalog.clock_timestamp() AS at,
    pg_catalog.current_database()::text AS database,
    current_user::text AS role,
    pg_catalog.current_setting('max_connections')::integer AS max_connections,
    pg_catalog.current_setting('superuser_reserved_connections')::integer
    -- Newer than some servers.
    + coalesce(pg_catalog.current_setting('reserved_connections', true), '0')::integer AS reserved,
    pg_catalog.current_setting('default_transaction_isolation') AS isolation,
    pg_catalog.current_setting('transaction_read_only') = 'on' AS read_only,
    pg_catalog.current_setting('synchronous_commit') AS synchronous_commit,
    (SELECT coalesce(max(setting::bigint), 0) FROM pg_catalog.pg_settings
     WHERE name = 'idle_session_timeout') AS idle_session_timeout,
    (SELECT coalesce(max(setting::bigint), 0) FROM pg_catalog.pg_settings
     WHERE name = 'statement_timeout') AS statement_timeout,
    (SELECT coalesce(max(setting::bigint), 0) FROM pg_catalog.pg_settings
     WHERE name = 'idle_in_transaction_session_timeout') AS idle_in_transaction_timeout
