-- Say what became of a time that was settled in this transaction.
--
--   name     text            the Oban instance
--   entry    text            the entry's name
--   due_at   timestamptz     the time
--   outcome  text            inserted or skipped
--   job_id   bigint or NULL  the job that was inserted
--   reason   text or NULL    why it is skipped, or that it is late
--
-- Gives: nothing.
UPDATE /* schema */oban_sync_cron_slots
SET outcome = %(outcome)s::text,
    job_id = %(job_id)s::bigint,
    reason = %(reason)s::text
WHERE name = %(name)s::text
  AND entry = %(entry)s::text
  AND due_at = %(due_at)s::timestamptz
