-- Let the statements of this transaction wait only so long for rows that others hold.
--
--   milliseconds  as text  most time of one wait
--
-- Gives: the setting made.
SELECT set_config('lock_timeout', %(milliseconds)s::text, true)
