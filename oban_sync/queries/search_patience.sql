-- Let each further statement of this transaction take only so long, unless less is allowed anyway.
--
--   milliseconds  bigint        most time of one statement
--   setting       text or NULL  set this instead: what was allowed before
--
-- Gives: what was allowed before, as the setting has it, and what is now, in milliseconds.
--
-- Settings are given with their unit, as intervals are read; 0 is no limit.
SELECT
    earlier.setting,
    wanted.milliseconds,
    set_config(
        'statement_timeout',
        coalesce(%(setting)s::text, wanted.milliseconds::text),
        true
    )
FROM (SELECT current_setting('statement_timeout') AS setting) AS earlier
CROSS JOIN LATERAL (
    SELECT least(
        nullif((extract(epoch FROM earlier.setting::interval) * 1000)::bigint, 0),
        %(milliseconds)s::bigint
    ) AS milliseconds
) AS wanted
