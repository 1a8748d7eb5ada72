"""The loop that rebuilds indexes: when, which, and what a failed try leaves behind."""

from __future__ import annotations

import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from queue import SimpleQueue
from threading import Event

import psycopg
import pytest
from psycopg import sql

from oban_sync import ConfigError, DatabaseUnavailableError, telemetry
from oban_sync.core.reindexing import ReindexerConfig, check_reindexer
from oban_sync.engine import reindex
from oban_sync.engine.connections import connect
from oban_sync.plugins.reindexer import Reindexer
from tests.support.probe import eventually

OURS = ["oban_jobs_available_index", "oban_jobs_staging_index", "oban_jobs_executing_index"]
MIDNIGHT = datetime(2026, 3, 1, tzinfo=UTC)


class Clock:
    """A clock that is set."""

    def __init__(self, moment):
        self.moment = moment

    def __call__(self):
        return self.moment

    def advance(self, seconds):
        self.moment += timedelta(seconds=seconds)


@pytest.fixture
def clock():
    return Clock(MIDNIGHT - timedelta(seconds=5))


@pytest.fixture
def make(dsn, prefix, clock):
    """Makes a reindexer that leads, a few seconds before midnight."""

    def make(
        options=True,
        *,
        leads=lambda: True,
        opens=lambda: connect(dsn, application_name="reindexer"),
    ):
        config = (
            options
            if isinstance(options, ReindexerConfig)
            else check_reindexer("reindexer", options)
        )

        return Reindexer(opens, prefix, config, leads=leads, now=clock)

    return make


@pytest.fixture
def heard():
    """The fields of every round's end."""
    found = SimpleQueue()
    telemetry.attach(
        "test-reindexer",
        ["oban.reindexer.reindex.stop", "oban.reindexer.reindex.exception"],
        lambda event, fields: found.put(fields),
    )

    yield found

    telemetry.detach("test-reindexer")


@pytest.fixture
def files(conn):
    """The file of each index of the table, which a rebuilt one has a new one of."""

    def find():
        rows = conn.execute(
            "SELECT relname, relfilenode FROM pg_index JOIN pg_class ON oid = indexrelid"
            " WHERE indrelid = 'oban_jobs'::regclass"
        )

        return dict(rows.fetchall())

    return find


@pytest.fixture
def invalid(conn):
    """The indexes of the table that are of no use."""

    def find():
        rows = conn.execute(
            "SELECT relname FROM pg_index JOIN pg_class ON oid = indexrelid"
            " WHERE indrelid = 'oban_jobs'::regclass AND NOT indisvalid ORDER BY relname"
        )

        return [row[0] for row in rows.fetchall()]

    return find


@pytest.fixture
def in_the_way(dsn, prefix):
    """A transaction that has changed a job, and that a rebuild has to wait for."""

    @contextmanager
    def block():
        with psycopg.connect(dsn) as other:
            other.execute(f"""INSERT INTO "{prefix}".oban_jobs (worker) VALUES ('W')""")

            yield other

            other.rollback()

    return block


@pytest.fixture
def leftover(dsn, prefix, in_the_way, invalid):
    """Leaves the unfinished copy of an index behind, as a server process that is killed does."""

    def leave(name=OURS[0]):
        before = len(invalid())

        with in_the_way(), psycopg.connect(dsn, autocommit=True) as victim:
            text = sql.SQL("REINDEX INDEX CONCURRENTLY {}.{}").format(
                sql.Identifier(prefix), sql.Identifier(name)
            )
            victim.pgconn.send_query(text.as_bytes(victim))
            eventually(lambda: len(invalid()) > before)
            victim.cancel_safe()

            while victim.pgconn.get_result() is not None:
                pass

        assert len(invalid()) == before + 1

    return leave


def nobody():
    raise AssertionError("a connection was made")


def test_at_its_time_it_rebuilds_our_indexes_and_no_others(make, clock, files, heard, invalid):
    before = files()
    reindexer = make()

    assert reindexer.tick() is None
    assert files() == before
    assert heard.empty()

    clock.advance(10)
    reindexer.tick()
    after = files()

    assert {name for name in after if after[name] != before[name]} == set(OURS)
    assert after.keys() == before.keys()
    assert invalid() == []
    assert heard.get() | {"duration_ns": 0} == {
        "indexes": OURS,
        "failed": [],
        "dropped": [],
        "duration_ns": 0,
    }

    clock.advance(10)
    reindexer.tick()

    assert files() == after


