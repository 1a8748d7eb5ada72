"""Running a cron entry by hand."""

from __future__ import annotations

import pytest

from oban_sync import ConfigError, worker
from oban_sync.control.cron_runs import run_cron


@pytest.fixture
def entry(oban):
    @worker(queue="reports")
    class Report:
        def process(self, job):
            pass

    oban.insert_cron("0 9 * * *", Report, entry="report", args={"kind": "all"}, priority=3)

    return "report"


def test_a_job_is_inserted_as_at_a_time_of_the_entry(oban, entry):
    job = run_cron(oban.db, oban.name, entry, by="anna")
    stored = oban.get_job(job.id)

    assert (stored.queue, stored.priority, stored.args) == ("reports", 3, {"kind": "all"})
    assert stored.state == "available"
    assert stored.meta["cron_name"] == "report"
    assert stored.meta["cron_by"] == "anna"


def test_it_runs_while_the_entry_is_paused_and_settles_no_time(oban, entry):
    oban.pause_cron(entry)
    run_cron(oban.db, oban.name, entry)
    run_cron(oban.db, oban.name, entry)

    assert len(oban.list_jobs()) == 2
    assert oban.list_cron_slots(entry) == []
    assert oban.list_crons()[0].paused


def test_the_meta_of_the_entry_stays(oban, entry):
    oban.update_cron(entry, meta={"team": "blue"})

    assert run_cron(oban.db, oban.name, entry, by="anna").meta["team"] == "blue"
    assert "cron_by" not in run_cron(oban.db, oban.name, entry).meta


def test_a_unique_job_that_is_there_is_given(oban, entry):
    oban.update_cron(entry, unique={"period": "forever"})
    first = run_cron(oban.db, oban.name, entry)
    second = run_cron(oban.db, oban.name, entry)

    assert (first.conflict, second.conflict) == (False, True)
    assert second.id == first.id


def test_what_comes_along_is_in_the_same_transaction(oban, entry):
    def along(tx, job):
        raise RuntimeError(f"no audit for {job.id}")

    with pytest.raises(RuntimeError, match="no audit"):
        run_cron(oban.db, oban.name, entry, along=along)

    assert oban.list_jobs() == []


@pytest.mark.parametrize("name", ["reprot", "", "a\0b", None, 7])
def test_an_entry_that_is_not_there_is_named(oban, entry, name):
    with pytest.raises(ConfigError, match=r"^entry: "):
        run_cron(oban.db, oban.name, name)
