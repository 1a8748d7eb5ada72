"""Savepoints on connections of every kind."""

from __future__ import annotations

import pytest

from oban_sync.engine import callers, savepoints
from tests.testing.conftest import KINDS

pytestmark = pytest.mark.usefixtures("notes")

INSERT = "INSERT INTO notes VALUES ('x')"


@pytest.fixture(params=KINDS)
def kind(request, kinds):
    return kinds.open(request.param)


def count(conn):
    return callers.ask(conn, "SELECT count(*) FROM notes").rows[0][0]


def failing(conn):
    callers.ask(conn, INSERT)
    callers.ask(conn, "SELECT 1 / 0")


def test_a_failed_statement_is_undone_with_what_the_block_did(kind):
    callers.ask(kind, INSERT)

    with pytest.raises(Exception, match="division by zero"), savepoints.apart(kind):
        failing(kind)

    assert count(kind) == 1


def test_one_that_the_block_kept_quiet_about_is_undone_too(kind):
    callers.ask(kind, INSERT)

    with savepoints.apart(kind), pytest.raises(Exception, match="division by zero"):
        failing(kind)

    assert count(kind) == 1


def test_an_error_of_another_kind_undoes_nothing_unless_asked(kind):
    def work(**options):
        with savepoints.apart(kind, **options):
            callers.ask(kind, INSERT)

            raise LookupError

    with pytest.raises(LookupError):
        work()

    assert count(kind) == 1

    with pytest.raises(LookupError):
        work(undo=True)

    assert count(kind) == 1


def test_what_went_well_stays(kind):
    with savepoints.apart(kind), savepoints.apart(kind):
        callers.ask(kind, INSERT)

    assert count(kind) == 1


def test_begun_tells_whether_there_is_a_transaction(kind, conn):
    assert savepoints.begun(kind)
    assert not savepoints.begun(conn)


def test_one_after_the_other_leaves_none_in_a_session(kinds):
    session = kinds.open("session+psycopg")
    callers.ask(session, INSERT)

    # So many within one another could not be committed.
    for _ in range(400):
        with savepoints.apart(session):
            pass

    assert not session.in_nested_transaction()

    session.commit()

    assert count(session) == 1


@pytest.mark.parametrize("name", ["psycopg", "psycopg2", "connection+psycopg"])
def test_one_after_the_other_leaves_none_on_a_connection(name, kinds, monkeypatch):
    conn, told = kinds.open(name), []
    ask = callers.ask

    with monkeypatch.context() as patch:
        patch.setattr(
            callers, "ask", lambda conn, text, *args: told.append(text) or ask(conn, text)
        )

        with savepoints.apart(conn):
            pass

    with pytest.raises(Exception, match="does not exist"), savepoints.apart(conn):
        ask(conn, told[0].replace("SAVEPOINT", "RELEASE SAVEPOINT"))


def test_what_others_leave_open_in_it_stays_open(kinds):
    conn = kinds.open("connection+psycopg")

    with savepoints.apart(conn):
        left_open = conn.begin_nested()
        callers.ask(conn, INSERT)

    left_open.rollback()

    assert count(conn) == 0


def test_what_others_ended_around_it_is_nothing_to_go_back_to(kinds):
    conn = kinds.open("connection+psycopg")
    around = conn.begin_nested()

    with savepoints.apart(conn):
        callers.ask(conn, INSERT)
        around.commit()

    assert count(conn) == 1


def test_one_that_is_gone_by_other_means_harms_nothing(kinds):
    conn = kinds.open("psycopg")
    callers.ask(conn, "SAVEPOINT theirs")

    with savepoints.apart(conn):
        callers.ask(conn, INSERT)
        callers.ask(conn, "RELEASE SAVEPOINT theirs")

    assert count(conn) == 1
