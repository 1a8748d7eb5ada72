-- What people did, the newest first.
--
--   who        text or NULL    only what this person did
--   action     text or NULL    only this kind of action, or with jobs: every kind that begins so
--   before_id  bigint or NULL  older than this entry
--   most       entries         most entries given
--
-- Gives: id, at, name, via, who, action, subject, detail (JSON as text).
SELECT
    id,
    least(greatest(at, '1970-01-01 00:00Z'), '9000-01-01 00:00Z') AS at,
    name,
    via,
    who,
    action,
    subject,
    detail::text AS detail
FROM /* schema */oban_sync_audit
WHERE (%(who)s::text IS NULL OR who = %(who)s)
  AND (
      %(action)s::text IS NULL
      OR action = %(action)s
      OR (right(%(action)s, 1) = ':' AND starts_with(action, %(action)s))
  )
  AND (%(before_id)s::bigint IS NULL OR id < %(before_id)s)
ORDER BY id DESC
LIMIT %(most)s::integer
