-- Hand back jobs this producer holds in the table but does not know of.
--
--   queue  text               the producer's queue
--   owner  uuid as text       the producer
--   known  bigint[] as text   jobs it runs, or whose outcome it has yet to write
--
-- Gives: id of every job handed back, its attempt not spent.
--
-- After a fetch whose reply was lost nobody runs the jobs it took, and no rescue would find them as
-- long as the producer lives.
UPDATE /* schema */oban_jobs
SET state = 'available',
    attempt = greatest(attempt - 1, 0)
WHERE id = ANY (ARRAY(
    SELECT id
    FROM /* schema */oban_jobs
    WHERE state = 'executing'
      AND queue = %(queue)s::text
      AND attempted_by[2] = %(owner)s::text
      AND id <> ALL (%(known)s::text::bigint[])
    ORDER BY id
    FOR UPDATE SKIP LOCKED
))
RETURNING id
