"""Inline and manual."""

from __future__ import annotations

from datetime import UTC, datetime

import psycopg
import pytest
import time_machine

from oban_sync import ConfigError, ObanError, testing
from oban_sync.engine import drains
from tests.testing.workers import RAN, Answering, Chain, Exact, Failing, Mailer, Parent, add


@pytest.fixture
def inline(make_oban):
    return make_oban(testing="inline")


def test_inline_runs_a_job_where_it_is_enqueued(inline, factory):
    job = Mailer.enqueue({"to": "ann"})

    assert (RAN, job.state) == (["ann"], "completed")
    assert factory.states(job.id) == ["completed"]


def test_inline_runs_what_jobs_enqueue_at_once(inline):
    job = Parent.enqueue({"to": ["ann", "bob"]})

    assert RAN == ["ann", "bob"]
    assert job.state == "completed"


def test_inline_runs_each_of_many_in_order(inline):
    jobs = inline.enqueue_many(Mailer.new({"to": number}) for number in range(3))

    assert RAN == [0, 1, 2]
    assert {job.state for job in jobs} == {"completed"}


def test_inline_args_make_the_round_trip_through_json(inline):
    Mailer.enqueue({"to": ("a", "b")})

    assert RAN == [["a", "b"]]


def test_inline_leaves_scheduled_jobs_and_those_that_were_there(inline):
    later = Mailer.enqueue({"to": "later"}, schedule_in=60, unique={"period": 600})
    again = Mailer.enqueue({"to": "later"}, unique={"period": 600})

    assert RAN == []
    assert (again.conflict, again.id) == (True, later.id)
    assert inline.drain_queue("mail")["completed"] == 1


def test_inline_raises_a_failure_once_it_is_recorded(inline, factory):
    with pytest.raises(ValueError, match="no such mailbox"):
        inline.enqueue_many(Failing.new(), Mailer.new({"to": "ann"}))

    assert RAN == []
    assert sorted(factory.states(*[job.id for job in inline.list_jobs()])) == [
        "available",
        "retryable",
    ]


def test_inline_gives_what_was_recorded(inline):
    assert Answering.enqueue({"what": "record"}).recorded() == 7
    assert Answering.enqueue({"what": "snooze"}).state == "scheduled"


def test_inline_runs_within_the_callers_transaction(inline, factory):
    class Undo(Exception):
        pass

    def work():
        with inline.transaction():
            job = Mailer.enqueue({"to": "ann"})

            assert inline.get_job(job).state == "completed"

            raise Undo

    with pytest.raises(Undo):
        work()

    assert RAN == ["ann"]
    assert factory.count() == 0


@pytest.mark.parametrize("kind", ["psycopg", "psycopg2", "session+psycopg2", "connection+psycopg"])
def test_inline_runs_within_the_transaction_of_a_given_connection(kind, inline, kinds, factory):
    conn = kinds.open(kind)
    job = Mailer.enqueue({"to": "ann"}, conn=conn)

    assert (RAN, job.state) == (["ann"], "completed")
    assert factory.count() == 0


def test_inline_runs_a_transactional_worker(make_oban, dsn, prefix, conn, notes):
    path = f'-c search_path="{prefix}"'
    make_oban(testing="inline", conninfo=psycopg.conninfo.make_conninfo(dsn, options=path))

    job = Exact.enqueue({"text": "once"})

    assert job.state == "completed"
    assert conn.execute("SELECT text FROM notes").fetchall() == [("once",)]


def test_manual_starts_nothing_and_stores(make_oban, factory):
    # The address is of no account, since nobody connects.
    with make_oban(testing="manual", conninfo="host=127.0.0.1 port=1", queues={"mail": 1}) as oban:
        assert not oban.running

    oban = make_oban(testing="manual", queues={"mail": 1}).start()
    Mailer.enqueue({"to": "ann"})

    assert (RAN, oban.running, factory.count(state="available")) == ([], False, 1)
    assert oban.drain_queue("mail")["completed"] == 1


def test_an_oban_under_test_may_be_stopped_and_started_again(make_oban):
    oban = make_oban(testing="manual").start()

    assert oban.stop()
    assert oban.start().list_jobs() == []


def test_nothing_can_be_run_for_good(make_oban):
    with pytest.raises(ConfigError, match="testing: nothing runs with 'manual'"):
        make_oban(testing="manual", queues={"mail": 1}).run()


