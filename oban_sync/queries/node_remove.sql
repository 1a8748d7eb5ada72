-- Take a node's row away, after it stopped and owes nothing.
--
--   uuid  text  the node
--
-- Gives: the number of rows removed, as the command's row count. Its producers' rows go with it.
DELETE FROM /* schema */oban_sync_nodes
WHERE uuid = %(uuid)s
