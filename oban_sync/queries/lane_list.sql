-- The lanes that jobs would be in.
--
--   jobs  JSON as text  array of {worker, args, meta}
--
-- Gives: lane of each, in their order.
SELECT /* lane */ AS lane
FROM pg_catalog.jsonb_array_elements(%(jobs)s::text::jsonb)
    WITH ORDINALITY AS given (job, position)
CROSS JOIN LATERAL (
    SELECT
        given.job ->> 'worker' AS worker,
        given.job -> 'args' AS args,
        given.job -> 'meta' AS meta
) AS job
ORDER BY given.position
