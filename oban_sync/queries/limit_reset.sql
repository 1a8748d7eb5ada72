-- Forget what was counted under a rate limit, in all of its lanes.
--
--   rate  text  the limit
--
-- Gives: lane of each row that is gone.
DELETE FROM /* schema */oban_sync_rates
WHERE name = %(rate)s::text
RETURNING lane
