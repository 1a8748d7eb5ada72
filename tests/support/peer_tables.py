"""Jobs tables as Oban for Elixir and oban-py leave them, to be found by an installation of ours.

Written from a description of what those tables look like, not from their makers' migrations.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import psycopg
from psycopg import sql

#: Before version 9 there was no 'cancelled'; that is older than can be joined.
ELIXIR_VERSIONS = (8, 9, 10, 11, 12, 13, 14)

LABELS = (
    "available",
    "scheduled",
    "executing",
    "retryable",
    "completed",
    "discarded",
    "cancelled",
)

_ELIXIR_TABLE = """
CREATE TABLE oban_jobs (
    id bigserial PRIMARY KEY,
    state oban_job_state NOT NULL DEFAULT 'available',
    queue text NOT NULL DEFAULT 'default',
    worker text NOT NULL,
    args jsonb NOT NULL DEFAULT '{}',
    errors jsonb[] NOT NULL DEFAULT ARRAY[]::jsonb[],
    attempt integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL DEFAULT 20,
    inserted_at timestamp NOT NULL DEFAULT timezone('UTC', now()),
    scheduled_at timestamp NOT NULL DEFAULT timezone('UTC', now()),
    attempted_at timestamp,
    completed_at timestamp,
    attempted_by text[],
    discarded_at timestamp,
    priority integer NOT NULL DEFAULT 0,
    tags text[] DEFAULT ARRAY[]::text[]
)
"""

_ELIXIR_LENGTHS = """
ALTER TABLE oban_jobs
    ADD CONSTRAINT queue_length CHECK (char_length(queue) BETWEEN 1 AND 127),
    ADD CONSTRAINT worker_length CHECK (char_length(worker) BETWEEN 1 AND 127)
"""

_ELIXIR_BELL = """
CREATE FUNCTION oban_jobs_notify() RETURNS trigger LANGUAGE plpgsql AS $bell$
BEGIN
    IF NEW.state = 'available' THEN
        PERFORM pg_notify(
            TG_TABLE_SCHEMA || '.oban_insert', json_build_object('queue', NEW.queue)::text
        );
    END IF;

    RETURN NULL;
END
$bell$;

CREATE TRIGGER oban_notify AFTER INSERT ON oban_jobs
FOR EACH ROW EXECUTE FUNCTION oban_jobs_notify();
"""

_ELIXIR_9 = """
ALTER TABLE oban_jobs ADD COLUMN meta jsonb DEFAULT '{}', ADD COLUMN cancelled_at timestamp
"""

_ELIXIR_10 = """
ALTER TABLE oban_jobs
    ADD CONSTRAINT attempt_range CHECK (attempt BETWEEN 0 AND max_attempts),
    ADD CONSTRAINT positive_max_attempts CHECK (max_attempts > 0),
    ADD CONSTRAINT priority_range CHECK (priority BETWEEN 0 AND 3);

CREATE INDEX oban_jobs_state_queue_priority_scheduled_at_id_index
ON oban_jobs (state, queue, priority, scheduled_at, id);

CREATE INDEX oban_jobs_args_index ON oban_jobs USING gin (args);

CREATE INDEX oban_jobs_meta_index ON oban_jobs USING gin (meta);
"""

_ELIXIR_11 = """
CREATE UNLOGGED TABLE oban_peers (
    name text PRIMARY KEY,
    node text NOT NULL,
    started_at timestamp NOT NULL,
    expires_at timestamp NOT NULL
)
"""

_ELIXIR_12 = """
ALTER TABLE oban_jobs
    DROP CONSTRAINT priority_range,
    ADD CONSTRAINT non_negative_priority CHECK (priority >= 0) NOT VALID;

DROP TRIGGER oban_notify ON oban_jobs;

DROP FUNCTION oban_jobs_notify();
"""

_ELIXIR_13 = """
CREATE INDEX oban_jobs_state_cancelled_at_index ON oban_jobs (state, cancelled_at);

CREATE INDEX oban_jobs_state_discarded_at_index ON oban_jobs (state, discarded_at);
"""

_OBAN_PY = """
CREATE TABLE oban_jobs (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    state oban_job_state NOT NULL DEFAULT 'available',
    queue text NOT NULL DEFAULT 'default',
    worker text NOT NULL,
    attempt smallint NOT NULL DEFAULT 0,
    max_attempts smallint NOT NULL DEFAULT 20,
    priority smallint NOT NULL DEFAULT 0,
    args jsonb NOT NULL DEFAULT '{}',
    meta jsonb NOT NULL DEFAULT '{}',
    tags text[] NOT NULL DEFAULT ARRAY[]::text[],
    errors jsonb NOT NULL DEFAULT '[]',
    attempted_by text[] NOT NULL DEFAULT ARRAY[]::text[],
    inserted_at timestamp NOT NULL DEFAULT timezone('UTC', now()),
    scheduled_at timestamp NOT NULL DEFAULT timezone('UTC', now()),
    attempted_at timestamp,
    cancelled_at timestamp,
    completed_at timestamp,
    discarded_at timestamp,
    CONSTRAINT attempt_range CHECK (attempt BETWEEN 0 AND max_attempts),
    CONSTRAINT queue_length CHECK (char_length(queue) > 0),
    CONSTRAINT worker_length CHECK (char_length(worker) > 0),
    CONSTRAINT positive_max_attempts CHECK (max_attempts > 0),
    CONSTRAINT non_negative_priority CHECK (priority >= 0)
) WITH (fillfactor = 85, autovacuum_vacuum_scale_factor = 0.02);

