-- Wait until nobody else holds a job, and hold it until the end of the transaction.
--
--   id  bigint  the job
--
-- Gives: id; nothing where the job was deleted.
SELECT held.id
FROM /* schema */oban_jobs AS held
WHERE held.id = %(id)s::bigint
FOR UPDATE
