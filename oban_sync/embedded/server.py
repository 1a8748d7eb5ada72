"""PostgreSQL in a directory of its own: made, brought up, tried out, brought down.

Who may do so, and when, is left to the locks of the room's ``Server``.

Everything is kept in one directory: ``data`` (PostgreSQL's own), ``password``, ``port``,
``server.log`` and three lock files. The locks are the kernel's (``flock``), so those of a killed
process are gone with it:

- ``oban-server.lock`` marks the directory as ours; whoever starts or stops holds it meanwhile.
- ``users.lock`` is held, shared, by every user. Who finds it free when leaving was the last.
- ``running.lock`` is inherited by every process of the server. While it is held the server, or
  a rest of it, lives; process numbers are never trusted for that.
"""

import logging
import operator
import os
import secrets
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import chain
from pathlib import Path
from typing import Literal

import psycopg
from tenacity import Retrying, retry_if_exception_type, retry_if_result, stop_after_delay
from tenacity import wait_fixed as pausing

from oban_sync.core.errors import EmbeddedServerError
from oban_sync.embedded import binaries
from oban_sync.embedded.binaries import Account

if sys.platform != "win32":
    import fcntl

#: How a server goes down: ``fast`` ends its sessions in order, ``immediate`` drops everything
#: as a crash of PostgreSQL does, ``kill`` is SIGKILL to its first process.
Mode = Literal["fast", "immediate", "kill"]

#: A value of ``postgresql.conf``; True and False are written ``on`` and ``off``.
Setting = str | int | float | bool

HOST = "127.0.0.1"

#: Ports to pick from. They lie below those the kernel gives to outgoing connections: a client
#: that calls a stopped server's port from that same port would be connected to itself, and
#: keep the server from coming back.
PORTS = range(20_000, 32_768)

#: Settings that decide who can reach the server; not for the user to change.
RESERVED = {"data_directory", "listen_addresses", "port", "unix_socket_directories"}

#: Signals that bring the server down, and the seconds it gets before the next, rougher one.
DOWN: dict[Mode, tuple[str, float]] = {
    "fast": ("SIGINT", 10.0),
    "immediate": ("SIGQUIT", 5.0),
    "kill": ("SIGKILL", 5.0),
}

WRONG_PASSWORD = "the server does not take the password"  # noqa: S105 - no password

#: A log larger than this, in bytes, is begun anew at the next start.
LOG_LIMIT = 10_000_000

log = logging.getLogger("oban_sync.embedded")


class _TryAgainError(EmbeddedServerError):
    """The start failed for a reason that may be gone in a moment."""


