-- The tables that Oban and oban-py keep beside the jobs, so that their nodes can join.
--
-- Made only where missing. Unlogged as theirs are: the rows are leases, worth nothing after a crash.
CREATE UNLOGGED TABLE IF NOT EXISTS /* schema */oban_peers (
    name text PRIMARY KEY,
    node text NOT NULL,
    started_at timestamp NOT NULL,
    expires_at timestamp NOT NULL
);

CREATE UNLOGGED TABLE IF NOT EXISTS /* schema */oban_leaders (
    name text PRIMARY KEY DEFAULT 'oban',
    node text NOT NULL,
    elected_at timestamp NOT NULL,
    expires_at timestamp NOT NULL
);

CREATE UNLOGGED TABLE IF NOT EXISTS /* schema */oban_producers (
    uuid uuid PRIMARY KEY,
    name text NOT NULL DEFAULT 'oban',
    node text NOT NULL,
    queue text NOT NULL,
    meta jsonb NOT NULL DEFAULT '{}',
    started_at timestamp NOT NULL DEFAULT timezone('UTC', now()),
    updated_at timestamp NOT NULL DEFAULT timezone('UTC', now())
);
