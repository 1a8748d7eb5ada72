-- Take the lock of a limit until the transaction ends.
--
--   name  text  the limit
--
-- Gives: nothing of interest.
--
-- A statement of its own: the one after it sees what others wrote before they let the lock go. That
-- one takes the head of a queue in the order of its index. While the statistics tell of few jobs, the
-- planner would rather collect all of them, and sort.
SELECT
    pg_catalog.pg_advisory_xact_lock(
        pg_catalog.hashtextextended(
            %(name)s::text, pg_catalog.hashtextextended(/* schema literal */, 0)
        )
    ),
    pg_catalog.set_config('enable_bitmapscan', 'off', true)
