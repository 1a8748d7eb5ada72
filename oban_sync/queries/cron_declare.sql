-- Write what the code says of entries; what people changed at run time stays.
--
--   name     text          the Oban instance
--   entries  JSON as text  array of {entry, expression, timezone, catch_up, overlap, worker, job}
--   now      timestamptz   times before this were not missed by what is new
--
-- Gives: nothing.
--
-- In order, so that nodes that start at once cannot lock each other out. Rows that say the same are
-- left alone.
INSERT INTO /* schema */oban_sync_crons AS cron
    (name, entry, expression, timezone, catch_up, overlap, worker, job, since)
SELECT
    %(name)s::text,
    given.entry,
    given.expression,
    given.timezone,
    given.catch_up,
    given.overlap,
    given.worker,
    given.job,
    %(now)s::timestamptz
FROM pg_catalog.jsonb_to_recordset(%(entries)s::text::jsonb) AS given (
    entry text,
    expression text,
    timezone text,
    catch_up text,
    overlap text,
    worker text,
    job jsonb
)
ORDER BY given.entry
ON CONFLICT (name, entry) DO UPDATE
SET expression = excluded.expression,
    timezone = excluded.timezone,
    catch_up = excluded.catch_up,
    overlap = excluded.overlap,
    worker = excluded.worker,
    job = excluded.job,
    dynamic = false,
    since = CASE
        WHEN coalesce(cron.edited ->> 'expression', cron.expression)
                = coalesce(cron.edited ->> 'expression', excluded.expression)
            AND coalesce(cron.edited ->> 'timezone', cron.timezone)
                = coalesce(cron.edited ->> 'timezone', excluded.timezone)
            THEN cron.since
        ELSE excluded.since
    END
WHERE (
    cron.expression, cron.timezone, cron.catch_up, cron.overlap, cron.worker, cron.job, cron.dynamic
) IS DISTINCT FROM (
    excluded.expression,
    excluded.timezone,
    excluded.catch_up,
    excluded.overlap,
    excluded.worker,
    excluded.job,
    false
)
