"""The LISTEN thread: hears of new jobs and of orders the moment they are committed.

NOTIFY is a doorbell. What it says is only ever a reason to look: a lost notification costs the
stager's interval or a beat's, and junk costs nothing.

Its connection also holds the node's session lock, by which others see at once that the process
ended, and can tell that from one that is merely slow.
"""

from __future__ import annotations

import logging
import os
import selectors
import socket
import time
from collections.abc import Callable
from contextlib import suppress
from threading import Event
from typing import Any
from weakref import WeakSet

import psycopg

from oban_sync import telemetry
from oban_sync.core.errors import DatabaseUnavailableError
from oban_sync.core.lease import Lease
from oban_sync.engine import nodes, signals
from oban_sync.engine.retry import until_available
from oban_sync.engine.session import Tx, quoted, reason, translated
from oban_sync.runtime.loop import Loop

log = logging.getLogger("oban_sync.runtime")

_all: WeakSet[Notifier] = WeakSet()


def _let_go() -> None:
    """In a child: the session is the parent's, and must end with it, whoever lives on.

    The descriptor is replaced, not the connection closed: that would say good-bye in its name.
    """
    nothing = os.open(os.devnull, os.O_RDWR)

    for notifier in list(_all):
        with suppress(Exception):
            notifier.hand_over_to(nothing)

    os.close(nothing)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_let_go)


