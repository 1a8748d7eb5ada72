-- Delete what was counted long ago.
--
--   keep  seconds  how long ago
--   most  rows     deleted by one call; call again while it returns that many
--
-- Gives: nothing; the count of rows is that of the rows deleted.
DELETE FROM /* schema */oban_sync_metrics
WHERE ctid = ANY (ARRAY(
    SELECT metric.ctid
    FROM /* schema */oban_sync_metrics AS metric
    WHERE metric.scope IN ('raw', 'each', 'queues', 'workers', 'outcomes', 'nodes', 'states')
      AND metric.period IN (1, 2, 5, 10, 60, 3600, 10800)
      AND metric.started_at < now() - make_interval(secs => %(keep)s::double precision)
      -- All that is in it, and not only its beginning.
      AND metric.started_at + make_interval(secs => metric.period)
          < now() - make_interval(secs => %(keep)s::double precision)
    LIMIT %(most)s::integer
    FOR UPDATE SKIP LOCKED
))
