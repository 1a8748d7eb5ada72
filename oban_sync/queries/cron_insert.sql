-- Make an entry that no code knows.
--
--   name        text          the Oban instance
--   entry       text          the entry's name
--   expression  text          when
--   timezone    text          by whose clocks
--   catch_up    text          none, last or all
--   overlap     text          allow or skip
--   worker      text          the worker's name
--   job         JSON as text  columns of its jobs
--   now         timestamptz   times before this were not missed
--
-- Gives: nothing; no row is changed where there is one of that name.
INSERT INTO /* schema */oban_sync_crons
    (name, entry, expression, timezone, catch_up, overlap, worker, job, dynamic, since)
VALUES (
    %(name)s::text,
    %(entry)s::text,
    %(expression)s::text,
    %(timezone)s::text,
    %(catch_up)s::text,
    %(overlap)s::text,
    %(worker)s::text,
    %(job)s::text::jsonb,
    true,
    %(now)s::timestamptz
)
ON CONFLICT (name, entry) DO NOTHING