def test_the_ones_of_oban_are_rebuilt_where_they_are(make, conn, clock, heard):
    conn.execute("CREATE INDEX oban_jobs_args_index ON oban_jobs USING gin (args)")
    conn.execute("CREATE INDEX oban_jobs_meta_index ON oban_jobs USING gin (meta)")
    reindexer = make()
    clock.advance(10)
    reindexer.tick()

    assert heard.get()["indexes"] == [*OURS, "oban_jobs_args_index", "oban_jobs_meta_index"]


def test_named_ones_are_rebuilt_whatever_their_name_is(make, conn, clock, files, heard, caplog):
    name = 'it\'s "mine"; %s {} DROP'
    conn.execute(sql.SQL("CREATE INDEX {} ON oban_jobs (worker)").format(sql.Identifier(name)))
    conn.execute("CREATE TABLE other (id int CONSTRAINT other_key PRIMARY KEY)")
    before = files()
    reindexer = make({"indexes": [name, "other_key", "nowhere"]})
    clock.advance(10)
    reindexer.tick()
    after = files()

    assert heard.get()["indexes"] == [name]
    assert {name for name in after if after[name] != before[name]} == {name}
    assert "no index 'other_key'" in caplog.text
    assert "no index 'nowhere'" in caplog.text


def test_it_is_off_unless_asked_for(make, clock):
    for options in (False, {"enabled": False}, "false"):
        reindexer = make(options, opens=nobody)
        clock.advance(86_400)
        reindexer.tick()

    assert not ReindexerConfig().enabled


def test_only_the_leader_connects_and_a_time_gone_by_is_not_made_up_for(make, clock, heard):
    leads = [False]
    reindexer = make(leads=lambda: leads[0], opens=nobody)
    clock.advance(10)
    reindexer.tick()
    leads[0] = True
    clock.advance(10)
    reindexer.tick()

    assert heard.empty()


def test_the_schedule_is_of_its_time_zone(make, clock, heard):
    reindexer = make({"schedule": "0 1 * * *", "timezone": "Europe/Berlin", "indexes": OURS[:1]})
    clock.advance(10)
    reindexer.tick()

    assert heard.get()["indexes"] == OURS[:1]


def test_whoever_stops_leading_stops_after_the_index_at_hand(make, clock, heard):
    answers = iter([True, True, False])
    reindexer = make(leads=lambda: next(answers))
    clock.advance(10)
    reindexer.tick()

    assert heard.get()["indexes"] == OURS[:1]


def test_without_a_database_it_stays_due(make, dsn, clock, heard):
    away = [True]

    def opens():
        if away.pop():
            raise psycopg.OperationalError("connection refused")

        return connect(dsn, application_name="reindexer")

    reindexer = make({"indexes": OURS[:1]}, opens=opens)
    clock.advance(10)

    with pytest.raises(DatabaseUnavailableError):
        reindexer.tick()

    assert "error" in heard.get()

    away[:] = [False]
    clock.advance(10)
    reindexer.tick()

    assert heard.get()["indexes"] == OURS[:1]


def test_any_other_error_waits_for_the_next_time(make, clock):
    def opens():
        raise LookupError("a bug")

    reindexer = make(opens=opens)
    clock.advance(10)

    with pytest.raises(LookupError):
        reindexer.tick()

    reindexer._connect = nobody
    clock.advance(10)

    assert reindexer.tick() is None


def test_the_copy_that_a_killed_rebuild_left_is_dropped_first(
    make, clock, leftover, invalid, files, heard
):
    leftover()
    leftover()
    leftover(OURS[1])

    assert invalid() == [f"{OURS[0]}_ccnew", f"{OURS[0]}_ccnew1", f"{OURS[1]}_ccnew"]

    reindexer = make()
    clock.advance(10)
    reindexer.tick()
    fields = heard.get()

    assert fields["indexes"] == OURS
    assert fields["dropped"] == [f"{OURS[0]}_ccnew", f"{OURS[0]}_ccnew1", f"{OURS[1]}_ccnew"]
    assert invalid() == []
    assert not [name for name in files() if "_cc" in name]


def test_copies_of_indexes_that_are_not_asked_for_are_left_to_their_owner(
    make, conn, clock, leftover, invalid
):
    conn.execute("CREATE INDEX mine ON oban_jobs (worker)")
    conn.execute(f"CREATE INDEX {OURS[0]}_ccnew ON oban_jobs (worker)")
    leftover("mine")
    reindexer = make()
    clock.advance(10)
    reindexer.tick()

    assert invalid() == ["mine_ccnew"]
    # Valid, so it is no leftover, whatever it is called.
    assert conn.execute("SELECT to_regclass(%s)", [f"{OURS[0]}_ccnew"]).fetchone()[0]


