-- Gives: number, of the oldest transaction that is open and has one; larger than any that has ended
-- where there is none.
SELECT pg_catalog.pg_snapshot_xmin(pg_catalog.pg_current_snapshot())::text::bigint AS number
