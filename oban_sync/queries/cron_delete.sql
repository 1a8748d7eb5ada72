-- Delete an entry, unless it stands in the code of a node.
--
--   name   text  the Oban instance
--   entry  text  the entry's name
--
-- Gives: nothing; no row is changed where there is none that may be deleted.
DELETE FROM /* schema */oban_sync_crons AS cron
WHERE cron.name = %(name)s::text
  AND cron.entry = %(entry)s::text
  AND NOT EXISTS (
      SELECT FROM /* schema */oban_sync_nodes AS node
      WHERE node.name = cron.name
        AND cron.entry = ANY (node.crons)
  )