def test_the_copy_of_an_index_with_the_longest_name_is_found(
    make, conn, clock, leftover, invalid, heard
):
    name = "n" * 63
    conn.execute(sql.SQL("CREATE INDEX {} ON oban_jobs (worker)").format(sql.Identifier(name)))
    leftover(name)
    reindexer = make({"indexes": [name]})
    clock.advance(10)
    reindexer.tick()

    assert heard.get()["dropped"] == ["n" * 57 + "_ccnew"]
    assert invalid() == []


@pytest.mark.parametrize(
    ("copy", "name", "expected"),
    [
        ("a_index_ccnew", "a_index", True),
        ("a_index_ccold3", "a_index", True),
        ("a_index_ccnew", "a_inde", False),
        ("a_inde_ccnew", "a_index", False),
        ("a_index", "a_index", False),
        ("a_index_ccnewer", "a_index", False),
        ("_ccnew", "", False),
    ],
)
def test_a_copy_is_known_by_its_name(copy, name, expected):
    assert reindex._is_copy(copy, name) is expected


def test_an_index_that_takes_too_long_is_given_up_without_a_trace(
    make, conn, clock, invalid, heard, caplog
):
    conn.execute(
        """
        CREATE FUNCTION slow(bigint) RETURNS bigint LANGUAGE plpgsql IMMUTABLE AS
        $$ BEGIN PERFORM pg_catalog.pg_sleep(0.001); RETURN $1; END $$;

        CREATE INDEX slow_index ON oban_jobs (slow(id));

        INSERT INTO oban_jobs (worker) SELECT 'W' FROM generate_series(1, 800)
        """
    )
    options = ReindexerConfig(enabled=True, indexes=("slow_index", OURS[0]), timeout=0.4)
    reindexer = make(options)
    clock.advance(10)
    reindexer.tick()
    fields = heard.get()

    assert (fields["failed"], fields["indexes"]) == (["slow_index"], [OURS[0]])
    assert fields["dropped"] == ["slow_index_ccnew"]
    assert "slow_index was not rebuilt: canceling statement due to statement timeout" in caplog.text
    assert invalid() == []


def test_after_a_lock_conflict_the_next_round_clears_up(
    make, clock, in_the_way, invalid, heard, caplog, monkeypatch
):
    monkeypatch.setattr(reindex, "LOCK_TIMEOUT", 0.2)
    reindexer = make({"indexes": OURS[:1]})
    clock.advance(10)

    with in_the_way():
        assert reindexer.tick() is None

    assert heard.get()["failed"] == OURS[:1]
    assert "was not rebuilt: canceling statement due to lock timeout" in caplog.text
    assert "stay until the next round" in caplog.text
    assert invalid() == [f"{OURS[0]}_ccnew"]

    clock.advance(86_400)
    reindexer.tick()
    fields = heard.get()

    assert (fields["indexes"], fields["dropped"]) == (OURS[:1], [f"{OURS[0]}_ccnew"])
    assert invalid() == []


def test_a_stop_cancels_the_rebuild(make, dsn, conn, clock, in_the_way, invalid, monkeypatch):
    monkeypatch.setattr(reindex, "STOP_PERIOD", 0.3)
    reindexer = make({"indexes": OURS[:1]})
    clock.advance(10)

    with in_the_way():
        reindexer.start()
        eventually(invalid)
        reindexer.request_stop()

        assert reindexer.join(time.monotonic() + 10.0)
        running = conn.execute(
            "SELECT count(*) FROM pg_stat_activity"
            " WHERE datname = current_database() AND query ILIKE 'REINDEX%'"
            " AND state = 'active'"
        ).fetchone()

        assert running == (0,)


def test_a_connection_that_is_lost_ends_the_round(make, conn, clock, in_the_way, invalid, heard):
    reindexer = make()
    clock.advance(10)

    with in_the_way():
        reindexer.start()
        eventually(invalid)
        conn.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
            " WHERE datname = current_database() AND application_name = 'reindexer'"
        )
        fields = heard.get(timeout=10.0)

    reindexer.request_stop()

    assert reindexer.join(time.monotonic() + 10.0)
    assert (fields["failed"], fields["indexes"]) == (OURS[:1], [])


