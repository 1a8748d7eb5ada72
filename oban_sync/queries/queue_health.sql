-- How queues stand; see the view.
--
-- Gives: queue, available, executing, scheduled, retryable, oldest_age, slots, busy, nodes, paused,
-- throughput, drain_estimate, by queue.
SELECT
    queue,
    available,
    executing,
    scheduled,
    retryable,
    oldest_age,
    slots,
    busy,
    nodes,
    paused,
    throughput,
    drain_estimate
FROM /* schema */oban_queue_health
ORDER BY queue
