-- Let the statements of this transaction go along indexes, in their order, and read no whole table.
--
-- Gives: the settings made.
--
-- Else the planner reads the table wherever it takes it for small, or the jobs for many: its
-- statistics are always out of date.
SELECT
    set_config('enable_seqscan', 'off', true),
    set_config('enable_bitmapscan', 'off', true),
    set_config('enable_sort', 'off', true)
