-- Ask something of queues, and tell the nodes at commit.
--
--   name     text                 the Oban instance
--   queue    text                 the queue, or * for all
--   node     text                 the node, or * for all
--   aspect   text                 paused, limit or running
--   value    JSON as text         what it shall be
--   set_by   text or NULL         who asks
--   until    timestamptz or NULL  when it ends by itself
--   channel  text                 where nodes of every kind listen for signals
--   payload  text                 the signal
--   sync     text                 where only our nodes listen
--
-- Gives: nothing of use.
--
-- The signal can hold no more than others understand. What goes before it tells our nodes which row
-- stands behind it, so that they can tell it from older ones.
--
-- Whatever was asked of the same queues and nodes before is void, and taken away.
WITH void AS (
    DELETE FROM /* schema */oban_sync_controls
    WHERE name = %(name)s::text
      AND aspect = %(aspect)s::text
      AND (%(queue)s::text = '*' OR queue = %(queue)s::text)
      AND (%(node)s::text = '*' OR node = %(node)s::text)
      AND NOT (queue = %(queue)s::text AND node = %(node)s::text)
),
written AS (
    INSERT INTO /* schema */oban_sync_controls
        (name, queue, node, aspect, value, set_by, until)
    VALUES (
        %(name)s::text,
        %(queue)s::text,
        %(node)s::text,
        %(aspect)s::text,
        %(value)s::text::jsonb,
        %(set_by)s::text,
        %(until)s::timestamptz
    )
    ON CONFLICT (name, queue, node, aspect) DO UPDATE
    SET seq = excluded.seq,
        value = excluded.value,
        set_by = excluded.set_by,
        set_at = excluded.set_at,
        until = excluded.until
    RETURNING seq
)
SELECT
    pg_notify(
        %(sync)s::text,
        jsonb_build_object(
            'order', written.seq, 'signal', %(payload)s::text::jsonb, 'by', %(set_by)s::text
        )::text
    ) AS told,
    pg_notify(%(channel)s::text, %(payload)s::text) AS signalled
FROM written
