-- What people asked for: durable, so that a lost notification loses nothing.

-- How queues should be, over what nodes were configured with. '*' stands for every queue or node. Of
-- the rows that fit a producer, the newest (by seq) counts.
CREATE TABLE IF NOT EXISTS /* schema */oban_sync_controls (
    seq bigserial NOT NULL,
    name text NOT NULL,
    queue text NOT NULL,
    node text NOT NULL,
    aspect text NOT NULL CHECK (aspect IN ('paused', 'limit', 'running')),
    value jsonb NOT NULL,
    set_by text,
    set_at timestamptz NOT NULL DEFAULT now(),
    until timestamptz,

    PRIMARY KEY (name, queue, node, aspect)
);

-- Jobs that run and were asked to stop: every node looks for its own with each beat.
CREATE INDEX IF NOT EXISTS oban_jobs_cancel_index
ON /* schema */oban_jobs (id)
WHERE state = 'executing' AND meta ? 'cancel_requested_at';
