"""Many insert the same unique jobs at once, while connections break and nodes run the jobs."""

from __future__ import annotations

import sys
import time
from collections import Counter

from tests.chaos.checker import ALWAYS, check
from tests.chaos.sizes import sized

#: Some of all connections: a pool that loses all of them at once needs seconds to come back.
TERMINATE = (
    "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity"
    " WHERE datname = current_database() AND pid <> pg_backend_pid() AND random() < 0.1"
)

#: Beside the history of the suite, which does not know of keys.
KEYS = """
CREATE TABLE chaos.keys (seq bigserial, job bigint NOT NULL, key text, state text);

CREATE FUNCTION chaos.record_key() RETURNS trigger LANGUAGE plpgsql AS $function$
BEGIN
    INSERT INTO chaos.keys (job, key, state)
    VALUES (NEW.id, NEW.meta ->> 'uniq_key', NEW.state::text);

    RETURN NULL;
END
$function$;

CREATE TRIGGER chaos_keys AFTER INSERT OR UPDATE ON oban_jobs
FOR EACH ROW EXECUTE FUNCTION chaos.record_key();
"""

WATCHED = ("suspended", "scheduled", "available", "executing", "retryable")


def held_twice(changes):
    """The moments at which two jobs with one key were in states in which it has to be one's.

    Whoever inserts a key waits for the transaction that lets it go, and is recorded after that.
    """
    holders: dict[str, set[int]] = {}
    trouble = []

    for seq, job, key, state in changes:
        held = holders.setdefault(key, set())

        if state in WATCHED:
            held.add(job)

            if len(held) > 1:
                trouble.append(f"{seq}: {sorted(held)} with {key}")
        else:
            held.discard(job)

    return trouble


def test_two_holders_of_a_key_are_noticed():
    free = [(1, 7, "k", "available"), (2, 7, "k", "completed"), (3, 8, "k", "available")]

    assert held_twice(free) == []
    assert held_twice([free[0], (2, 9, "j", "available"), *free[2:]]) == ["3: [7, 8] with k"]


@sized(
    smoke={"processes": 2, "threads": 4, "times": 1_000, "keys": 20},
    full={"processes": 4, "threads": 4, "times": 10_000, "keys": 50},
    timeout=400,
)
def test_a_key_is_one_jobs_at_a_time_whoever_inserts_it_and_whatever_breaks(
    make_cluster, figure, size
):
    cluster = make_cluster(pace=size.pace)
    cluster.execute(KEYS)

    for _ in range(2):
        cluster.start()

    inserters = [
        cluster.start(command=[sys.executable, "-m", "tests.chaos.inserter"])
        for _ in range(size.processes)
    ]
    each = size.times // (size.processes * size.threads)
    began = time.monotonic()

    for number, inserter in enumerate(inserters):
        seed = f"{cluster.random.random()}:{number}"
        inserter.tell(do="insert", threads=size.threads, times=each, keys=size.keys, seed=seed)

    breaks = 0

    while len(cluster.events("inserted all")) < size.processes:
        assert time.monotonic() < began + 300, "they do not come to an end"
        cluster.idle(cluster.random.uniform(0.05, 0.4))
        [(ended,)] = cluster.execute(TERMINATE)
        breaks += ended

    took = time.monotonic() - began
    cluster.inserted = [row[0] for row in cluster.execute("SELECT id FROM oban_jobs")]
    cluster.settle(within=60)
    evidence = cluster.evidence()
    check(evidence, *ALWAYS)

    changes = cluster.execute("SELECT seq, job, key, state FROM chaos.keys ORDER BY seq")
    counts = cluster.events("counts")
    stored = [job for event in counts for job in event["stored"]]
    found = {job for event in counts for job in event["found"]}
    lost = sum(event["lost"] for event in counts)
    undone = sum(event["undone"] for event in counts)

    assert [event["error"] for event in cluster.events("surfaced")] == []
    assert held_twice(changes) == []
    assert [job for job, times in Counter(stored).items() if times > 1] == []
    # What an insert came to whose connection broke is not known.
    assert set(stored) | found <= set(cluster.inserted)
    assert len(cluster.inserted) - len(stored) <= lost
    assert found

    figure(
        f"{each * size.processes * size.threads:,} inserts of {size.keys} keys by "
        f"{size.processes} processes of {size.threads} threads in {took:.0f} s, {breaks} "
        f"connections ended: {len(stored):,} stored, "
        f"{sum(len(event['found']) for event in counts):,} found, "
        f"{undone:,} rolled back, {lost:,} lost with their connection; "
        f"{len(changes):,} changes of rows, no key held twice, no deadlock"
    )
