-- The newest job that is too many, where only the newest ones of a kind are kept.
--
--   state        text               completed, cancelled or discarded
--   before       timestamp as text  where to begin; jobs that ended at it are among those seen
--   most         jobs               most jobs looked at, of the kind or not
--   keep         jobs               how many of the kind are kept, from `before` on
--   queues       text[]             queues with an age of their own
--   queue_ages   float8[]           their ages; the kind are the jobs with a finite one
--   workers      text[]             workers with an age of their own; the queue's comes first
--   worker_ages  float8[]           their ages
--   age          seconds            the age of all others
--
-- Gives: seen (how many were looked at), edge (when the oldest of these ended, as text, or NULL),
-- newer (how many of the kind ended after it), upto (when the job that is too many ended, as text, or
-- NULL), upto_id (its id).
--
-- Jobs that ended at the edge are left to the next call unless there are no others: more of them may
-- lie beyond it, and their order is by id. So call again from the edge, with `newer` fewer to keep,
-- while there is no upto and as many were seen as were asked for.
WITH seen AS MATERIALIZED (
    (
        SELECT id, queue, worker, completed_at AS ended_at
        FROM /* schema */oban_jobs
        WHERE %(state)s::text = 'completed'
          AND state = 'completed'
          AND completed_at <= %(before)s::text::timestamp
        ORDER BY completed_at DESC
        LIMIT %(most)s::integer
    )
    UNION ALL
    (
        SELECT id, queue, worker, cancelled_at
        FROM /* schema */oban_jobs
        WHERE %(state)s::text = 'cancelled'
          AND state = 'cancelled'
          AND cancelled_at <= %(before)s::text::timestamp
        ORDER BY cancelled_at DESC
        LIMIT %(most)s::integer
    )
    UNION ALL
    (
        SELECT id, queue, worker, discarded_at
        FROM /* schema */oban_jobs
        WHERE %(state)s::text = 'discarded'
          AND state = 'discarded'
          AND discarded_at <= %(before)s::text::timestamp
        ORDER BY discarded_at DESC
        LIMIT %(most)s::integer
    )
),
edge AS MATERIALIZED (
    SELECT count(*)::integer AS seen, min(ended_at) AS ended_at FROM seen
),
kind AS MATERIALIZED (
    SELECT seen.id, seen.ended_at
    FROM seen
    CROSS JOIN edge
    WHERE (seen.ended_at > edge.ended_at OR edge.seen < %(most)s::integer)
      AND coalesce(
          (%(queue_ages)s::float8[])[pg_catalog.array_position(%(queues)s::text[], seen.queue)],
          (%(worker_ages)s::float8[])[pg_catalog.array_position(%(workers)s::text[], seen.worker)],
          %(age)s::float8
      ) < 'Infinity'
),
head AS (
    SELECT id, ended_at
    FROM kind
    ORDER BY ended_at DESC, id DESC
    OFFSET %(keep)s::integer
    LIMIT 1
)
SELECT
    edge.seen,
    edge.ended_at::text AS edge,
    (SELECT count(*) FROM kind)::integer AS newer,
    (SELECT ended_at::text FROM head) AS upto,
    (SELECT id FROM head) AS upto_id
FROM edge
