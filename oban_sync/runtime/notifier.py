"""The LISTEN thread: hears of new jobs the moment they are committed.

NOTIFY is a doorbell. What it says is only ever a reason to look: a lost notification costs the
stager's interval, and junk costs nothing.
"""

from __future__ import annotations

import logging
import selectors
import socket
import time
from collections.abc import Callable
from threading import Event
from typing import Any

import psycopg

from oban_sync import telemetry
from oban_sync.core.errors import DatabaseUnavailableError
from oban_sync.engine import signals
from oban_sync.engine.connections import connect
from oban_sync.engine.retry import until_available
from oban_sync.engine.session import quoted, reason, translated
from oban_sync.runtime.loop import Loop

log = logging.getLogger("oban_sync.runtime")


class Notifier(Loop):
    """Listen on a connection of its own and pass on what arrives.

    Args:
        conninfo: Where to connect; must lead to PostgreSQL itself, not through a pooler in
            transaction mode, which swallows LISTEN.
        schema: The schema whose channels are heard.
        on_insert: Called with the name of a queue that has new jobs.
        on_connected: Called after every connect, since anything may have been missed before it.

    Attributes:
        ready: Set while the connection listens.
        junk: Payloads that could not be read, counted and ignored.
    """

    #: Seconds below which the life of a connection counts as a failure.
    SHORT_LIFE = 5.0

    #: Seconds without anything to hear after which the connection is looked at once more.
    QUIET_INTERVAL = 30.0

    def __init__(
        self,
        conninfo: str,
        schema: str,
        *,
        on_insert: Callable[[str], None],
        on_connected: Callable[[], None],
        application_name: str,
    ) -> None:
        super().__init__("notifier", interval=self.QUIET_INTERVAL)
        self.ready = Event()
        self.junk = 0
        self._conninfo = conninfo
        self._application_name = application_name
        self._on_insert = on_insert
        self._on_connected = on_connected
        self._channel = f"{schema}.oban_insert"
        self._conn: psycopg.Connection[Any] | None = None
        self._connected_at = 0.0
        # A byte sent here ends a wait at once: selecting needs no timeout to be stopped.
        self._bell, self._button = socket.socketpair()
        self._bell.setblocking(False)
        self._button.setblocking(False)

    def wake(self) -> None:
        """End the wait on the connection."""
        super().wake()

        try:
            self._button.send(b"!")
        except OSError:
            # Full, so a wake is pending already; or closed, so nobody waits any more.
            log.debug("notifier needs no further wake")

    def tick(self) -> float | None:
        """Connect if need be, then wait for notifications once and pass them on."""
        if self._conn is None:
            self._conn = until_available(
                self._connect, stopping=self._stopping, what=self.name, log=log
            )
            self._connected_at = time.monotonic()
            self.ready.set()
            telemetry.emit("oban.notifier.connected", {"channel": self._channel})
            self._on_connected()

        try:
            self._wait_and_hear(self._conn)
        except Exception as error:
            # Whatever went wrong, a new connection that wakes everything mends it.
            self._drop()

            if time.monotonic() - self._connected_at < self.SHORT_LIFE:
                # One that is lost at once, again and again, must not be a busy loop: as a failure
                # of the tick it makes the pauses grow.
                raise DatabaseUnavailableError(
                    f"the connection was lost at once: {reason(error)}"
                ) from error

            telemetry.emit("oban.notifier.lost", {"error": error})
            log.warning("notifier lost its connection: %s", reason(error))

        return 0.0

    def closed(self) -> None:
        """Close the connection and the bell."""
        self._drop()
        self._bell.close()
        self._button.close()

    def _connect(self) -> psycopg.Connection[Any]:
        with translated():
            conn = connect(self._conninfo, application_name=self._application_name)

            try:
                conn.execute(b"LISTEN " + quoted(self._channel).as_bytes(conn))
            except BaseException:
                conn.close()
                raise

        return conn

    def _wait_and_hear(self, conn: psycopg.Connection[Any]) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(conn.fileno(), selectors.EVENT_READ)
            selector.register(self._bell, selectors.EVENT_READ)

            while not self.stopping:
                ready = {key.fileobj for key, _ in selector.select(self.QUIET_INTERVAL)}

                if self._bell in ready:
                    self._bell.recv(4096)

                if conn.fileno() in ready:
                    conn.pgconn.consume_input()

                self._hear(conn)

    def _hear(self, conn: psycopg.Connection[Any]) -> None:
        while (notify := conn.pgconn.notifies()) is not None:
            try:
                queue = signals.decode(notify.extra.decode())["queue"]
            except (ValueError, KeyError) as error:
                self.junk += 1
                log.debug("notifier ignores what it cannot read: %s", error)
                telemetry.emit("oban.notifier.junk", {"payload": notify.extra, "error": error})
            else:
                if isinstance(queue, str):
                    self._on_insert(queue)

    def _drop(self) -> None:
        self.ready.clear()
        conn, self._conn = self._conn, None

        if conn is not None:
            conn.close()
