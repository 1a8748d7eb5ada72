from __future__ import annotations

import psycopg
import psycopg2
import pytest

from oban_sync.engine.leftovers import left_in


@pytest.fixture(params=[psycopg.connect, psycopg2.connect], ids=["psycopg", "psycopg2"])
def other(request, dsn):
    """A connection of the application."""
    conn = request.param(dsn)

    yield conn

    conn.rollback()
    conn.close()


def execute(conn, statement):
    conn.cursor().execute(statement)


def test_a_connection_outside_of_transactions_has_nothing_left(other):
    assert left_in(other) is None
    execute(other, "CREATE TEMPORARY TABLE t (a int)")
    other.commit()
    assert left_in(other) is None
    # It was not put into a transaction by the question.
    assert other.info.transaction_status == 0


def test_what_was_only_read_is_nothing(other):
    execute(other, "SELECT 1")

    assert left_in(other) is None


def test_what_was_written_is_told(other):
    execute(other, "CREATE TEMPORARY TABLE t (a int)")

    assert left_in(other) == "wrote"

    other.rollback()

    assert left_in(other) is None


def test_a_transaction_that_failed_is_told(other):
    with pytest.raises(Exception, match="nowhere"):
        execute(other, "SELECT * FROM nowhere")

    assert left_in(other) == "failed"


def test_drivers_that_do_not_tell_are_taken_to_be_in_no_transaction():
    assert left_in(object()) is None
