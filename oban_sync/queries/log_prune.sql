-- Delete what jobs logged a long time ago.
--
--   keep  seconds  what was written less than that ago stays
--   most  runs     most of them deleted by one call; call again while it deletes that many
--
-- Gives: nothing; the number of rows deleted is how many runs they were of.
--
-- What another transaction holds, as one that still writes to it, is passed over.
DELETE FROM /* schema */oban_sync_logs AS log
WHERE log.ctid = ANY (ARRAY(
    SELECT old.ctid
    FROM /* schema */oban_sync_logs AS old
    WHERE old.written_at < now() - make_interval(secs => %(keep)s::double precision)
    ORDER BY old.written_at
    LIMIT %(most)s::bigint
    FOR UPDATE SKIP LOCKED
))
