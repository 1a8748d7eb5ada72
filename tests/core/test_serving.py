"""Where queues start, from what is known of a process."""

from __future__ import annotations

import pytest

from oban_sync.core.serving import (
    AFTER_FORK,
    AT_FIRST_REQUEST,
    AT_ONCE,
    NEVER,
    Facts,
    decided,
)

SERVED = {"server": "gunicorn", "serving": True}


@pytest.mark.parametrize(
    ("facts", "when", "words"),
    [
        ({}, AT_FIRST_REQUEST, "is asked for something"),
        ({"server": "gunicorn"}, AT_FIRST_REQUEST, "is asked for something"),
        (SERVED, AT_ONCE, "has a request to serve"),
        ({"server": "gunicorn", "asked": True}, AT_ONCE, "a worker of gunicorn"),
        ({"server": "uWSGI", "forks": True}, AFTER_FORK, "those it forks serve it"),
        # A worker whose command is still on the way to run: it serves all the same.
        ({**SERVED, "command": "app"}, AT_ONCE, "has a request to serve"),
    ],
    ids=str,
)
def test_queues_start_where_requests_are_served(facts, when, words):
    decision = decided(Facts(**facts), autostart=None, queues=True, testing=False)

    assert (decision.start, decision.when, decision.trouble) == (True, when, False)
    assert words in decision.reason


@pytest.mark.parametrize(
    ("facts", "options", "words", "trouble"),
    [
        (SERVED, {"autostart": False}, "OBAN_AUTOSTART is off", False),
        (SERVED, {"queues": False}, "no queues are configured", False),
        (SERVED, {"testing": True}, "under test", False),
        ({"child": True}, {}, "child of a process queue", False),
        ({"server": "flask run", "reloader_parent": True}, {}, "only watches files", False),
        ({"command": "flask shell"}, {}, "`flask shell` is a command", False),
        ({**SERVED, "server": "uWSGI", "threads": False}, {}, "enable-threads = true", True),
        ({"forks": True, "server": "uWSGI", "threads": False}, {}, "runs no threads", True),
        ({**SERVED, "per_request": True}, {}, "ends with the request", True),
        ({**SERVED, "green": "gevent"}, {}, "gevent has made all threads one", True),
        ({**SERVED, "server": "mod_wsgi", "shared": True}, {}, "daemon mode", True),
    ],
    ids=str,
)
def test_queues_start_nowhere_else(facts, options, words, trouble):
    given = {"autostart": None, "queues": True, "testing": False, **options}
    decision = decided(Facts(**facts), **given)

    assert (decision.start, decision.when, decision.trouble) == (False, NEVER, trouble)
    assert words in decision.reason


@pytest.mark.parametrize("doubt", [{"green": "gevent"}, {"shared": True}], ids=str)
def test_where_it_is_doubtful_they_start_if_told_to(doubt):
    facts = Facts(**SERVED, **doubt)

    assert decided(facts, autostart=True, queues=True, testing=False).start


@pytest.mark.parametrize(
    "sure",
    [{"threads": False}, {"per_request": True}, {"child": True}, {"command": "flask routes"}],
)
def test_where_it_cannot_be_they_do_not_start_even_if_told_to(sure):
    facts = Facts(server="uWSGI", **sure)

    assert not decided(facts, autostart=True, queues=True, testing=False).start


def test_a_decision_reads_as_a_sentence():
    decision = decided(Facts(**SERVED), autostart=None, queues=True, testing=False)

    assert str(decision) == (
        "queues start at once under gunicorn: this process has a request to serve"
    )


def test_a_refusal_reads_as_one_too():
    decision = decided(Facts(**SERVED), autostart=None, queues=False, testing=False)

    assert str(decision) == (
        "queues do not start under gunicorn: no queues are configured; jobs are only enqueued here"
    )
