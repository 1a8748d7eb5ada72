-- Stop leading, and tell the others at commit.
--
--   name     text  the Oban instance
--   uuid     text  the node that leads
--   channel  text  where the other nodes listen
--   payload  text  what they are told
--
-- Gives: one row when it did lead.
WITH resigned AS (
    DELETE FROM /* schema */oban_sync_leaders
    WHERE name = %(name)s::text
      AND uuid = %(uuid)s::text
    RETURNING name
)
SELECT pg_notify(%(channel)s::text, %(payload)s::text) AS told
FROM resigned
