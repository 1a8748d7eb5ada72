"""Statements with the time of this process's clock."""

from __future__ import annotations

import threading
from datetime import UTC, datetime

import time_machine

from oban_sync.core import clock
from oban_sync.engine import statements
from oban_sync.engine.callers import run_on
from oban_sync.engine.session import Tx
from tests.testing.workers import Mailer

WHEN = datetime(2031, 5, 1, 12, tzinfo=UTC)
LITERAL = "'2031-05-01 12:00:00.000000+00'::pg_catalog.timestamptz"


def test_the_time_stands_in_the_text_only_within_a_block():
    plain = statements.statement("job_insert", "public")

    with time_machine.travel(WHEN, tick=False), clock.virtual():
        text = statements.statement("job_insert", "public")

        assert "now()" not in text
        assert text == plain.replace("now()", LITERAL)
        assert statements.positional("job_insert", "public")[0].count(LITERAL) == text.count(
            LITERAL
        )

        with clock.virtual(False):
            assert statements.statement("job_insert", "public") == plain

    assert statements.statement("job_insert", "public") == plain


def test_what_is_prepared_never_holds_a_time():
    before = statements.numbered("job_take", "public")

    with clock.virtual():
        assert statements.numbered("job_take", "public") == before
        assert "now()" in before[0]


def test_other_threads_do_not_take_part():
    found = []

    with clock.virtual():
        thread = threading.Thread(target=lambda: found.append(clock.is_virtual()))
        thread.start()
        thread.join()

    assert found == [False]


def test_every_way_to_run_a_statement_takes_it(oban, conn, prefix):
    job = Mailer.enqueue()
    tx = Tx(conn, prefix)

    with time_machine.travel(WHEN, tick=False), clock.virtual():
        [row] = tx.wired("job_take", id=job.id, early=False, node="n", owner="o")
        run_on(conn, "job_cancel", prefix, ids=f"{{{job.id}}}", by=None, channel="none")

    assert clock.from_micros(row[11]) == WHEN
    assert oban.get_job(job).attempted_at == WHEN
