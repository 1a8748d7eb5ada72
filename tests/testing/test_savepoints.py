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
