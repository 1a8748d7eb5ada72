-- Executing jobs by their age, for when they have to be given back one by one.
--
--   rescue_after  seconds  since their start
--
-- Gives: id, in order. Whose they are is looked at when they are given back.
--
-- The sum keeps the planner off the primary key, along which it would look at every job there is.
SELECT id
FROM /* schema */oban_jobs
WHERE state = 'executing'
  AND coalesce(attempted_at, inserted_at)
      < timezone('UTC', now()) - make_interval(secs => %(rescue_after)s::double precision)
ORDER BY id + 0
