from __future__ import annotations

import pytest

from oban_sync import NotRunningError
from oban_sync.core import instances


class Instance:
    def enqueue(self, job, *, conn=None):
        return job


class Applications:
    """Knows one, while it is at work."""

    def __init__(self):
        self.at_work = None

    def here(self, name):
        return self.at_work if name == "web" else None

    def of(self, application, at):
        return self.at_work if application == "application" and at == "wsgi:app" else None


@pytest.fixture
def applications(monkeypatch):
    monkeypatch.setattr(instances, "_frameworks", [])
    instances.join(joined := Applications())

    return joined


def test_the_one_put_last_is_the_one_of_its_name():
    first, second = Instance(), Instance()
    instances.put("web", first)
    instances.put("web", second)

    assert instances.get("web") is second


def test_a_promise_is_kept_when_it_is_asked_for_and_not_before():
    made = Instance()
    asked = []
    instances.promise("web", lambda: asked.append("web") or made)

    assert asked == []
    assert instances.get("web") is made


def test_what_comes_last_counts_promised_or_there():
    put, promised = Instance(), Instance()
    instances.put("web", put)
    instances.promise("web", lambda: promised)

    assert instances.get("web") is promised

    instances.put("web", put)

    assert instances.get("web") is put


def test_one_made_to_keep_a_promise_takes_nobody_s_place():
    other = Instance()
    instances.put("web", other)

    with instances.kept_as_they_are():
        instances.put("web", Instance())

    assert instances.get("web") is other
    instances.put("web", later := Instance())
    assert instances.get("web") is later


def test_that_of_the_application_at_work_comes_first(applications):
    instances.put("web", there := Instance())
    applications.at_work = Instance()

    assert instances.get("web") is applications.at_work

    applications.at_work = None

    assert instances.get("web") is there


def test_an_application_is_asked_for_its_own(applications):
    applications.at_work = Instance()

    assert instances.of("application", "wsgi:app") is applications.at_work
    assert instances.of("application") is None
    assert instances.of("something else", "wsgi:app") is None


def test_who_is_not_there_is_told_by_name():
    instances.promise("reports", Instance)

    with pytest.raises(NotRunningError, match=r"no Oban named 'report'.*Did you mean 'reports'"):
        instances.get("report")
