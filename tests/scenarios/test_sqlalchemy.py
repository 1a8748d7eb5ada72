"""An application on SQLAlchemy's ORM: jobs in its sessions, and sessions in its jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from types import SimpleNamespace
from typing import Any

import pytest
from sqlalchemy import BigInteger, Engine, ForeignKey, Text, select, text
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    scoped_session,
    sessionmaker,
)

from oban_sync import JobError, Oban, Record, Snooze, job, worker
from tests.support.peer_callers import engine_for
from tests.support.probe import Gate, eventually

DRIVERS = ("psycopg", "psycopg2")


class Base(DeclarativeBase):
    """The application's tables."""


class User(Base):
    __tablename__ = "users"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    email: Mapped[str] = mapped_column(Text, unique=True)


class Mail(Base):
    __tablename__ = "mails"

    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    user_id: Mapped[int] = mapped_column(ForeignKey("users.id"))


@worker(queue="alpha", name="tests.sqlalchemy.Welcome")
class Welcome:
    def process(self, job):
        return None


@pytest.fixture(params=DRIVERS)
def engine(request: Any, dsn: str, prefix: str) -> Iterator[Engine]:
    """The application's, in the schema of the test."""
    with engine_for(dsn, request.param) as base:
        engine = base.execution_options(schema_translate_map={None: prefix})
        Base.metadata.create_all(engine)

        yield engine


@pytest.fixture
def emails(conn: Any) -> Callable[[], list[str]]:
    """The users that are committed."""
    return lambda: [
        row[0] for row in conn.execute("SELECT email FROM users ORDER BY id").fetchall()
    ]


@pytest.fixture
def queued(conn: Any) -> Callable[[], list[Any]]:
    """The args of the jobs that are committed."""
    return lambda: [row[0] for row in conn.execute("SELECT args FROM oban_jobs ORDER BY id")]


# Jobs in sessions


def test_a_job_is_there_when_its_session_has_committed(oban, engine, emails, queued):
    with Session(engine) as session:
        # It begins by itself, with the first statement.
        session.add(User(email="ann@example.com"))
        Welcome.enqueue({"to": "ann"}, conn=session)

        # The session sent what was pending? Not at all: enqueueing is a statement, not a query.
        assert session.new
        assert queued() == []

        session.commit()

    assert (emails(), queued()) == (["ann@example.com"], [{"to": "ann"}])


def test_a_session_that_rolls_back_takes_its_jobs_along(oban, engine, emails, queued):
    with Session(engine) as session:
        session.add(User(email="ann@example.com"))
        Welcome.enqueue({"to": "ann"}, conn=session)
        session.rollback()

        # And is of use afterwards.
        Welcome.enqueue({"to": "bob"}, conn=session)
        session.commit()

    assert (emails(), queued()) == ([], [{"to": "bob"}])


def test_an_exception_in_the_block_leaves_neither(oban, engine, emails, queued):
    maker = sessionmaker(engine)

    with suppress(ZeroDivisionError), maker.begin() as session:
        session.add(User(email="ann@example.com"))
        Welcome.enqueue({"to": "ann"}, conn=session)

        raise ZeroDivisionError

    assert (emails(), queued()) == ([], [])


def test_a_job_that_needs_the_primary_key_is_enqueued_after_a_flush(oban, engine, conn, queued):
    with sessionmaker(engine).begin() as session:
        user = User(email="ann@example.com")
        session.add(user)
        assert user.id is None

        session.flush()
        Welcome.enqueue({"user": user.id}, conn=session)

    [user_id] = conn.execute("SELECT id FROM users").fetchone()
    assert queued() == [{"user": user_id}]


def test_a_flush_that_fails_at_the_commit_leaves_no_job(oban, engine, emails, queued):
    maker = sessionmaker(engine)

    for _ in range(2):
        with suppress(Exception), maker.begin() as session:
            Welcome.enqueue({"to": "ann"}, conn=session)
            session.add(User(email="ann@example.com"))

    assert (emails(), queued()) == (["ann@example.com"], [{"to": "ann"}])


