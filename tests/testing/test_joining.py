"""Sessions within a test's transaction: each as if it were alone there."""

from __future__ import annotations

import pytest
from sqlalchemy import create_engine, event, select, text
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, scoped_session, sessionmaker
from sqlalchemy.pool import NullPool

from oban_sync import ConfigError, ObanError, testing, worker
from tests.testing.conftest import url
from tests.testing.workers import RAN, Mailer


class Base(DeclarativeBase):
    """Of the models here."""


class Note(Base):
    """A row of the application's."""

    __tablename__ = "notes"

    text: Mapped[str] = mapped_column(primary_key=True)


@worker(queue="mail", name="joining.Careless", max_attempts=2)
class Careless:
    """Leaves the session of the thread as it is after an error."""

    sessions = None

    def process(self, job):
        self.sessions.add(Note(text="of the job"))
        self.sessions.flush()
        self.sessions.execute(text("SELECT 1 / 0"))


@worker(queue="mail", name="joining.RollingBack", max_attempts=2)
class RollingBack:
    """Rolls the session of the thread back, as a job does that wants to be sure of it."""

    sessions = None

    def process(self, job):
        RAN.append("rolled back")
        self.sessions.rollback()

        if job.args.get("fail"):
            raise ValueError("after it")


@pytest.fixture(params=["psycopg", "psycopg2"])
def engine(request, dsn, prefix, notes, oban):
    path = {"options": f'-c search_path="{prefix}"'}

    return create_engine(url(dsn, request.param), poolclass=NullPool, connect_args=path)


@pytest.fixture
def maker(engine):
    maker = sessionmaker(engine)

    with testing.rolled_back(maker):
        yield maker


@pytest.fixture
def scoped(engine):
    sessions = scoped_session(sessionmaker(engine))
    Careless.sessions = RollingBack.sessions = sessions

    with testing.rolled_back(sessions):
        yield sessions


def notes_in(maker):
    with maker() as session:
        return session.scalars(select(Note.text).order_by(Note.text)).all()


READS = {
    "text": lambda session: session.execute(text("  (SELECT 1)")),
    "select": lambda session: session.scalars(select(Note)).all(),
    "query": lambda session: session.query(Note).count(),
    "savepoint": lambda session: session.begin_nested() and session.scalars(select(Note)).all(),
}

WRITES = {
    "text": lambda session: session.execute(text("INSERT INTO notes VALUES ('lost')")),
    "flush": lambda session: (session.add(Note(text="lost")), session.flush()),
    "query": lambda session: session.query(Note).delete(),
    "bulk": lambda session: session.bulk_insert_mappings(Note, [{"text": "lost"}]),
    "enqueue": lambda session: Mailer.enqueue({"to": "nobody"}, conn=session),
}


@pytest.mark.parametrize("read", READS.values(), ids=READS)
@pytest.mark.parametrize("end", ["close", "rollback"])
def test_one_that_only_read_takes_nothing_along(maker, read, end):
    session = maker()
    read(session)
    Mailer.enqueue({"to": "ann"})
    getattr(session, end)()

    testing.assert_enqueued(worker=Mailer, args={"to": "ann"}, count=1)

    read(session)
    session.close()


@pytest.mark.parametrize("write", WRITES.values(), ids=WRITES)
@pytest.mark.parametrize("end", ["close", "rollback"])
def test_what_one_wrote_is_undone_whatever_it_read_before(maker, write, end):
    with maker() as other:
        other.add(Note(text="kept"))
        other.commit()

    session = maker()
    session.scalars(select(Note)).all()
    write(session)
    getattr(session, end)()
    session.close()

    assert notes_in(maker) == ["kept"]
    testing.refute_enqueued()


def test_after_a_commit_it_has_written_nothing(maker):
    session = maker()
    session.add(Note(text="kept"))
    session.commit()
    session.scalars(select(Note)).all()
    Mailer.enqueue()
    session.close()

    testing.assert_enqueued(worker=Mailer)


@pytest.mark.parametrize("end", ["close", "rollback"])
def test_what_was_never_flushed_is_not_written(maker, end):
    session = maker()
    session.scalars(select(Note)).all()
    session.add(Note(text="lost"))
    getattr(session, end)()
    session.close()

    assert notes_in(maker) == []


def test_those_who_listen_hear_of_no_commit(maker):
    heard = []
    event.listen(maker, "after_commit", heard.append)

    with maker() as session:
        session.scalars(select(Note)).all()

    assert heard == []


def test_a_read_that_failed_leaves_the_transaction_of_use(maker):
    Mailer.enqueue()

    with maker() as session, pytest.raises(Exception, match="division by zero"):
        session.execute(text("SELECT 1 / 0"))

    testing.assert_enqueued(worker=Mailer)


def test_an_outer_one_that_rolls_back_ends_those_that_began_after_it(maker):
    outer, inner = maker(), maker()
    outer.add(Note(text="outer"))
    outer.flush()
    inner.add(Note(text="inner"))
    inner.flush()
    outer.rollback()

    assert inner.scalars(select(Note)).all() == []

    inner.close()
    outer.close()


def test_a_job_that_leaves_a_session_broken_harms_nobody(scoped, oban):
    Careless.enqueue()

    assert testing.drain_queue("mail", with_safety=True)["discarded"] == 1

    scoped.rollback()
    scoped.add(Note(text="of the test"))
    scoped.commit()

    assert scoped.scalars(select(Note.text)).all() == ["of the test"]
    assert oban.count_jobs()["discarded"] == 1


@pytest.mark.parametrize("fail", [False, True])
def test_a_job_that_undoes_its_own_taking_is_told_of(scoped, fail):
    RollingBack.enqueue({"fail": fail})
    scoped.add(Note(text="of the test, never committed"))
    scoped.flush()

    with pytest.raises(ObanError, match=r"rolled back the transaction it was taken in") as caught:
        testing.drain_queue("mail")

    assert isinstance(caught.value.__cause__, ValueError) is fail
    assert RAN == ["rolled back"]


def test_with_safety_it_is_logged_and_the_others_run(scoped, caplog):
    RollingBack.enqueue()
    Mailer.enqueue({"to": "ann"})
    scoped.add(Note(text="of the test, never committed"))
    scoped.flush()

    assert testing.drain_queue("mail", with_safety=True)["completed"] == 1
    assert RAN == ["rolled back", "ann"]
    assert "rolled back the transaction it was taken in" in caplog.text


def test_a_job_that_rolls_back_a_session_which_only_read_loses_nothing(scoped, oban):
    RollingBack.enqueue()
    scoped.scalars(select(Note)).all()

    assert testing.drain_queue("mail")["completed"] == 1
    assert oban.count_jobs()["completed"] == 1


def test_many_engines_take_part(engine, conn):
    maker = sessionmaker(binds={Note: engine})

    with testing.rolled_back(maker), maker() as session:
        session.add(Note(text="gone"))
        session.commit()

    assert conn.execute("SELECT count(*) FROM notes").fetchone() == (0,)


def test_one_within_another_is_refused(maker):
    with pytest.raises(ConfigError, match="rolled back already"), testing.rolled_back(maker):
        pass

    assert notes_in(maker) == []