class Cluster:
    """A PostgreSQL server and its files, for whoever holds the guard.

    Args:
        path: The directory, absolute and free of links.
        settings: Settings of ``postgresql.conf`` to start with.
        timeout: Most seconds to wait for the server to answer.
    """

    def __init__(self, path: Path, settings: Mapping[str, Setting], timeout: float) -> None:
        self.path = path
        self.guard = path / "oban-server.lock"
        self.port: int | None = None
        self._data = path / "data"
        self._settings = dict(settings)
        self._timeout = timeout
        # Only on Windows; elsewhere the server is nobody's child.
        self._process: subprocess.Popen[bytes] | None = None

        for name in RESERVED.intersection(map(str.lower, self._settings)):
            raise EmbeddedServerError(f"the setting {name} is the server's own and cannot be given")

    def claim(self) -> None:
        """Make the directory, or see that it is empty or ours."""
        self.path.mkdir(mode=0o700, parents=True, exist_ok=True)

        # In this order, so that the files of a process that races with us are not called foreign.
        if os.listdir(self.path) and not self.guard.exists():
            raise EmbeddedServerError(
                f"{self.path} holds something else than a server of oban_sync and is left alone; "
                f"name a new or an empty directory"
            )

    def password(self) -> str:
        """Read the password, which is made with the first data directory."""
        path = self.path / "password"

        if not path.exists():
            if self._data.exists():
                raise EmbeddedServerError(
                    f"{path} is missing, so nobody can log in; put it back, or remove {self.path} "
                    f"to start afresh without its data"
                )

            _write_secret(path, secrets.token_urlsafe(24))

        if sys.platform != "win32" and path.stat().st_mode & 0o077:
            log.warning("%s was open to other users; it is closed now", path)
            path.chmod(0o600)

        return path.read_text("ascii").strip()

    def _noted(self) -> tuple[int, int]:
        """Read the pid and the port that ``postmaster.pid`` tells, which may be long untrue."""
        try:
            lines = (self._data / "postmaster.pid").read_text("utf-8").splitlines()
            return int(lines[0]), int(lines[3])
        except (OSError, ValueError, IndexError):
            return 0, 0

    def bring_up(self) -> None:
        """Leave the server running and usable, whatever state it is in.

        Raises:
            EmbeddedServerError: It cannot be. What was started here is brought down again.
        """
        self.password()

        if not self._data.exists():
            self._make_data()
        else:
            alive, trouble = self._settled()

            if not trouble:
                return

            if alive:
                raise EmbeddedServerError(
                    f"a server is running in {self.path} but cannot be used: {trouble}"
                )

        # Orphans of a killed server, and who took its port, get some time to go away.
        again = Retrying(
            retry=retry_if_exception_type(_TryAgainError),
            stop=stop_after_delay(self._timeout),
            wait=pausing(0.05),
            reraise=True,
        )
        again(self._launch)

    def _make_data(self) -> None:
        for left in self.path.glob("initdb-*"):
            shutil.rmtree(left, ignore_errors=True)

        account, directory = self._equipped()
        unsynced = self._settings.get("fsync") in {False, "off"}
        # Made beside its place and then moved, so that half of it is never taken for the whole.
        scratch = Path(tempfile.mkdtemp(prefix="initdb-", dir=self.path))

        try:
            _write_secret(scratch / "password", self.password())
            account.own(scratch / "password")
            account.own(scratch)
            binaries.initdb(
                account, directory, scratch / "data", scratch / "password", synced=not unsynced
            )
            (scratch / "data").rename(self._data)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)

        log.info("made %s with %s", self._data, directory)

    def _equipped(self) -> tuple[Account, Path]:
        """Choose who runs the server, let that user in, and give the programs for it."""
        account = binaries.account_for(self._data)

        if account.uid is not None and self.path.stat().st_uid == os.geteuid():
            self.path.chmod(stat.S_IMODE(self.path.stat().st_mode) | 0o011)

        closed = account.barrier(self.path)

        if closed is not None:
            raise EmbeddedServerError(
                f"PostgreSQL refuses to run as root, so it runs as user {account.name}, which "
                f"may not enter {closed} on the way to {self.path}; open the way "
                f"(chmod o+x {closed}) or keep the server elsewhere"
            )

        return account, binaries.binaries_for(account)

    def _launch(self) -> None:
        account, directory = self._equipped()
        binaries.refuse_other_version(directory, self._data)
        port = self._choose_port()
        settings: dict[str, Setting] = {"timezone": "UTC", "log_timezone": "UTC"}
        settings |= self._settings
        settings |= {"listen_addresses": HOST, "port": port, "unix_socket_directories": ""}
        words = ["-D", str(self._data)]

        for name, value in settings.items():
            text = ("off", "on")[value] if isinstance(value, bool) else str(value)
            words += ["-c", f"{name}={text}"]

        log_path = self.path / "server.log"

        with (
            open(log_path, "ab", opener=_private) as output,
            open(self.path / "running.lock", "ab", opener=_private) as running,
        ):
            if output.tell() > LOG_LIMIT:
                output.truncate(0)

            log_start = os.fstat(output.fileno()).st_size

            if not came_true(lambda: lock(running.fileno()), 1.0):
                raise _TryAgainError(f"a rest of an earlier server is running in {self.path}")

            # Nothing is left of the server that noted it; its number may be another program's.
            (self._data / "postmaster.pid").unlink(missing_ok=True)

            # The lock is left to the server's copy when ours is closed, not unlocked.
            self._process = binaries.launch(
                account, directory, words, output=output.fileno(), inherited=running.fileno()
            )

        alive, trouble = self._settled()

        if not trouble:
            (self.path / "port").write_text(f"{port}\n", "ascii")
            log.info("started PostgreSQL in %s at %s:%d", self.path, HOST, port)
            return

        self.bring_down("fast")
        said = log_path.read_bytes()[log_start:].decode(errors="replace")
        story = (
            f"PostgreSQL did not start in {self.path}: {trouble if alive else 'it ended'}\n"
            f"{binaries.last_lines(said)}"
        )

        if "could not create any TCP/IP sockets" in said:
            # Taken between choosing and starting. Not wanted again, though it may look free.
            (self.path / "port").unlink(missing_ok=True)
            raise _TryAgainError(story)

        if not alive and ("is still in use" in said or "already exists" in said):
            raise _TryAgainError(story)

        raise EmbeddedServerError(story)

    def _choose_port(self) -> int:
        try:
            last = int((self.path / "port").read_text("ascii"))
        except (OSError, ValueError):
            last = 0

        wanted = [last] if last in PORTS else []

        return next(filter(_free, chain(wanted, iter(lambda: secrets.choice(PORTS), None))))

    def _settled(self) -> tuple[bool, str]:
        """Wait until the server can be used or is gone; tell if it lives and what is wrong."""
        alive, trouble = False, ""

        def settled() -> bool:
            nonlocal alive, trouble
            # In this order: a server that ends in between is seen to be gone the next time.
            alive = self._alive()
            trouble = self._trouble()
            return not (trouble and alive) or trouble.startswith(WRONG_PASSWORD)

        came_true(settled, self._timeout)

        return alive, trouble

    def _trouble(self) -> str:
        """Log in to the server and see to its database; tell what is wrong, or nothing."""
        _, port = self._noted()

        if not port:
            return "it has not noted its port"

        login = f"host={HOST} hostaddr={HOST} user=oban dbname=postgres sslmode=disable"

        if psycopg.pq.version() >= 160_000:
            # Whoever has taken the port of a server that is down must not be told the password.
            login += " require_auth=scram-sha-256"

        try:
            with psycopg.connect(
                login,
                port=port,
                password=self.password(),
                connect_timeout=2,
                autocommit=True,
            ) as connection:
                told = connection.execute("SHOW data_directory").fetchone()

                if told is None or not os.path.samefile(told[0], self._data):
                    return f"another server answers at port {port}"

                known = "SELECT FROM pg_database WHERE datname = 'oban'"

                if connection.execute(known).fetchone() is None:
                    connection.execute("CREATE DATABASE oban")
        except (psycopg.Error, OSError) as error:
            said = str(error)

            if "password authentication" in said:
                return f"{WRONG_PASSWORD} in {self.path / 'password'}: {said}"

            # A server that has no place left for us is up all the same.
            if not (self._alive() and ("too many clients" in said or "connection slots" in said)):
                return said

        self.port = port

        return ""

    def is_mine(self) -> bool:
        """Tell, on Windows, whether this object started the server."""
        return self._process is not None

    def pid(self) -> int:
        """Give the number of the server's first process, or raise when none is running."""
        pid, _ = self._noted()

        if not self._is_postmaster(pid) or not self._alive():
            raise EmbeddedServerError(f"no server is running in {self.path}")

        return pid

    def _alive(self) -> bool:
        """Tell whether any process of the server is left, be it an orphan of a killed one."""
        if sys.platform == "win32":
            return self._process is not None and self._process.poll() is None

        with lock_file(self.path / "running.lock") as running:
            return not lock(running, shared=True)

    def _is_postmaster(self, pid: int) -> bool:
        """Tell whether a process is this server's first, so that no other is ever signalled."""
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except OSError:
            # Without /proc, as on macOS, the held lock has to do.
            return pid > 0 and not Path("/proc/self").exists()

        return os.fsencode(self._data) in words

    def bring_down(self, mode: Mode) -> None:
        """Stop the server; return when no process of it is left."""
        signalled: list[Mode] = []

        def gone() -> bool:
            # Again and again while there is no number to send it to, as early in a start.
            if self._alive() and step not in signalled and self._signal(DOWN[step][0]):
                signalled.append(step)

            return not self._alive()

        for step in list(DOWN)[list(DOWN).index(mode) :]:
            if came_true(gone, DOWN[step][1]):
                log.info("PostgreSQL in %s is down (%s)", self.path, step)
                return

        raise EmbeddedServerError(f"the server in {self.path} does not go down")

    def _signal(self, name: str) -> bool:
        if self._process is not None:
            self._process.terminate()
            return True

        pid, _ = self._noted()

        if not self._is_postmaster(pid):
            return False

        with suppress(ProcessLookupError):
            os.kill(pid, signal.Signals[name])

        return True


