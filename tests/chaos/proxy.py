"""A TCP proxy before PostgreSQL, to stall, delay and cut connections, and to lose its replies.

It runs on a thread of this process and listens on the loopback address, at a port of its own.
"""

from __future__ import annotations

import selectors
import socket
import struct
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue
from threading import Event, Thread
from typing import Any

from psycopg.conninfo import conninfo_to_dict, make_conninfo

from tests.chaos.protocol import Talk, Trap

HOST = "127.0.0.1"

#: Bytes that one direction of a connection holds back at most.
MOST_HELD = 1 << 20


@dataclass(eq=False, slots=True)
class Pipe:
    """One direction of a connection, and what is on its way."""

    source: socket.socket
    target: socket.socket
    held: deque[tuple[float, bytes]] = field(default_factory=deque)
    size: int = 0
    ended: bool = False

    @property
    def hungry(self) -> bool:
        """Whether more may be read."""
        return not self.ended and self.size < MOST_HELD

    def due(self, now: float) -> bool:
        """Whether something is to be written."""
        return bool(self.held) and self.held[0][0] <= now


@dataclass(eq=False, slots=True)
class Link:
    """A client's connection and its counterpart to the server."""

    up: Pipe
    down: Pipe
    talk: Talk = field(default_factory=Talk)


