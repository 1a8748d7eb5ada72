-- Write down that somebody did something.
--
--   name     text          the Oban instance
--   via      text          from where: dashboard or cli
--   who      text or NULL  who did it
--   action   text          what, as jobs:cancel
--   subject  text          to what
--   detail   jsonb         what else is to be known of it
--
-- Gives: id.
INSERT INTO /* schema */oban_sync_audit (name, via, who, action, subject, detail)
VALUES (%(name)s, %(via)s, %(who)s, %(action)s, %(subject)s, %(detail)s::text::jsonb)
RETURNING id