def test_two_at_once_do_not_wait_for_each_other(make, dsn, prefix, clock, files, heard, caplog):
    before = files()

    with connect(dsn, application_name="other") as other:
        other.execute(
            "SELECT pg_advisory_lock(hashtext('oban_sync: reindex'), hashtext(%s))", [prefix]
        )
        reindexer = make()
        clock.advance(10)
        reindexer.tick()

    assert heard.get()["indexes"] == []
    assert "by somebody else" in caplog.text
    assert files() == before


def test_nothing_is_done_through_a_pooler(make, clock, files, caplog, monkeypatch):
    monkeypatch.setattr(reindex, "is_pooled", lambda conn: True)
    before = files()
    reindexer = make()
    clock.advance(10)
    reindexer.tick()

    assert files() == before
    assert "listen_conninfo" in caplog.text


def test_jobs_are_written_while_an_index_is_rebuilt(make, conn, factory, clock, in_the_way, heard):
    reindexer = make({"indexes": OURS[:1]})
    clock.advance(10)

    with in_the_way():
        reindexer.start()
        eventually(
            lambda: conn.execute("SELECT to_regclass(%s)", [f"{OURS[0]}_ccnew"]).fetchone()[0]
        )
        conn.execute("SET lock_timeout = '1s'")
        job_id = factory.job()
        conn.execute("UPDATE oban_jobs SET state = 'executing' WHERE id = %s", [job_id])
        conn.execute("DELETE FROM oban_jobs WHERE id = %s", [job_id])

    assert heard.get(timeout=10.0)["indexes"] == OURS[:1]

    reindexer.request_stop()

    assert reindexer.join(time.monotonic() + 10.0)


def test_a_statement_that_does_not_end_when_cancelled_is_left(
    dsn, prefix, in_the_way, invalid, monkeypatch
):
    monkeypatch.setattr(reindex, "STOP_PERIOD", 0.2)
    opened = []

    def unheard(conn, **options):
        raise psycopg.OperationalError("no route to host")

    monkeypatch.setattr(psycopg.Connection, "cancel_safe", unheard)

    def opens():
        opened.append(connect(dsn, application_name="reindexer"))

        return opened[-1]

    class OnceBegun(Event):
        def is_set(self):
            return bool(invalid())

    with in_the_way():
        done = reindex.reindex(
            opens, prefix, OURS[:1], timeout=60.0, leads=lambda: True, stopping=OnceBegun()
        )

    assert done.failed == OURS[:1]
    assert opened[0].closed


@pytest.mark.parametrize(
    ("options", "option", "words"),
    [
        ({"scedule": "@daily"}, "reindexer.scedule", ["schedule"]),
        ({"schedule": "@nightly"}, "reindexer.schedule", ["@nightly"]),
        ({"schedule": "@reboot"}, "reindexer.schedule", ["@midnight"]),
        ({"schedule": 5}, "reindexer.schedule", ["5"]),
        ({"timezone": "Europe/Berlni"}, "reindexer.timezone", ["Europe/Berlin"]),
        ({"timeout": 0}, "reindexer.timeout", ["1 or more"]),
        ({"indexes": 5}, "reindexer.indexes", ["list"]),
        ({"indexes": []}, "reindexer.indexes", ["no index"]),
        ({"indexes": ["a", 5]}, "reindexer.indexes[1]", ["5"]),
        ({"indexes": ["x" * 64]}, "reindexer.indexes[0]", ["63"]),
        ({"indexes": ["a\x00"]}, "reindexer.indexes[0]", ["name"]),
        ({"indexes": ["\ud800"]}, "reindexer.indexes[0]", ["name"]),
    ],
    ids=lambda value: ascii(value)[:60],
)
def test_a_wrong_option_is_named_with_its_path(options, option, words):
    with pytest.raises(ConfigError) as caught:
        check_reindexer("reindexer", options)

    assert caught.value.option == option

    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("value", [5, [], "sometimes"])
def test_what_is_neither_a_mapping_nor_a_flag_is_refused(value):
    with pytest.raises(ConfigError, match="reindexer"):
        check_reindexer("reindexer", value)


def test_a_mapping_turns_it_on():
    assert check_reindexer("reindexer", {}).enabled
    assert check_reindexer("reindexer", {"indexes": "a, b,a"}).indexes == ("a", "b")
    assert check_reindexer("reindexer", True).schedule.text == "@midnight"
    assert check_reindexer("reindexer", True).timeout == 900.0
