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

-- Whether the run of a job that started then was asked to stop. A request older than the start was
-- meant for another run: Oban and oban-py do not take it away when they retry a job.
CREATE OR REPLACE FUNCTION /* schema */oban_sync_unwanted(meta jsonb, started_at timestamp)
RETURNS boolean
LANGUAGE sql STABLE
SET search_path = pg_catalog, pg_temp
AS $function$
    SELECT coalesce(
        (meta ->> 'cancel_requested_at') COLLATE "C"
            >= to_char(started_at, 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"'),
        false
    )
$function$;
