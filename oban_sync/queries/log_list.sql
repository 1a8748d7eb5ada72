-- What the last runs of a job logged.
--
--   job_id  bigint         the job
--   most    runs           most of them; the newest
--   lines   lines or NULL  most lines of all of them; those of the newest runs, and of these the last
--
-- Gives: attempt, attempted_at, node, dropped, omitted (how many lines are there and not given),
-- lines; the newest first.
SELECT
    log.attempt,
    log.attempted_at,
    log.node,
    log.dropped,
    log.omitted,
    CASE
        WHEN log.omitted = 0 THEN log.lines
        WHEN log.omitted = log.has THEN '[]'::jsonb
        ELSE (
            SELECT jsonb_agg(line.value ORDER BY line.place)
            FROM jsonb_array_elements(log.lines) WITH ORDINALITY AS line (value, place)
            WHERE line.place > log.omitted
        )
    END AS lines
FROM (
    SELECT
        run.*,
        CASE
            WHEN %(lines)s::bigint IS NULL THEN 0
            -- What the runs since have, and this one, beyond that.
            ELSE least(
                run.has,
                greatest(
                    0,
                    sum(run.has) OVER (ORDER BY run.attempted_at DESC) - %(lines)s::bigint
                )
            )
        END::bigint AS omitted
    FROM (
        SELECT
            kept.attempt,
            kept.attempted_at,
            kept.node,
            kept.dropped,
            kept.lines,
            CASE
                WHEN jsonb_typeof(kept.lines) = 'array' THEN jsonb_array_length(kept.lines) ELSE 0
            END AS has
        FROM /* schema */oban_sync_logs AS kept
        WHERE kept.job_id = %(job_id)s::bigint
        ORDER BY kept.job_id DESC, kept.attempted_at DESC
        LIMIT %(most)s::bigint
    ) AS run
) AS log
ORDER BY log.attempted_at DESC
