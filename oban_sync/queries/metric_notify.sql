-- Send notifications, in order.
--
--   notes  JSON as text  array of {channel, payload}
--
-- Gives: nothing of use.
SELECT pg_notify(note.channel, note.payload)
FROM pg_catalog.jsonb_to_recordset(%(notes)s::text::jsonb) AS note (channel text, payload text)
