-- Forget what was asked of queues, and let our nodes look at once.
--
--   name   text  the Oban instance
--   queue  text  the queue, or * for all
--   sync   text  where only our nodes listen
--
-- Gives: nothing of use.
WITH gone AS (
    DELETE FROM /* schema */oban_sync_controls
    WHERE name = %(name)s::text
      AND (%(queue)s::text = '*' OR queue = %(queue)s::text)
)
SELECT pg_notify(%(sync)s::text, jsonb_build_object('reset', %(queue)s::text)::text)
