-- Hand back jobs that were started but not finished, without spending the attempt.
--
--   ids      bigint[] as text     the jobs
--   fences   timestamp[] as text  when each was started
--   owner    uuid as text         the producer that started them
--   channel  text                 where nodes listen for available jobs
--
-- Gives: id of every job handed back. Nodes that run their queues are woken at commit.
WITH released AS (
    UPDATE /* schema */oban_jobs AS job
    SET state = 'available',
        attempt = greatest(job.attempt - 1, 0)
    FROM unnest(%(ids)s::text::bigint[], %(fences)s::text::timestamp[]) AS held (id, fence)
    WHERE job.id = held.id
      AND job.attempted_at = held.fence
      AND job.attempted_by[2] = %(owner)s::text
      AND job.state::text = 'executing'
    RETURNING job.id, job.queue
),
told AS (
    SELECT pg_notify(%(channel)s, '{"queue":' || to_json(woken.queue) || '}')
    FROM (SELECT DISTINCT queue FROM released) AS woken
)
SELECT released.id
FROM released
CROSS JOIN (SELECT count(*) FROM told) AS told
