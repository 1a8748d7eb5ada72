-- Settle a time of an entry, if nobody has.
--
--   name     text         the Oban instance
--   entry    text         the entry's name
--   due_at   timestamptz  the time
--   outcome  text         inserted or skipped
--   node     text         what people call the node
--   reason   text         why it is skipped, or NULL
--
-- Gives: nothing; no row is changed where the time was settled.
INSERT INTO /* schema */oban_sync_cron_slots (name, entry, due_at, outcome, node, reason)
VALUES (
    %(name)s::text,
    %(entry)s::text,
    %(due_at)s::timestamptz,
    %(outcome)s::text,
    %(node)s::text,
    %(reason)s::text
)
ON CONFLICT (name, entry, due_at) DO NOTHING