def test_a_mode_holds_for_a_block_over_what_the_oban_says(make_oban):
    oban = make_oban(testing="manual")

    with testing.mode("inline"):
        Mailer.enqueue({"to": "inline"})

        with testing.mode("disabled"):
            Mailer.enqueue({"to": "stored"})

            assert oban.testing is None

    Mailer.enqueue({"to": "stored"})

    assert RAN == ["inline"]
    assert oban.testing == "manual"


def test_a_mode_decorates_a_test(oban):
    @testing.mode("inline")
    def within():
        add.enqueue(1, b=2)

        return oban.testing

    assert within() == "inline"
    assert RAN == [1]
    assert oban.testing is None


def test_an_unknown_mode_is_refused():
    with pytest.raises(ConfigError, match="mode: .*'inlined'"), testing.mode("inlined"):
        pass


def test_inline_keeps_the_transaction_of_use_after_an_sql_error(inline, dsn, notes, prefix):
    with psycopg.connect(dsn) as conn:
        with testing.bound(inline, conn), pytest.raises(psycopg.errors.UndefinedTable):
            # Its table is not on the path of this connection.
            Exact.enqueue({"text": "nowhere"})

        assert conn.execute("SELECT 1").fetchone() == (1,)

        conn.rollback()


@pytest.mark.parametrize("mode", ["manual", "inline"])
def test_the_time_is_that_of_the_process(make_oban, mode):
    oban = make_oban(testing=mode)
    when = datetime(2031, 5, 1, 12, tzinfo=UTC)

    with time_machine.travel(when, tick=False):
        job = oban.enqueue(Mailer.new())
        oban.drain_queue("mail")

    assert (job.inserted_at, oban.get_job(job).completed_at) == (when, when)


class Written:
    """Tests as an application would write them."""

    def test_plain(self):
        return Mailer.enqueue().state

    @staticmethod
    def test_static():
        return Mailer.enqueue().state

    @classmethod
    def test_of_the_class(cls):
        return cls, Mailer.enqueue().state

    def helper(self):
        return Mailer.enqueue().state


def test_a_mode_decorates_the_tests_of_a_class(oban):
    @testing.mode("inline")
    class Decorated(Written):
        """With inherited ones."""

    assert Decorated().test_plain() == "completed"
    assert Decorated.test_static() == "completed"
    assert Decorated.test_of_the_class() == (Decorated, "completed")
    assert Decorated().helper() == "available"
    assert Written().test_plain() == "available"


def generator():
    yield


async def coroutine():
    """Would run after the mode."""


async def both():
    yield


@pytest.mark.parametrize(
    ("decorated", "message"),
    [
        (generator, "is a generator"),
        (coroutine, "is asynchronous"),
        (both, "is a generator"),
        (type("Empty", (), {}), "without methods that begin with 'test'"),
        (type("Generating", (), {"test_it": generator}), "is a generator"),
        (7, "7 is neither a function nor a class"),
    ],
    ids=["generator", "coroutine", "both", "empty class", "class of one", "number"],
)
def test_a_mode_refuses_what_it_would_not_hold_in(decorated, message):
    with pytest.raises(ConfigError, match=f"mode: .*{message}.*with testing.mode"):
        testing.mode("inline")(decorated)


def test_a_mode_may_be_entered_within_itself(oban):
    inline = testing.mode("inline")

    with inline, inline:
        assert oban.testing == "inline"

    assert oban.testing is None


def test_disabled_leaves_the_clock_of_a_bound_oban(oban, kinds):
    with (
        testing.bound(oban, kinds.open("psycopg")),
        time_machine.travel(datetime(2031, 5, 1, tzinfo=UTC)),
        testing.mode("disabled"),
    ):
        assert Mailer.enqueue().inserted_at.year == 2031


def test_inline_jobs_without_an_end_are_told(inline):
    with pytest.raises(ObanError, match="40 jobs run inside of one another.*'manual'"):
        Chain.enqueue({"left": 1_000})

    RAN.clear()
    Chain.enqueue({"left": 30})

    assert list(range(30, 0, -1)) == RAN


def test_inline_tells_of_a_node_that_was_faster(inline, monkeypatch):
    take = drains.take

    def too_late(tx, job_id, **options):
        assert take(tx, job_id, **options) is not None

        return take(tx, job_id, **options)

    monkeypatch.setattr(drains, "take", too_late)

    with pytest.raises(ObanError, match="was taken by a node before"):
        Mailer.enqueue({"to": "ann"})

    assert RAN == []
