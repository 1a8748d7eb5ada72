-- The jobs table as Oban for Elixir has it (its version 14), or nothing where one exists.
--
-- A table made by Oban or oban-py is taken as it is: both column types of errors are supported, and
-- none of its columns, constraints or indexes is touched.
DO $migration$
BEGIN
    -- CREATE SCHEMA IF NOT EXISTS asks for the right to create even where nothing is to be done.
    IF NOT EXISTS (SELECT FROM pg_namespace WHERE nspname = /* schema literal */) THEN
        CREATE SCHEMA /* schema name */;
    END IF;

    -- Which migrations ran, and whether the jobs table is ours to remove.
    CREATE TABLE IF NOT EXISTS /* schema */oban_sync_migrations (
        version integer PRIMARY KEY,
        created_jobs boolean NOT NULL DEFAULT false,
        applied_at timestamptz NOT NULL DEFAULT now()
    );

    IF to_regtype(quote_ident(/* schema literal */) || '.oban_job_state') IS NULL THEN
        CREATE TYPE /* schema */oban_job_state AS ENUM (
            'available',
            'suspended',
            'scheduled',
            'executing',
            'retryable',
            'completed',
            'discarded',
            'cancelled'
        );
    END IF;

    IF to_regclass(quote_ident(/* schema literal */) || '.oban_jobs') IS NULL THEN
        CREATE TABLE /* schema */oban_jobs (
            id bigserial PRIMARY KEY,
            state /* schema */oban_job_state NOT NULL DEFAULT 'available',
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
            tags text[] DEFAULT ARRAY[]::text[],
            meta jsonb DEFAULT '{}',
            cancelled_at timestamp,

            CONSTRAINT attempt_range CHECK (attempt >= 0 AND attempt <= max_attempts),
            CONSTRAINT positive_max_attempts CHECK (max_attempts > 0),
            CONSTRAINT queue_length CHECK (char_length(queue) > 0 AND char_length(queue) < 128),
            CONSTRAINT worker_length CHECK (char_length(worker) > 0 AND char_length(worker) < 128),
            CONSTRAINT non_negative_priority CHECK (priority >= 0)
        );

        -- The version marker of Oban for Elixir, so that its nodes can join without migrating.
        COMMENT ON TABLE /* schema */oban_jobs IS '14';

        -- Every job is updated twice and pruned once: vacuum has to come early and work fast.
        ALTER TABLE /* schema */oban_jobs SET (
            autovacuum_vacuum_scale_factor = 0.02,
            autovacuum_vacuum_threshold = 1000,
            autovacuum_vacuum_insert_scale_factor = 0.05,
            autovacuum_vacuum_insert_threshold = 10000,
            autovacuum_analyze_scale_factor = 0.05,
            autovacuum_analyze_threshold = 1000,
            autovacuum_vacuum_cost_limit = 2000,
            autovacuum_vacuum_cost_delay = 1
        );

        INSERT INTO /* schema */oban_sync_migrations (version, created_jobs) VALUES (1, true)
        -- The table was there once, and was dropped by somebody.
        ON CONFLICT (version) DO UPDATE SET created_jobs = true;
    ELSIF NOT EXISTS (
        SELECT FROM pg_attribute
        WHERE attrelid = to_regclass(quote_ident(/* schema literal */) || '.oban_jobs')
          AND attname = 'cancelled_at'
    ) THEN
        RAISE EXCEPTION 'oban_jobs was made by a version of Oban older than its migration 9'
        USING HINT = 'Run the migrations of Oban first, up to version 11 or later.';
    END IF;
END
$migration$;

-- A state newer than some tables of Oban. It is only named by rows, never by what is created here.
ALTER TYPE /* schema */oban_job_state ADD VALUE IF NOT EXISTS 'suspended' BEFORE 'scheduled';
