-- Take away old rows that are to be summed up to a longer period, or to other scopes.
--
--   scopes  text[]   of these scopes
--   below   seconds  whose period is shorter than this
--   period  seconds  the longer period
--   after   seconds  a whole period that ended so long ago is summed up
--   most    rows     taken by one call; call again while it takes that many
--
-- Gives: scope, at (when the longer period began, in seconds since 1970), name, node, queue, worker,
-- state, jobs, failed, exec_time, wait_time (packed sketches, one behind the other), rows (how many
-- these were).
--
-- In a transaction that adds them again, so what is counted is in one row or the other at any time,
-- whatever crashes. Rows that another transaction holds are left for the next call.
WITH old AS (
    DELETE FROM /* schema */oban_sync_metrics
    WHERE ctid = ANY (ARRAY(
        SELECT metric.ctid
        FROM /* schema */oban_sync_metrics AS metric
        WHERE metric.scope = ANY (%(scopes)s::text[])
          AND metric.period < %(below)s::integer
          AND metric.started_at > '-infinity'
          -- By itself, so that it is worked out once and not for every row.
          AND metric.started_at < (
              SELECT to_timestamp(
                  floor(
                      (date_part('epoch', now()) - %(after)s::double precision)
                      / %(period)s::integer
                  ) * %(period)s::integer
              )
          )
        ORDER BY metric.scope, metric.period, metric.started_at
        LIMIT %(most)s::integer
        FOR UPDATE SKIP LOCKED
    ))
    RETURNING
        scope,
        (floor(date_part('epoch', started_at) / %(period)s::integer) * %(period)s::integer)::bigint
            AS at,
        name, node, queue, worker, state, jobs, failed, exec_time, wait_time
)
SELECT
    old.scope,
    old.at,
    old.name,
    old.node,
    old.queue,
    old.worker,
    old.state,
    sum(old.jobs)::bigint AS jobs,
    sum(old.failed)::bigint AS failed,
    string_agg(old.exec_time, '') AS exec_time,
    string_agg(old.wait_time, '') AS wait_time,
    count(*) AS rows
FROM old
GROUP BY old.scope, old.at, old.name, old.node, old.queue, old.worker, old.state
