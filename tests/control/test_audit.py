"""Who did what by hand."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from oban_sync import ConfigError
from oban_sync.control.audit import list_audit, record


def wrote(where, action="jobs:cancel", **given):
    given = {"via": "cli", "who": "anna", "subject": "job 7", **given}
    record(where, "Oban", action=action, **given)


def test_what_was_done_can_be_read_again(db):
    wrote(db, detail={"ids": [1, 2]})
    [entry] = list_audit(db)

    assert (entry.name, entry.via, entry.who) == ("Oban", "cli", "anna")
    assert (entry.action, entry.subject, entry.detail) == ("jobs:cancel", "job 7", {"ids": [1, 2]})
    assert abs(entry.at - datetime.now(UTC)) < timedelta(minutes=1)


def test_it_is_written_with_what_was_done_or_not_at_all(db):
    def fails():
        with db.transaction() as tx:
            wrote(tx)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fails()

    assert list_audit(db) == []

    with db.transaction() as tx:
        wrote(tx)

    assert len(list_audit(db)) == 1


def test_the_newest_comes_first_and_page_by_page(db):
    for number in range(5):
        wrote(db, subject=f"job {number}")

    first = list_audit(db, limit=2)
    second = list_audit(db, limit=2, before_id=first[-1].id)

    assert [entry.subject for entry in first + second] == ["job 4", "job 3", "job 2", "job 1"]


def test_it_is_found_by_who_and_by_what(db):
    wrote(db, who="anna")
    wrote(db, who="ben", action="queues:pause")
    wrote(db, who=None, action="queues:resume")

    assert [entry.action for entry in list_audit(db, who="ben")] == ["queues:pause"]
    assert [entry.who for entry in list_audit(db, action="jobs:cancel")] == ["anna"]
    assert len(list_audit(db, action="queues:")) == 2
    assert list_audit(db, action="queues") == []
    assert list_audit(db, who="ben", action="jobs:") == []


@pytest.mark.parametrize("limit", [0, 1_001, "x", None])
def test_a_wrong_limit_is_refused(db, limit):
    with pytest.raises(ConfigError, match=r"^limit: "):
        list_audit(db, limit=limit)


def test_what_cannot_be_stored_as_it_is_is_stored_as_it_can_be(db):
    wrote(db, who="a\0b", subject="x" * 5_000)
    [entry] = list_audit(db)

    assert entry.who == "a\N{REPLACEMENT CHARACTER}b"
    assert len(entry.subject) < 1_200


def test_another_way_in_is_refused(db):
    with pytest.raises(ConfigError, match=r"^via: "):
        wrote(db, via="telephone")


def test_a_detail_that_is_no_object_can_be_read(db, conn):
    conn.execute(
        "INSERT INTO oban_sync_audit (name, via, action, subject, detail, at)"
        " VALUES ('Oban', 'cli', 'x', 'y', '[1]', 'infinity')"
    )
    [entry] = list_audit(db)

    assert entry.detail == {"detail": [1]}
    assert entry.who is None


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("args.token:TOP queues:a", "queues:a args.token:[hidden]"),
        ("states:completed", "states:completed"),
        ('args.token:"TOP', "[hidden]"),
    ],
)
def test_filters_that_were_written_down_whole_are_told_without_what_is_in_jobs(db, text, told):
    wrote(db, subject=f"jobs {text}", detail={"filter": text, "changed": 1})
    wrote(db, subject="3 jobs", detail={"filter": text})
    by_cli, by_dashboard = list_audit(db)

    assert by_dashboard.subject == f"jobs {told}"
    assert by_dashboard.detail == {"filter": told, "changed": 1}
    assert (by_cli.subject, by_cli.detail) == ("3 jobs", {"filter": told})