class Notifier(Loop):
    """Listen on a connection of its own and pass on what arrives.

    Args:
        connect: Makes the connection; it must lead to PostgreSQL itself, not through a pooler in
            transaction mode, which swallows LISTEN.
        ping: A channel that only this node is told on, of every beat: what proves that the
            connection is not deaf.
        lock_key: What to hold a session lock on; None where sessions cannot be relied on.
        lease: Told whether that lock is held.
        on_connected: Called after every connect, since anything may have been missed before it.

    Attributes:
        ready: Set while the connection listens.
        junk: Payloads that could not be read, counted and ignored.
    """

    #: Seconds below which the life of a connection counts as a failure.
    SHORT_LIFE = 5.0

    #: Seconds without anything to hear after which the connection is looked at once more.
    QUIET_INTERVAL = 30.0

    #: Seconds after a ping was sent, without hearing it, when the connection counts as deaf ...
    DEAF_AFTER = 5.0

    #: ... and when one that was made after that is given up in turn.
    STILL_DEAF_AFTER = 60.0

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]],
        *,
        ping: str,
        lock_key: int | None,
        lease: Lease,
        on_connected: Callable[[], None],
    ) -> None:
        super().__init__("notifier", interval=self.QUIET_INTERVAL)
        self.ready = Event()
        self.junk = 0
        self._connect = connect
        self._hear: dict[str, Callable[[dict[str, Any]], None]] = {ping: self._heard_ping}
        self._ping = ping
        self._lock_key = lock_key
        self._lease = lease
        self._on_connected = on_connected
        self._conn: psycopg.Connection[Any] | None = None
        self._connected_at = 0.0
        self._deaf_at = float("inf")
        self._awaited = 0
        self._heard = 0
        self._deaf = False
        # A byte sent here ends a wait at once: selecting needs no timeout to be stopped.
        self._bell, self._button = socket.socketpair()
        self._bell.setblocking(False)
        self._button.setblocking(False)
        _all.add(self)

    def on(self, channel: str, hear: Callable[[dict[str, Any]], None]) -> None:
        """Call something with the payloads of a channel, given by its full name; before the start.

        It is called on this thread, so it must be quick. ValueError, TypeError and LookupError from
        it say that a payload was not understood.
        """
        self._hear[channel] = hear

    def hand_over_to(self, descriptor: int) -> None:
        """Put something else in the place of the connection's socket, in this process only."""
        if self._conn is not None:
            os.dup2(descriptor, self._conn.fileno())

    @property
    def degraded(self) -> bool:
        """Whether notifications may be lost at the moment, so that others look by themselves."""
        return self._deaf or not self.ready.is_set()

    def wake(self) -> None:
        """End the wait on the connection."""
        super().wake()

        try:
            self._button.send(b"!")
        except OSError:
            # Full, so a wake is pending already; or closed, so nobody waits any more.
            log.debug("notifier needs no further wake")

    def pinged(self, beats: int) -> None:
        """A ping was sent; called from another thread after each beat."""
        self._awaited = beats

        if self._deaf_at == float("inf"):
            self._deaf_at = time.monotonic() + self._patience

        # It is often heard before the beat's own reply is.
        if self._heard >= beats:
            self._deaf_at = float("inf")
        else:
            self.wake()

    @property
    def _patience(self) -> float:
        return self.STILL_DEAF_AFTER if self._deaf else self.DEAF_AFTER

    def tick(self) -> float | None:
        """Connect if need be, then wait for notifications once and pass them on."""
        if self._conn is None:
            self._conn = until_available(
                self._listening, stopping=self._stopping, what=self.name, log=log
            )
            self._connected_at = time.monotonic()
            self._deaf_at = float("inf")

            if self._lock_key is not None:
                self._lease.lock()

            self.ready.set()
            telemetry.emit("oban.notifier.connected", {"channels": list(self._hear)})
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

    def _listening(self) -> psycopg.Connection[Any]:
        with translated():
            conn = self._connect()

            try:
                if self._lock_key is not None:
                    nodes.hold_lock(Tx(conn, "pg_catalog"), self._lock_key)

                for channel in self._hear:
                    conn.execute(b"LISTEN " + quoted(channel).as_bytes(conn))
            except BaseException:
                conn.close()
                raise

        return conn

    def _wait_and_hear(self, conn: psycopg.Connection[Any]) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(conn.fileno(), selectors.EVENT_READ)
            selector.register(self._bell, selectors.EVENT_READ)

            # What came while the LISTENs ran is in memory already, and wakes no selector.
            self._pass_on(conn)

            while not self.stopping:
                pause = min(self.QUIET_INTERVAL, max(0.0, self._deaf_at - time.monotonic()))
                ready = {key.fileobj for key, _ in selector.select(pause)}

                if self._bell in ready:
                    self._bell.recv(4096)

                if conn.fileno() in ready:
                    conn.pgconn.consume_input()

                self._pass_on(conn)

                if time.monotonic() >= self._deaf_at:
                    self._say_deaf()

                    raise DatabaseUnavailableError("it does not hear what this node sends itself")

    def _pass_on(self, conn: psycopg.Connection[Any]) -> None:
        while (notify := conn.pgconn.notifies()) is not None:
            try:
                payload = signals.decode(notify.extra.decode())
                self._hear[notify.relname.decode()](payload)
            except Exception as error:
                self.junk += 1
                log.debug("notifier ignores what it cannot read: %s", error)
                telemetry.emit("oban.notifier.junk", {"payload": notify.extra, "error": error})

    def _heard_ping(self, payload: dict[str, Any]) -> None:
        self._heard = int(payload["beats"])
        heard_all = self._heard >= self._awaited
        self._deaf_at = float("inf") if heard_all else time.monotonic() + self._patience

        if self._deaf:
            self._deaf = False
            log.warning("notifier hears again")

    def _say_deaf(self) -> None:
        if not self._deaf:
            self._deaf = True
            telemetry.emit("oban.notifier.deaf", {"channel": self._ping})
            log.error(
                "notifier hears nothing: is a pooler in transaction mode in between? Give "
                "listen_conninfo, which leads to PostgreSQL itself; until then this node looks "
                "for jobs and orders every second"
            )

    def _drop(self) -> None:
        self._lease.unlock()
        self.ready.clear()
        conn, self._conn = self._conn, None

        if conn is not None:
            conn.close()
