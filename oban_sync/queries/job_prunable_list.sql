-- Finished jobs of one state that may be deleted, among the oldest from a moment on.
--
--   state        text               completed, cancelled or discarded
--   after        timestamp as text  the moment; jobs that ended at it are among them
--   most         jobs               most jobs looked at, whether they may be deleted or not
--   queues       text[]             queues with an age of their own
--   queue_ages   float8[]           their ages, seconds
--   workers      text[]             workers with an age of their own; the queue's comes first
--   worker_ages  float8[]           their ages
--   age          seconds            the age of all others
--   least_age    seconds            the least of all these ages
--   upto         timestamp as text  the newest job that may be deleted ended at it; NULL for any
--   upto_id      id                 the newest job itself
--
-- Gives: ids (those that may be deleted, or NULL), seen (how many were looked at), last (when the
-- last of these ended, as text, or NULL).
--
-- Only the branch of the state is run. Each is along its index from `after`, so the costs are those
-- of `most` rows however many older ones are kept or were deleted before. Infinite ages and times
-- are compared as numbers, since PostgreSQL before 17 cannot subtract them.
WITH seen AS (
    (
        SELECT id, queue, worker, completed_at AS ended_at
        FROM /* schema */oban_jobs
        WHERE %(state)s::text = 'completed'
          AND state = 'completed'
          AND completed_at >= %(after)s::text::timestamp
          AND completed_at <= coalesce(
              %(upto)s::text::timestamp,
              timezone('UTC', now()) - pg_catalog.make_interval(secs => %(least_age)s::float8)
          )
        ORDER BY completed_at
        LIMIT %(most)s::integer
    )
    UNION ALL
    (
        SELECT id, queue, worker, cancelled_at
        FROM /* schema */oban_jobs
        WHERE %(state)s::text = 'cancelled'
          AND state = 'cancelled'
          AND cancelled_at >= %(after)s::text::timestamp
          AND cancelled_at <= coalesce(
              %(upto)s::text::timestamp,
              timezone('UTC', now()) - pg_catalog.make_interval(secs => %(least_age)s::float8)
          )
        ORDER BY cancelled_at
        LIMIT %(most)s::integer
    )
    UNION ALL
    (
        SELECT id, queue, worker, discarded_at
        FROM /* schema */oban_jobs
        WHERE %(state)s::text = 'discarded'
          AND state = 'discarded'
          AND discarded_at >= %(after)s::text::timestamp
          AND discarded_at <= coalesce(
              %(upto)s::text::timestamp,
              timezone('UTC', now()) - pg_catalog.make_interval(secs => %(least_age)s::float8)
          )
        ORDER BY discarded_at
        LIMIT %(most)s::integer
    )
)
SELECT
    array_agg(id) FILTER (
        WHERE pg_catalog.date_part('epoch', ended_at)
              < (SELECT pg_catalog.date_part('epoch', timezone('UTC', now()))) - coalesce(
                  (%(queue_ages)s::float8[])[pg_catalog.array_position(%(queues)s::text[], queue)],
                  (%(worker_ages)s::float8[])[
                      pg_catalog.array_position(%(workers)s::text[], worker)
                  ],
                  %(age)s::float8
              )
          AND (
              %(upto)s::text IS NULL
              OR (ended_at, id) <= (%(upto)s::text::timestamp, %(upto_id)s::bigint)
          )
    ) AS ids,
    count(*)::integer AS seen,
    max(ended_at)::text AS last
FROM seen