def came_true(condition: Callable[[], bool], timeout: float) -> bool:
    """Ask every 10 ms until the condition holds or ``timeout`` seconds are over."""
    asking = Retrying(
        retry=retry_if_result(operator.not_),
        stop=stop_after_delay(timeout),
        wait=pausing(0.01),
        retry_error_callback=lambda _: False,
    )

    return asking(condition)


@contextmanager
def lock_file(path: Path) -> Iterator[int]:
    """Open a file to lock it; unlock it at the end.

    Closing would not do: a child that another thread forks meanwhile has a copy.
    """
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)

    try:
        yield descriptor
    finally:
        unlock(descriptor)
        os.close(descriptor)


def lock(descriptor: int, *, shared: bool = False) -> bool:
    """Lock an open file, unless a lock of somebody else forbids it."""
    if sys.platform != "win32":
        try:
            fcntl.flock(descriptor, (fcntl.LOCK_SH if shared else fcntl.LOCK_EX) | fcntl.LOCK_NB)
        except BlockingIOError:
            return False

    return True


def unlock(descriptor: int) -> None:
    """Give up the lock, in every copy of the open file there is."""
    if sys.platform != "win32":
        fcntl.flock(descriptor, fcntl.LOCK_UN)


def _free(port: int) -> bool:
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        if sys.platform != "win32":
            # As PostgreSQL does; else the connections of a server just ended would forbid it.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)

        with suppress(OSError):
            probe.bind((HOST, port))
            return True

    return False


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)


def _write_secret(path: Path, secret: str) -> None:
    with open(path, "x", encoding="ascii", opener=_private) as file:
        file.write(f"{secret}\n")
