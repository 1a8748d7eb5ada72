"""Transactional workers that children of process queues run, which import this module."""

from __future__ import annotations

import os
import signal

from oban_sync import Oban, Snooze, job


def note(conn, text):
    conn.execute(f'INSERT INTO "{Oban.get_instance().prefix}".effects VALUES (0, %s)', [text])


@job(queue="cpu", name="tests.child.noting", transactional=True)
def noting(conn, text):
    """Works by what it is given."""
    note(conn, text)
    plain.enqueue()


@job(queue="cpu", name="tests.child.noting_more", transactional=True)
def noting_more(conn, text):
    """Comes again later."""
    note(conn, text)

    return Snooze(3600)


@job(queue="cpu", name="tests.child.noting_dying", transactional=True, max_attempts=1)
def noting_dying(conn, text):
    """Dies before it is committed."""
    note(conn, text)
    os.kill(os.getpid(), signal.SIGKILL)


@job(queue="elsewhere", name="tests.child.plain")
def plain():
    """Is enqueued by others."""
