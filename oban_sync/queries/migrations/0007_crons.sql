-- Entries that enqueue jobs by the clock, and what became of each of their times.

-- What the code says of an entry is written by every node that starts with it; what people changed at
-- run time is in `edited`, and wins. `dynamic` entries were made at run time, and no code knows them.
-- Times before `since` were not missed: the entry, or its expression, was not there yet.
CREATE TABLE IF NOT EXISTS /* schema */oban_sync_crons (
    name text NOT NULL,
    entry text NOT NULL,
    expression text NOT NULL,
    timezone text NOT NULL,
    catch_up text NOT NULL,
    overlap text NOT NULL,
    worker text NOT NULL,
    job jsonb NOT NULL,
    dynamic boolean NOT NULL DEFAULT false,
    edited jsonb NOT NULL DEFAULT '{}',
    paused boolean NOT NULL DEFAULT false,
    paused_by text,
    paused_at timestamptz,
    since timestamptz NOT NULL DEFAULT now(),
    inserted_at timestamptz NOT NULL DEFAULT now(),

    PRIMARY KEY (name, entry)
);

-- The key is the promise: whoever else thinks it leads, a time of an entry is settled once, in the
-- transaction that inserts its job.
CREATE TABLE IF NOT EXISTS /* schema */oban_sync_cron_slots (
    name text NOT NULL,
    entry text NOT NULL,
    due_at timestamptz NOT NULL,
    outcome text NOT NULL CHECK (outcome IN ('inserted', 'skipped')),
    job_id bigint,
    node text NOT NULL,
    settled_at timestamptz NOT NULL DEFAULT now(),
    reason text,

    PRIMARY KEY (name, entry, due_at)
);
