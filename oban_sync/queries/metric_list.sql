-- What was counted, by steps of time, by one of the columns and by state.
--
--   since      seconds                how far back; the step that this falls into is there as a whole
--   step       seconds                how long the steps are
--   label      text                   the column: state, queue, worker or node
--   exec_time  boolean                whether sketches of run times are asked for ...
--   wait_time  boolean                ... and of wait times
--   queue      text or NULL           only of this queue ...
--   worker     text or NULL           ... this worker ...
--   node       text or NULL           ... this node ...
--   state      text or NULL           ... and this state
--   of_nodes   boolean                whether times are those of nodes, and not of all together
--
-- Gives: at (seconds since 1970), label, state, jobs, ran and waited (packed
-- sketches, one behind the other; NULL where they are not asked for).
--
-- Every job is counted in one row, whatever the row's period is, and its times are in one row of those
-- that are read. Sketches are added by who asks: what is quick there would be slow work for PostgreSQL.
SELECT
    date_part('epoch', metric.started_at)::bigint / %(step)s::integer * %(step)s::integer AS at,
    CASE %(label)s::text
        WHEN 'state' THEN metric.state
        WHEN 'queue' THEN metric.queue
        WHEN 'worker' THEN metric.worker
        WHEN 'node' THEN metric.node
    END AS label,
    metric.state,
    sum(metric.jobs)::bigint AS jobs,
    string_agg(metric.exec_time, '') FILTER (WHERE %(exec_time)s::boolean) AS ran,
    string_agg(metric.wait_time, '') FILTER (WHERE %(wait_time)s::boolean) AS waited
FROM /* schema */oban_sync_metrics AS metric
WHERE metric.period IN (1, 2, 5, 10, 60, 3600)
  -- Of long periods, times of nodes and of all together are in rows of their own.
  AND CASE WHEN %(of_nodes)s::boolean THEN metric.node <> '' ELSE metric.queue <> '' END
  -- By itself, so that it is worked out once and not for every row.
  AND metric.started_at >= (
      SELECT to_timestamp(
          floor((date_part('epoch', now()) - %(since)s::double precision) / %(step)s::integer)
          * %(step)s::integer
      )
  )
  AND (%(queue)s::text IS NULL OR metric.queue = %(queue)s::text)
  AND (%(worker)s::text IS NULL OR metric.worker = %(worker)s::text)
  AND (%(node)s::text IS NULL OR metric.node = %(node)s::text)
  AND (%(state)s::text IS NULL OR metric.state = %(state)s::text)
GROUP BY 1, 2, 3
ORDER BY 1, 2, 3
