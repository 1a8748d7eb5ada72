-- Lead, go on leading, or learn for how long somebody else does.
--
--   name  text     the Oban instance
--   uuid  text     the node that wants to lead
--   node  text     what people call it
--   ttl   seconds  how long the lease lasts
--
-- Gives: led (whether the node leads), anew (whether its term began just now), remaining (seconds the
-- lease of whoever leads still lasts, by the database's clock).
--
-- A term that begins is on disk before it is trusted, also on a connection that does not wait for the
-- disk: after a crash another node would begin one beside it. A renewal that a crash undoes is made
-- again before the lease it renewed ends.
WITH now AS (
    SELECT clock_timestamp() AS at
),
claimed AS (
    INSERT INTO /* schema */oban_sync_leaders AS lease (name, uuid, node, elected_at, expires_at)
    SELECT
        %(name)s::text,
        %(uuid)s::text,
        %(node)s::text,
        now.at,
        now.at + make_interval(secs => %(ttl)s::double precision)
    FROM now
    ON CONFLICT (name) DO UPDATE
    SET uuid = excluded.uuid,
        node = excluded.node,
        elected_at = CASE
            WHEN lease.uuid = excluded.uuid AND lease.expires_at > excluded.elected_at
                THEN lease.elected_at
            ELSE excluded.elected_at
        END,
        expires_at = excluded.expires_at
    WHERE lease.uuid = excluded.uuid
       OR lease.expires_at <= excluded.elected_at
    RETURNING lease.elected_at = (SELECT now.at FROM now) AS anew
),
kept AS (
    SELECT pg_catalog.set_config('synchronous_commit', 'local', true)
    FROM claimed
    WHERE claimed.anew
      AND pg_catalog.current_setting('synchronous_commit') = 'off'
)
SELECT
    EXISTS (SELECT FROM claimed) AS led,
    coalesce((SELECT claimed.anew FROM claimed), false) AS anew,
    coalesce(
        (
            -- Not of the difference: before PostgreSQL 17 there is none to infinity.
            SELECT extract(epoch FROM lease.expires_at) - extract(epoch FROM now.at)
            FROM /* schema */oban_sync_leaders AS lease
            CROSS JOIN now
            WHERE lease.name = %(name)s::text
        ),
        0
    )::double precision AS remaining,
    (SELECT count(*) FROM kept) AS kept
