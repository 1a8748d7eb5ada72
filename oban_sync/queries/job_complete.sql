-- Complete the jobs of a limited queue that finished plainly.
--
--   ids     bigint[]      the jobs, ascending
--   fences  timestamp[]   when each of them was started, in the same order
--   owner   uuid as text  the producer that ran them
--
-- Gives: id of every job that was still ours.
--
-- As in job_ack_and_fetch, but before the lock of the queue is taken: nobody has to wait for it.
UPDATE /* schema */oban_jobs AS job
SET state = 'completed',
    completed_at = (SELECT timezone('UTC', now()))
WHERE job.id = ANY (%(ids)s::bigint[])
  AND job.attempted_at
      = (%(fences)s::timestamp[])[pg_catalog.width_bucket(job.id, %(ids)s::bigint[])]
  AND job.attempted_by[2] = %(owner)s::text
  AND job.state::text = 'executing'
RETURNING job.id
