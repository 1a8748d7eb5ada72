-- Waking nodes only when one of them has to be woken: at each commit with a NOTIFY all others wait.

-- First what is waited for: beats go on until it is had.
LOCK TABLE /* schema */oban_jobs IN SHARE ROW EXCLUSIVE MODE;

-- Whether a producer has to hear of new jobs. One that is busy looks for them by itself.
ALTER TABLE /* schema */oban_sync_producers
ADD COLUMN IF NOT EXISTS listening boolean NOT NULL DEFAULT true;

-- As oban_sync_notify_insert, where somebody listens to one of the queues. So it does while a node of
-- Oban or oban-py lives, which has to hear of every job: their leaders tell of it.
--
-- A producer that begins to listen looks at the jobs once more when all transactions have ended that
-- were open at that moment; so it does not matter that they do not know. One with a snapshot of its
-- own, kept from its first statement on, may be older than it looks, and always notifies. It does not
-- even read the producers, which would be a reason for PostgreSQL not to serialize it.
--
-- With the rights of its owner: whoever may insert jobs need not be allowed to read of the nodes. In
-- few statements, because each costs as much as the insert of a job. The leaders' tables belong to
-- others, and may be gone.
CREATE OR REPLACE FUNCTION /* schema */oban_sync_notify_listeners() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $function$
DECLARE
    heard boolean := current_setting('transaction_isolation') <> 'read committed';
BEGIN
    IF NOT heard THEN
        BEGIN
            heard := EXISTS (
                SELECT FROM /* schema */oban_sync_producers AS producer
                WHERE producer.listening
                  AND producer.queue = ANY (ARRAY(
                      SELECT DISTINCT queue FROM inserted WHERE state::text = 'available'
                  ))
            ) OR EXISTS (
                SELECT FROM /* schema */oban_peers AS peer
                WHERE peer.expires_at > timezone('UTC', now())
            ) OR EXISTS (
                SELECT FROM /* schema */oban_leaders AS leader
                WHERE leader.expires_at > timezone('UTC', now())
            );
        EXCEPTION WHEN undefined_table OR undefined_column OR insufficient_privilege THEN
            heard := true;
        END;
    END IF;

    IF heard THEN
        PERFORM pg_notify(
            TG_TABLE_SCHEMA || '.oban_insert', '{"queue":' || to_json(woken.queue) || '}'
        )
        FROM (SELECT DISTINCT queue FROM inserted WHERE state::text = 'available') AS woken;
    END IF;

    RETURN NULL;
END
$function$;

-- It runs with its owner's rights, and the columns of a table it is put on may have casts that run
-- anybody's code. Whoever fires the trigger needs no right to it, only who makes one.
REVOKE ALL ON FUNCTION /* schema */oban_sync_notify_listeners() FROM PUBLIC;

-- A table that Oban or oban-py made is theirs in the first place. Not all of their nodes can be seen,
-- so there every insert notifies, as they expect it.
DO $migration$
BEGIN
    IF EXISTS (SELECT FROM /* schema */oban_sync_migrations WHERE created_jobs) THEN
        CREATE OR REPLACE TRIGGER oban_sync_notify_insert
        AFTER INSERT ON /* schema */oban_jobs
        REFERENCING NEW TABLE AS inserted
        FOR EACH STATEMENT EXECUTE FUNCTION /* schema */oban_sync_notify_listeners();
    END IF;
END
$migration$;
