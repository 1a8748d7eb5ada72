-- What was counted since some time, all in all, by state.
--
--   first   seconds since 1970  since when
--   scope   text                of this scope, and of what is not in any yet
--   queue   text or NULL        only of this queue ...
--   worker  text or NULL        ... this worker ...
--   node    text or NULL        ... this node ...
--   state   text or NULL        ... and this state
--
-- Gives: state, jobs, ran and waited (packed sketches, one behind the other).
SELECT
    metric.state,
    sum(metric.jobs)::bigint AS jobs,
    string_agg(metric.exec_time, '') AS ran,
    string_agg(metric.wait_time, '') AS waited
FROM /* schema */oban_sync_metrics AS metric
WHERE metric.scope IN ('raw', %(scope)s::text)
  AND metric.period IN (1, 2, 5, 10, 60, 3600, 10800)
  AND metric.started_at >= to_timestamp(%(first)s::double precision)
  AND metric.started_at < 'infinity'
  AND (%(queue)s::text IS NULL OR metric.queue = %(queue)s::text)
  AND (%(worker)s::text IS NULL OR metric.worker = %(worker)s::text)
  AND (%(node)s::text IS NULL OR metric.node = %(node)s::text)
  AND (%(state)s::text IS NULL OR metric.state = %(state)s::text)
GROUP BY metric.state