class Proxy:
    """Stands between clients and a server; passes everything on until it is told otherwise.

    Every order is in effect when its method returns.

    Args:
        dsn: Where the server is.

    Attributes:
        dsn: The same, through the proxy.
    """

    def __init__(self, dsn: str) -> None:
        known = conninfo_to_dict(dsn)
        self._server = (str(known["host"]), int(known["port"]))
        self._links: set[Link] = set()
        self._orders: SimpleQueue[tuple[Callable[[], None], Event]] = SimpleQueue()
        self._stalled = False
        self._refusing = False
        self._delay = 0.0
        self._trap: Trap | None = None
        self._closing = False
        self._listener = socket.create_server((HOST, 0), backlog=256)
        self._listener.setblocking(False)
        self._bell, self._button = socket.socketpair()
        self._selector = selectors.DefaultSelector()
        self._watched: dict[socket.socket, int] = {}
        port = self._listener.getsockname()[1]
        self.dsn = make_conninfo(dsn, host=HOST, port=port, gssencmode="disable")
        self._thread = Thread(target=self._run, name="chaos-proxy", daemon=True)
        self._thread.start()

    def flow(self) -> None:
        """Pass everything on, at once."""
        self._order(stalled=False, refusing=False, delay=0.0)

    def stall(self) -> None:
        """Pass nothing on, either way, and keep every connection open; new ones get no answer."""
        self._order(stalled=True)

    def delay(self, seconds: float) -> None:
        """Pass everything on so much later, either way."""
        self._order(delay=seconds)

    def cut(self, *, refuse: bool = False) -> None:
        """Reset every connection; new ones too, if asked, until `flow`."""
        self._order(self._reset_all, refusing=refuse)

    def lose_replies(self, matching: Callable[[str], bool], *, times: int = 1) -> Trap:
        """Lose the replies to the next statements that match; see `Trap`."""
        trap = Trap(matching, times)
        self._order(trap=trap)

        return trap

    def close(self) -> None:
        """Reset every connection and end."""
        if self._thread.is_alive():
            self._order(closing=True)
            self._thread.join(5.0)

    def __enter__(self) -> Proxy:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _order(self, do: Callable[[], None] = lambda: None, **state: Any) -> None:
        done = Event()

        def carry_out() -> None:
            for name, value in state.items():
                setattr(self, f"_{name}", value)

            do()

        self._orders.put((carry_out, done))
        self._button.send(b"!")
        assert done.wait(10.0), "the proxy is dead"

    def _run(self) -> None:
        try:
            while not self._closing:
                self._watch()

                for key, mask in self._selector.select(self._pause()):
                    self._handle(key.fileobj, mask)

                self._obey()
                self._write_due()
        finally:
            self._reset_all()
            self._selector.close()

            for item in (self._listener, self._bell, self._button):
                item.close()

    def _obey(self) -> None:
        with suppress(Empty):
            while True:
                carry_out, done = self._orders.get_nowait()
                carry_out()
                done.set()

    def _watch(self) -> None:
        """Tell the selector what is of interest now."""
        wanted: dict[socket.socket, int] = {self._bell: selectors.EVENT_READ}

        if not self._stalled:
            wanted[self._listener] = selectors.EVENT_READ
            now = time.monotonic()

            for link in self._links:
                for pipe in (link.up, link.down):
                    if pipe.hungry:
                        wanted[pipe.source] = wanted.get(pipe.source, 0) | selectors.EVENT_READ

                    if pipe.due(now):
                        wanted[pipe.target] = wanted.get(pipe.target, 0) | selectors.EVENT_WRITE

        for item in self._watched.keys() - wanted.keys():
            self._selector.unregister(item)

        for item, mask in wanted.items():
            if item not in self._watched:
                self._selector.register(item, mask)
            elif self._watched[item] != mask:
                self._selector.modify(item, mask)

        self._watched = wanted

    def _pause(self) -> float | None:
        dues = [
            pipe.held[0][0]
            for link in self._links
            for pipe in (link.up, link.down)
            if pipe.held and not self._stalled
        ]

        return max(0.0, min(dues) - time.monotonic()) if dues else None

    def _handle(self, item: Any, mask: int) -> None:
        if item is self._bell:
            self._bell.recv(4096)
        elif item is self._listener:
            self._accept()
        elif mask & selectors.EVENT_READ:
            for link in list(self._links):
                for pipe in (link.up, link.down):
                    if pipe.source is item:
                        self._read(link, pipe)

    def _accept(self) -> None:
        try:
            client, _ = self._listener.accept()
        except BlockingIOError:
            return

        if self._refusing:
            _reset(client)

            return

        try:
            server = socket.create_connection(self._server, timeout=5.0)
        except OSError:
            _reset(client)

            return

        for item in (client, server):
            item.setblocking(False)
            item.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

        self._links.add(Link(up=Pipe(client, server), down=Pipe(server, client)))

    def _read(self, link: Link, pipe: Pipe) -> None:
        try:
            data = pipe.source.recv(65_536)
        except BlockingIOError:
            return
        except OSError:
            self._reset(link)

            return

        if not data:
            pipe.ended = True
        elif pipe is link.up:
            link.talk.asks(data, self._trap)
            self._hold(pipe, data)
        elif link.talk.losing:
            if link.talk.answers(data):
                link.talk.lost()
                self._reset(link)
        else:
            link.talk.answers(data)
            self._hold(pipe, data)

    def _hold(self, pipe: Pipe, data: bytes) -> None:
        pipe.held.append((time.monotonic() + self._delay, data))
        pipe.size += len(data)

    def _write_due(self) -> None:
        if self._stalled:
            return

        now = time.monotonic()

        for link in list(self._links):
            for pipe in (link.up, link.down):
                try:
                    while pipe.due(now):
                        due, data = pipe.held.popleft()
                        sent = pipe.target.send(data)
                        pipe.size -= sent

                        if sent < len(data):
                            pipe.held.appendleft((due, data[sent:]))
                except BlockingIOError:
                    pipe.held.appendleft((due, data))
                except OSError:
                    self._reset(link)

                    break

                if pipe.ended and not pipe.held:
                    # Neither side of PostgreSQL's protocol goes on when the other one is gone.
                    self._reset(link, gently=True)

                    break

    def _reset_all(self) -> None:
        for link in list(self._links):
            self._reset(link)

    def _reset(self, link: Link, *, gently: bool = False) -> None:
        self._links.discard(link)

        for item in (link.up.source, link.down.source):
            if self._watched.pop(item, None) is not None:
                self._selector.unregister(item)

            item.close() if gently else _reset(item)


def _reset(item: socket.socket) -> None:
    """Close a connection so that the other side is told at once, whatever is on its way."""
    with suppress(OSError):
        item.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    item.close()