CREATE UNLOGGED TABLE oban_leaders (
    name text PRIMARY KEY DEFAULT 'oban',
    node text NOT NULL,
    elected_at timestamp NOT NULL,
    expires_at timestamp NOT NULL
);

CREATE UNLOGGED TABLE oban_producers (
    uuid uuid PRIMARY KEY,
    name text NOT NULL DEFAULT 'oban',
    node text NOT NULL,
    queue text NOT NULL,
    meta jsonb NOT NULL DEFAULT '{}',
    started_at timestamp NOT NULL DEFAULT timezone('UTC', now()),
    updated_at timestamp NOT NULL DEFAULT timezone('UTC', now())
);

CREATE INDEX oban_jobs_state_queue_priority_scheduled_at_id_index
ON oban_jobs (state, queue, priority, scheduled_at, id) WITH (fillfactor = 90);

CREATE INDEX oban_jobs_staging_index ON oban_jobs (scheduled_at, id) INCLUDE (queue)
WHERE state IN ('scheduled', 'retryable');

CREATE INDEX oban_jobs_completed_at_index ON oban_jobs (completed_at) WHERE state = 'completed';

CREATE INDEX oban_jobs_cancelled_at_index ON oban_jobs (cancelled_at) WHERE state = 'cancelled';

CREATE INDEX oban_jobs_discarded_at_index ON oban_jobs (discarded_at) WHERE state = 'discarded';

CREATE FUNCTION oban_count_estimate(state text, queue text) RETURNS integer LANGUAGE sql
RETURN 0;
"""


def make_elixir(
    conn: psycopg.Connection[Any], schema: str, version: int, *, labels: tuple[str, ...] = ()
) -> None:
    """The tables of Oban for Elixir after one of its migrations, in a new schema.

    Args:
        conn: An autocommit connection.
        schema: The name of the schema.
        version: The migration, one of `ELIXIR_VERSIONS`.
        labels: The states, in another order than Oban's own.
    """
    labels = labels or {
        8: LABELS[:-1],
        14: (LABELS[0], "suspended", *LABELS[1:]),
    }.get(version, LABELS)

    with conn.transaction():
        _begin(conn, schema, labels)
        conn.execute(_ELIXIR_TABLE)
        conn.execute(_ELIXIR_LENGTHS)
        conn.execute(_ELIXIR_BELL)

        for since, change in enumerate(
            (_ELIXIR_9, _ELIXIR_10, _ELIXIR_11, _ELIXIR_12, _ELIXIR_13), start=9
        ):
            if since <= version:
                conn.execute(change)

        conn.execute(sql.SQL("COMMENT ON TABLE oban_jobs IS {}").format(str(version)))


def make_oban_py(conn: psycopg.Connection[Any], schema: str) -> None:
    """The tables of oban-py 0.7, in a new schema; takes what `make_elixir` takes."""
    with conn.transaction():
        _begin(conn, schema, (*LABELS[:2], "suspended", *LABELS[2:]))
        conn.execute(_OBAN_PY)


def _begin(conn: psycopg.Connection[Any], schema: str, labels: tuple[str, ...]) -> None:
    name = sql.Identifier(schema)
    states = sql.SQL(", ").join(map(sql.Literal, labels))

    conn.execute(sql.SQL("CREATE SCHEMA {}").format(name))
    conn.execute(sql.SQL("SET LOCAL search_path TO {}").format(name))
    conn.execute(sql.SQL("CREATE TYPE oban_job_state AS ENUM ({})").format(states))


#: Every kind of table that an installation of ours may find, and join.
PEERS: dict[str, Callable[[psycopg.Connection[Any], str], None]] = {
    **{
        f"Elixir v{version}": partial(make_elixir, version=version)
        for version in ELIXIR_VERSIONS
        if version > 8
    },
    "Elixir v14 with its states in another order": partial(
        make_elixir, version=14, labels=tuple(reversed((*LABELS, "suspended")))
    ),
    "oban-py": make_oban_py,
}
