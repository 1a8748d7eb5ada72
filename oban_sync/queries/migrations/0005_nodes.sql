-- Who takes part, and who leads.
--
-- Logged, unlike the tables of Oban and oban-py: after a crash of PostgreSQL the owners of executing
-- jobs must still be known. A row is written every few seconds per node, which is nothing.

-- A node is one start of one process. Its row is its lease on everything that it runs: others watch
-- `beats`, by their own clocks. lock_key is what its LISTEN session holds an advisory lock on, and
-- NULL where sessions cannot be relied on (behind a pooler in transaction mode). A founder was alone
-- when it started: the cluster starts with it.
CREATE TABLE IF NOT EXISTS /* schema */oban_sync_nodes (
    uuid text PRIMARY KEY,
    name text NOT NULL,
    node text NOT NULL,
    beats bigint NOT NULL,
    lock_key bigint,
    max_age double precision NOT NULL,
    unlocked_max_age double precision NOT NULL,
    crons text[] NOT NULL DEFAULT '{}',
    founder boolean NOT NULL DEFAULT false,
    started_at timestamptz NOT NULL DEFAULT now(),
    beat_at timestamptz NOT NULL DEFAULT now()
);

-- uuid is what attempted_by[2] of a job names, in the same type.
CREATE TABLE IF NOT EXISTS /* schema */oban_sync_producers (
    uuid text PRIMARY KEY,
    node_uuid text NOT NULL REFERENCES /* schema */oban_sync_nodes (uuid) ON DELETE CASCADE,
    queue text NOT NULL,
    job_limit integer NOT NULL,
    paused boolean NOT NULL,
    started_at timestamptz NOT NULL DEFAULT now()
);

CREATE INDEX IF NOT EXISTS oban_sync_producers_node_index
ON /* schema */oban_sync_producers (node_uuid);

-- One row per Oban instance: the node that does the work of the whole cluster.
CREATE TABLE IF NOT EXISTS /* schema */oban_sync_leaders (
    name text PRIMARY KEY,
    uuid text NOT NULL,
    node text NOT NULL,
    elected_at timestamptz NOT NULL,
    expires_at timestamptz NOT NULL
);
