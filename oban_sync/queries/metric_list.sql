-- What was counted, by steps of time and by one of the columns.
--
--   first      seconds since 1970  where the first step begins
--   step       seconds             how long the steps are
--   scope      text                of this scope, and of what is not in any yet
--   label      text                the column: state, queue, worker or node
--   exec_time  boolean             whether run times are asked for ...
--   wait_time  boolean             ... and wait times
--   queue      text or NULL        only of this queue ...
--   worker     text or NULL        ... this worker ...
--   node       text or NULL        ... this node ...
--   state      text or NULL        ... and this state
--
-- Gives: at (seconds since 1970), label, jobs, failed (how many of these failed), ran and waited (packed
-- sketches, one behind the other; NULL where they are not asked for), in no order.
--
-- Sketches are added by who asks: what is quick there would be slow work for PostgreSQL.
SELECT
    date_part('epoch', metric.started_at)::bigint / %(step)s::integer * %(step)s::integer AS at,
    CASE %(label)s::text
        WHEN 'state' THEN metric.state
        WHEN 'queue' THEN metric.queue
        WHEN 'worker' THEN metric.worker
        WHEN 'node' THEN metric.node
    END AS label,
    sum(metric.jobs)::bigint AS jobs,
    sum(metric.failed)::bigint AS failed,
    string_agg(metric.exec_time, '') FILTER (WHERE %(exec_time)s::boolean) AS ran,
    string_agg(metric.wait_time, '') FILTER (WHERE %(wait_time)s::boolean) AS waited
FROM /* schema */oban_sync_metrics AS metric
WHERE metric.scope IN ('raw', %(scope)s::text)
  AND metric.period IN (1, 2, 5, 10, 60, 3600, 10800)
  AND metric.started_at >= to_timestamp(%(first)s::double precision)
  AND metric.started_at < 'infinity'
  AND (%(queue)s::text IS NULL OR metric.queue = %(queue)s::text)
  AND (%(worker)s::text IS NULL OR metric.worker = %(worker)s::text)
  AND (%(node)s::text IS NULL OR metric.node = %(node)s::text)
  AND (%(state)s::text IS NULL OR metric.state = %(state)s::text)
GROUP BY 1, 2
