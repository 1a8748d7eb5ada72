-- Available jobs of one queue and priority that wait for long, oldest first from a job on.
--
--   queue         text               the queue
--   priority      priority           the priority
--   after         timestamp as text  the job from which to go on was scheduled for it ...
--   after_id      id                 ... and this is its id
--   most          jobs               most jobs looked at, whether they are to be raised or not
--   workers       text[]             workers with a wait of their own
--   worker_waits  float8[]           their waits, seconds
--   wait          seconds            the wait of all others
--   least_wait    seconds            the least of all these waits
--
-- Gives: ids and waits (arrays of those that have waited, and for how long they had to), seen (how
-- many were looked at), last and last_id (the last of these; NULL where there was none).
--
-- Infinite waits are compared as numbers, since PostgreSQL before 17 cannot subtract them.
WITH seen AS (
    SELECT
        id,
        scheduled_at,
        coalesce(
            (%(worker_waits)s::float8[])[pg_catalog.array_position(%(workers)s::text[], worker)],
            %(wait)s::float8
        ) AS wait
    FROM /* schema */oban_jobs
    WHERE state = 'available'
      AND queue = %(queue)s::text
      AND priority = %(priority)s::integer
      AND (scheduled_at, id) > (%(after)s::text::timestamp, %(after_id)s::bigint)
      AND scheduled_at
          <= timezone('UTC', now()) - pg_catalog.make_interval(secs => %(least_wait)s::float8)
    ORDER BY scheduled_at, id
    LIMIT %(most)s::integer
),
waited AS (
    SELECT id, wait, scheduled_at
    FROM seen
    WHERE pg_catalog.date_part('epoch', scheduled_at) + wait
          <= (SELECT pg_catalog.date_part('epoch', timezone('UTC', now())))
)
SELECT
    coalesce((SELECT array_agg(id ORDER BY scheduled_at, id) FROM waited), '{}') AS ids,
    coalesce((SELECT array_agg(wait ORDER BY scheduled_at, id) FROM waited), '{}') AS waits,
    (SELECT count(*)::integer FROM seen) AS seen,
    (SELECT scheduled_at::text FROM seen ORDER BY scheduled_at DESC, id DESC LIMIT 1) AS last,
    (SELECT id FROM seen ORDER BY scheduled_at DESC, id DESC LIMIT 1) AS last_id