@pytest.mark.parametrize("released", [True, False], ids=["released", "rolled back"])
def test_a_job_follows_the_savepoint_it_was_enqueued_in(oban, engine, emails, queued, released):
    with sessionmaker(engine).begin() as session:
        Welcome.enqueue({"to": "before"}, conn=session)

        with suppress(ZeroDivisionError), session.begin_nested():
            session.add(User(email="inside@example.com"))
            Welcome.enqueue({"to": "inside"}, conn=session)

            if not released:
                raise ZeroDivisionError

        Welcome.enqueue({"to": "behind"}, conn=session)

    inside = [{"to": "inside"}] if released else []
    assert queued() == [{"to": "before"}, *inside, {"to": "behind"}]
    assert emails() == (["inside@example.com"] if released else [])


def test_a_bound_session_takes_all_that_the_block_enqueues(oban, engine, queued):
    def signed_up():
        # Code that knows of no session.
        Welcome.enqueue({"to": "ann"})

    with Session(engine) as session:
        with oban.bind(session):
            signed_up()
            assert queued() == []

        session.rollback()

        with oban.bind(session):
            signed_up()

        session.commit()

    assert queued() == [{"to": "ann"}]


def test_a_scoped_session_stands_for_the_session_of_the_thread(oban, engine, emails, queued):
    scoped = scoped_session(sessionmaker(engine))

    try:
        scoped.add(User(email="ann@example.com"))
        Welcome.enqueue({"to": "ann"}, conn=scoped)
        assert queued() == []
        scoped.commit()

        with oban.bind(scoped):
            Welcome.enqueue({"to": "bob"})

        scoped.rollback()
    finally:
        scoped.remove()

    assert (emails(), queued()) == (["ann@example.com"], [{"to": "ann"}])


@pytest.mark.parametrize("commits", [True, False], ids=["commit", "rollback"])
def test_a_connection_of_the_engine_s_takes_jobs_as_it_takes_rows(oban, engine, queued, commits):
    with engine.connect() as conn:
        Welcome.enqueue({"to": "ann"}, conn=conn)
        assert queued() == []
        conn.commit() if commits else conn.rollback()

    assert len(queued()) == commits


def test_many_jobs_go_in_the_session_s_transaction_and_are_told_their_ids(oban, engine, queued):
    with sessionmaker(engine).begin() as session:
        stored = oban.enqueue_many(
            (Welcome.new({"to": number}) for number in range(3)), conn=session
        )
        assert len({item.id for item in stored}) == 3

    assert queued() == [{"to": 0}, {"to": 1}, {"to": 2}]


def test_a_unique_job_is_one_with_that_of_another_session(oban, engine, queued):
    def enqueue(session):
        return Welcome.enqueue({"to": "ann"}, conn=session, unique={"period": "forever"})

    with Session(engine) as one:
        first = enqueue(one)
        assert enqueue(one).conflict
        one.commit()

    with Session(engine) as other:
        again = enqueue(other)
        other.commit()

    assert (again.conflict, again.id) == (True, first.id)
    assert len(queued()) == 1


# Sessions in jobs


@pytest.fixture(params=["sessionmaker", "scoped_session", "True"])
def way(request: Any, engine: Engine, make_oban: Any) -> Iterator[Any]:
    """How transactional workers get their session: what they are given, and their Oban."""
    maker = sessionmaker(engine)
    scoped = scoped_session(maker)
    given = {"sessionmaker": maker, "scoped_session": scoped, "True": True}[request.param]
    options = {"session": maker} if given is True else {}

    yield SimpleNamespace(
        given=given,
        scoped=scoped if given is scoped else None,
        oban=make_oban(queues={"alpha": 2}, **options),
    )

    scoped.remove()


@pytest.fixture
def performed(way: Any) -> Callable[..., Any]:
    """Run work as a transactional job, on a queue's thread; gives the job as it stands then."""

    def perform(work: Callable[..., object], **options: Any) -> Any:
        @job(queue="alpha", name="tests.sqlalchemy.work", transactional=way.given, **options)
        def run(session):
            return work(session)

        oban: Oban = way.oban.start()
        stored = run.enqueue()
        eventually(lambda: oban.get_job(stored).state not in ("available", "executing"))

        return oban.get_job(stored)

    return perform


def told(done: Any) -> str:
    return str(done.errors[-1]["error"])


