"""Emptying the tables."""

from __future__ import annotations

import pytest

from oban_sync import ConfigError, ObanError, RateLimit
from oban_sync.testing import mode, reset_oban
from tests.testing.workers import Mailer


def test_all_that_tests_leave_is_deleted(oban, conn, factory):
    Mailer.enqueue()
    factory.job(state="completed")
    oban.pause_queue("mail")
    oban.insert_cron("@hourly", Mailer)
    node = factory.node("mail")
    limit = RateLimit("kit", allowed=1, period=60)

    assert limit.consume() == 1
    assert reset_oban() == 2
    assert factory.count() == 0
    assert oban.list_crons() == []
    assert limit.consume() == 1
    assert conn.execute("SELECT uuid FROM oban_sync_nodes").fetchall() == [(node,)]

    for table in ("oban_sync_controls", "oban_sync_cron_slots"):
        assert conn.execute(f"SELECT count(*) FROM {table}").fetchone() == (0,)


def test_a_database_that_may_be_anybodys_is_left_alone(oban, monkeypatch, factory):
    job = Mailer.enqueue()
    monkeypatch.setattr("oban_sync.engine.drains.database", lambda tx: "contest")
    monkeypatch.setattr(type(oban), "prefix", "latest")

    with pytest.raises(
        ConfigError, match=r"'contest' does not look like one for tests.*force=True"
    ):
        reset_oban(oban)

    assert factory.states(job.id) == ["available"]


@pytest.mark.parametrize(
    ("name", "mode", "force"),
    [("app_test", None, False), ("test-app", None, False), ("app", "manual", False)]
    + [("app", None, True)],
)
def test_a_database_for_tests_is_known(make_oban, monkeypatch, name, mode, force, prefix):
    oban = make_oban(testing=mode)
    Mailer.enqueue()
    monkeypatch.setattr("oban_sync.engine.drains.database", lambda tx: name)
    monkeypatch.setattr("oban_sync.testing.resetting._TEST", _Only(name))

    assert reset_oban(oban, force=force) == 1


class _Only:
    """The pattern, for the name of the database alone: the prefix here would do as well."""

    def __init__(self, name):
        from oban_sync.testing import resetting

        self._name = name
        self._pattern = resetting._TEST

    def search(self, text):
        return self._pattern.search(text) if text == self._name else None


def test_a_mode_says_nothing_of_the_database(oban, monkeypatch, factory):
    Mailer.enqueue()
    monkeypatch.setattr("oban_sync.engine.drains.database", lambda tx: "app")
    monkeypatch.setattr("oban_sync.testing.resetting._TEST", _Only("app"))

    with mode("manual"), pytest.raises(ConfigError, match="does not look like one for tests"):
        reset_oban(oban)

    assert factory.count() == 1


def test_rows_that_somebody_holds_are_not_waited_for_without_an_end(oban, conn, monkeypatch):
    job = Mailer.enqueue()
    monkeypatch.setattr("oban_sync.testing.resetting._PATIENCE", 0.05)

    with conn.transaction():
        conn.execute("SELECT FROM oban_jobs WHERE id = %s FOR UPDATE", [job.id])

        with pytest.raises(
            ObanError, match=r"another transaction holds some for more than 0\.05 s"
        ):
            reset_oban(oban)

    assert reset_oban(oban) == 1
