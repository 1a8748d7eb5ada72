-- Forget what became of old times.
--
--   name     text     the Oban instance
--   max_age  seconds  times that were due, and settled, longer ago than this are forgotten
--   most     times    most rows deleted by one call; call again while it deletes that many
--
-- Gives: nothing.
--
-- Of an entry that there still is, two stay whatever their age: the newest, from which on it is looked
-- for missed times, and the newest that inserted a job, which may not be finished. The names are found
-- one by one through the key, not by reading all slots.
WITH RECURSIVE kept AS (
    SELECT min(slot.entry) AS entry
    FROM /* schema */oban_sync_cron_slots AS slot
    WHERE slot.name = %(name)s::text
    UNION ALL
    SELECT (
        SELECT min(slot.entry)
        FROM /* schema */oban_sync_cron_slots AS slot
        WHERE slot.name = %(name)s::text
          AND slot.entry > kept.entry
    )
    FROM kept
    WHERE kept.entry IS NOT NULL
),
newest AS MATERIALIZED (
    SELECT
        kept.entry,
        EXISTS (
            SELECT FROM /* schema */oban_sync_crons AS cron
            WHERE cron.name = %(name)s::text
              AND cron.entry = kept.entry
        ) AS stands,
        (
            SELECT max(slot.due_at)
            FROM /* schema */oban_sync_cron_slots AS slot
            WHERE slot.name = %(name)s::text
              AND slot.entry = kept.entry
        ) AS settled,
        (
            SELECT slot.due_at
            FROM /* schema */oban_sync_cron_slots AS slot
            WHERE slot.name = %(name)s::text
              AND slot.entry = kept.entry
              AND slot.outcome = 'inserted'
            ORDER BY slot.due_at DESC
            LIMIT 1
        ) AS inserted
    FROM kept
    WHERE kept.entry IS NOT NULL
),
old AS (
    SELECT slot.entry, slot.due_at
    FROM newest
    JOIN /* schema */oban_sync_cron_slots AS slot
      ON slot.name = %(name)s::text
     AND slot.entry = newest.entry
     AND slot.due_at < now() - make_interval(secs => %(max_age)s::double precision)
     AND slot.settled_at < now() - make_interval(secs => %(max_age)s::double precision)
    WHERE NOT newest.stands
       OR (slot.due_at <> newest.settled AND slot.due_at IS DISTINCT FROM newest.inserted)
    LIMIT %(most)s::integer
)
DELETE FROM /* schema */oban_sync_cron_slots AS slot
USING old
WHERE slot.name = %(name)s::text
  AND slot.entry = old.entry
  AND slot.due_at = old.due_at
