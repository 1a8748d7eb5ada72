-- The newest job that a search leaves unread.
--
--   before_id  bigint or NULL  of those older than this one
--   within     jobs            that the search reads
--
-- Gives: id; no row where it reads all there are.
SELECT id
FROM /* schema */oban_jobs
WHERE (%(before_id)s::bigint IS NULL OR id < %(before_id)s::bigint)
ORDER BY id DESC
OFFSET %(within)s::integer
LIMIT 1