def test_a_job_s_objects_are_committed_with_its_outcome(performed, emails, queued):
    def work(session):
        assert isinstance(session, Session)
        # Pending to the end: the session is flushed for it.
        session.add(User(email="ann@example.com"))
        Welcome.enqueue({"to": "ann"}, queue="elsewhere")
        assert emails() == []

        return Record({"users": 1})

    done = performed(work)

    assert (done.state, done.recorded()) == ("completed", {"users": 1})
    assert emails() == ["ann@example.com"]
    assert {"to": "ann"} in queued()


def test_objects_of_a_job_that_raises_are_gone(performed, emails, queued):
    def work(session):
        session.add(User(email="ann@example.com"))
        session.flush()
        Welcome.enqueue({"to": "ann"}, queue="elsewhere")

        raise ValueError("declined")

    done = performed(work)

    assert done.state == "retryable"
    assert "ValueError: declined" in told(done)
    assert (emails(), queued()) == ([], [{}])


def test_a_flush_that_fails_at_the_end_fails_the_job(performed, emails, engine):
    with sessionmaker(engine).begin() as session:
        session.add(User(email="ann@example.com"))

    done = performed(lambda session: session.add(User(email="ann@example.com")))

    assert done.state == "retryable"
    assert "UniqueViolation" in told(done)
    assert emails() == ["ann@example.com"]


def test_a_constraint_that_is_looked_at_when_it_commits_fails_the_job(performed, conn, emails):
    conn.execute(
        "ALTER TABLE mails DROP CONSTRAINT mails_user_id_fkey, ADD FOREIGN KEY (user_id)"
        " REFERENCES users DEFERRABLE INITIALLY DEFERRED"
    )

    def work(session):
        session.add(User(email="ann@example.com"))
        session.add(Mail(user_id=10_000))

    done = performed(work)

    assert done.state == "retryable"
    assert "ForeignKeyViolation" in told(done)
    assert emails() == []


def test_a_part_in_a_savepoint_of_the_session_may_fail(performed, emails):
    def work(session):
        session.add(User(email="ann@example.com"))

        for _ in range(2):
            with suppress(Exception), session.begin_nested():
                session.add(User(email="bob@example.com"))

    assert performed(work).state == "completed"
    assert emails() == ["ann@example.com", "bob@example.com"]


@pytest.mark.parametrize("how", ["commit", "rollback", "close"])
def test_a_job_cannot_end_the_session_s_transaction_and_go_on(performed, emails, how):
    def work(session):
        session.add(User(email="half@example.com"))
        session.flush()
        getattr(session, how)()
        session.add(User(email="whole@example.com"))

    done = performed(work)

    assert done.state == "retryable"
    assert "a transactional worker does not commit" in told(done)
    assert emails() == []


def test_a_job_cannot_commit_the_connection_of_its_session(performed, emails):
    def work(session):
        session.add(User(email="half@example.com"))
        session.flush()
        session.connection().commit()

    done = performed(work)

    assert done.state == "retryable"
    assert "JobError: commit() was called" in told(done)
    assert emails() == []


BELOW = {
    "by SQL": lambda session: session.execute(text("COMMIT")),
    "by the driver": lambda session: session.connection().connection.commit(),
    "by the connection's transaction": lambda session: (
        session.connection().get_transaction().commit()
    ),
}


@pytest.mark.parametrize("way_below", BELOW)
def test_a_commit_below_the_session_is_noticed(performed, emails, way_below):
    def work(session):
        session.add(User(email="half@example.com"))
        session.flush()
        BELOW[way_below](session)

        if way_below != "by the connection's transaction":
            session.add(User(email="whole@example.com"))

    done = performed(work)

    assert done.state == "retryable"
    assert "the job ended the transaction that it was given" in told(done)
    # psycopg2 does not see it either, and begins no other one: what follows is committed at once.
    assert emails() in (["half@example.com"], ["half@example.com", "whole@example.com"])


