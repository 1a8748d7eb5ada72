-- Write what a producer of a limited queue runs, without taking more.
--
--   owner  text      the producer
--   turn   bigint    number of its turn; an older one writes nothing
--   jobs   count     how many it runs
--   lanes  bigint[]  the lane of each, where the queue has lanes
--
-- Gives: uuid, of the producer where it was written.
UPDATE /* schema */oban_sync_producers AS producer
SET turn = %(turn)s::bigint,
    running = %(jobs)s::integer,
    lanes = %(lanes)s::bigint[]
WHERE producer.uuid = %(owner)s::text
  AND producer.turn < %(turn)s::bigint
RETURNING producer.uuid
