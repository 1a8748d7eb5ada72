-- What was asked of queues.
--
--   name  text  the Oban instance
--
-- Gives: seq, queue, node, aspect, value (JSON as text), set_by, set_at, until, ended (by the
-- database's clock), in the order in which it was asked for.
SELECT
    seq,
    queue,
    node,
    aspect,
    value::text AS value,
    set_by,
    least(greatest(set_at, '1970-01-01 00:00Z'), '9000-01-01 00:00Z') AS set_at,
    CASE WHEN until IS NOT NULL THEN
        least(greatest(until, '1970-01-01 00:00Z'), '9000-01-01 00:00Z')
    END AS until,
    coalesce(until <= clock_timestamp(), false) AS ended
FROM /* schema */oban_sync_controls
WHERE name = %(name)s::text
ORDER BY seq
