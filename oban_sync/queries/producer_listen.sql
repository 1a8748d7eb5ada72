-- Say whether inserts have to notify a producer of its jobs.
--
--   owner      uuid as text  the producer
--   listening  boolean       whether they have to
--   commit     text          synchronous_commit for this statement
--
-- Gives: nothing of use. The row may be missing, when the node was taken for dead: it is made anew by
-- the node's next beat, as one that listens.
WITH lasting AS MATERIALIZED (
    SELECT pg_catalog.set_config('synchronous_commit', %(commit)s::text, true) AS value
)
UPDATE /* schema */oban_sync_producers AS producer
SET listening = %(listening)s::boolean
FROM lasting
WHERE producer.uuid = %(owner)s::text
  AND producer.listening <> %(listening)s::boolean