@pytest.mark.parametrize(
    "end",
    [lambda conn: conn.exec_driver_sql("commit"), lambda conn: conn.connection.commit()],
    ids=["by SQL", "by the driver"],
)
def test_a_commit_below_a_connection_is_noticed(engine, make_oban, emails, end):
    @job(queue="alpha", name="tests.sqlalchemy.core-below", transactional=engine.begin)
    def run(conn):
        conn.execute(User.__table__.insert().values(email="half@example.com"))
        end(conn)
        conn.execute(User.__table__.insert().values(email="whole@example.com"))

    oban = make_oban()
    stored = run.enqueue()
    oban.drain_queue("alpha", with_safety=True, with_recursion=False)
    done = oban.get_job(stored)

    assert done.state == "retryable"
    assert "the job ended the transaction that it was given" in told(done)
    # psycopg2 does not see it either, and begins no other one: what follows is committed at once.
    assert emails() in (["half@example.com"], ["half@example.com", "whole@example.com"])


def test_an_inline_job_within_a_transactional_one_leaves_it_as_it_was(engine, make_oban, emails):
    sessions = sessionmaker(engine)
    make_oban(testing="inline", session=sessions)

    @job(queue="alpha", name="tests.sqlalchemy.inner", transactional=True)
    def inner(session):
        session.add(User(email="inner@example.com"))

    @job(queue="alpha", name="tests.sqlalchemy.outer", transactional=True)
    def outer(session):
        session.add(User(email="outer@example.com"))
        inner.enqueue()

        with pytest.raises(JobError, match="commit"):
            session.commit()

    outer.enqueue()

    assert emails() == ["outer@example.com", "inner@example.com"]


def test_a_snooze_commits_what_was_done_up_to_it(performed, emails):
    def work(session):
        session.add(User(email="ann@example.com"))

        return Snooze(3600)

    done = performed(work)

    assert (done.state, done.attempt, done.meta["snoozed"]) == ("scheduled", 0, 1)
    assert emails() == ["ann@example.com"]


def test_work_is_undone_of_a_job_that_is_somebody_elses_by_then(way, conn, emails, probe):
    gate = Gate()

    @job(queue="alpha", name="tests.sqlalchemy.overtaken", transactional=way.given)
    def run(session):
        session.add(User(email="ann@example.com"))
        session.flush()
        gate.pass_through()

    way.oban.start()
    stored = run.enqueue()
    gate.wait_until_entered()
    conn.execute(
        "UPDATE oban_jobs SET attempted_at = attempted_at + interval '1 second',"
        " attempted_by = '{other,other}', attempt = 2"
    )
    gate.release.set()

    assert probe.next("oban.job.fenced")["job"].id == stored.id
    assert way.oban.get_job(stored).attempt == 2
    assert emails() == []


def test_code_that_asks_the_scoped_session_works_by_the_job_s(performed, way, emails):
    def work(session):
        if way.scoped is None:
            return

        assert way.scoped() is session
        way.scoped.add(User(email="ann@example.com"))

    assert performed(work).state == "completed"
    assert emails() == (["ann@example.com"] if way.scoped is not None else [])


def test_no_connection_stays_with_a_job_that_is_over(performed, engine):
    def work(session):
        session.execute(select(User)).all()

        raise ValueError("in the middle of it")

    performed(work)
    performed_again = performed(lambda session: session.execute(select(User)).all())

    assert performed_again.state == "completed"
    assert engine.pool.checkedout() == 0


def test_an_engine_s_begin_gives_a_connection(engine, make_oban, emails):
    @job(queue="alpha", name="tests.sqlalchemy.core", transactional=engine.begin)
    def run(conn):
        conn.execute(User.__table__.insert().values(email="ann@example.com"))

    oban = make_oban()
    stored = run.enqueue()
    oban.drain_queue("alpha")

    assert oban.get_job(stored).state == "completed"
    assert emails() == ["ann@example.com"]


def test_an_engine_that_commits_every_statement_is_refused(engine, make_oban, emails):
    maker = sessionmaker(engine.execution_options(isolation_level="AUTOCOMMIT"))

    @job(queue="alpha", name="tests.sqlalchemy.at-once", transactional=maker)
    def run(session):
        session.add(User(email="ann@example.com"))

    oban = make_oban()
    stored = run.enqueue()
    oban.drain_queue("alpha", with_safety=True, with_recursion=False)
    done = oban.get_job(stored)

    assert done.state == "retryable"
    assert "AUTOCOMMIT" in told(done)
    assert emails() == []
