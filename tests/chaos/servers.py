"""PostgreSQL and what stands before it: a primary with its standby, and PgBouncer."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
import uuid
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import Event
from time import monotonic
from typing import Any

import psycopg
from psycopg import sql
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from oban_sync import schema
from oban_sync.embedded import Server, binaries
from tests.support.private import private_server

HOST = "127.0.0.1"

#: Root may install it; see `pgbouncer`.
INSTALL = ("apt-get", "install", "--yes", "--no-install-recommends", "pgbouncer")


class MissingError(Exception):
    """A program cannot be had on this machine; says why."""


@contextmanager
def database(server: Server, *, installed: bool = True) -> Iterator[str]:
    """A new database on a server, dropped in the end; the way to it.

    Args:
        installed: Whether it has the tables.
    """
    name = sql.Identifier(f"chaos_{uuid.uuid4().hex[:12]}")

    with psycopg.connect(server.dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("CREATE DATABASE {}").format(name))

    dsn = make_conninfo(server.dsn, dbname=name.as_string(None).strip('"'))

    if installed:
        schema.install(dsn)

    try:
        yield dsn
    finally:
        # It may have been halted.
        server.start()

        with psycopg.connect(server.dsn, autocommit=True) as conn:
            conn.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@dataclass
class Pair:
    """A primary and a standby that follows it.

    Attributes:
        primary, standby: The servers.
        dsn: Leads to whichever of the two can be written to.
    """

    primary: Server
    standby: Server
    dsn: str

    def fail_over(self) -> None:
        """Kill the primary and make the standby take its place."""
        self.primary.halt("kill")

        with psycopg.connect(self.standby.dsn, autocommit=True) as conn:
            conn.execute("SELECT pg_promote(true, 30)")


@contextmanager
def streaming_pair() -> Iterator[Pair]:
    """A primary and a standby that has everything its primary ever acknowledged.

    Raises:
        MissingError: The PostgreSQL that is used has no pg_basebackup.
    """
    with ExitStack() as stack:
        primary = stack.enter_context(private_server(wal_level="replica", max_wal_senders=4))
        folder = Path(tempfile.mkdtemp(prefix="oban-sync-standby-"))
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        _copy(primary, folder)
        standby = Server(folder)
        stack.callback(standby.stop)
        standby.start()

        with psycopg.connect(primary.dsn, autocommit=True) as conn:
            _until(
                lambda: conn.execute("SELECT 1 FROM pg_stat_replication").fetchone(),
                "the standby does not follow",
            )
            # From here on a commit is acknowledged when both have it.
            conn.execute("ALTER SYSTEM SET synchronous_standby_names = '*'")
            conn.execute("SELECT pg_reload_conf()")
            _until(
                lambda: conn.execute(
                    "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
                ).fetchone(),
                "the standby is not synchronous",
            )

        ends = [conninfo_to_dict(server.dsn) for server in (primary, standby)]
        dsn = make_conninfo(
            primary.dsn,
            host=",".join(str(end["host"]) for end in ends),
            port=",".join(str(end["port"]) for end in ends),
            target_session_attrs="read-write",
        )

        yield Pair(primary, standby, dsn)


def _copy(primary: Server, folder: Path) -> None:
    """Make the files of a standby, as a `Server` keeps them."""
    account = binaries.account_for(primary.path / "data")
    backup = binaries.program(binaries.binaries_for(account), "pg_basebackup")

    if not backup.exists():
        raise MissingError(f"no standby can be made: there is no {backup}")

    shutil.copy(primary.path / "password", folder / "password")
    (folder / "oban-server.lock").touch(mode=0o600)
    folder.chmod(0o711)
    # Kept beside the data, since the standby reads it at every connect.
    passfile = folder / "passfile"
    passfile.write_text(f"*:*:*:*:{(primary.path / 'password').read_text('ascii').strip()}\n")
    passfile.chmod(0o600)
    account.own(passfile)
    (folder / "data").mkdir(mode=0o700)
    account.own(folder / "data")
    end = conninfo_to_dict(primary.dsn)
    source = make_conninfo(
        host=end["host"], port=end["port"], user=end["user"], passfile=str(passfile)
    )
    made = binaries.run(
        account,
        *(str(backup), "--pgdata", str(folder / "data"), "--dbname", source),
        *("--write-recovery-conf", "--wal-method=stream", "--checkpoint=fast"),
        timeout=60.0,
    )
    assert made.returncode == 0, made.stderr


def pgbouncer(*, install: bool) -> str:
    """The path of PgBouncer.

    Args:
        install: Whether root may install Debian's package when it is missing.

    Raises:
        MissingError: It is missing, and is not to be installed, or could not be.
    """
    wanted = {**os.environ, "PATH": f"{os.environ.get('PATH', '')}:/usr/sbin"}

    if found := shutil.which("pgbouncer", path=wanted["PATH"]):
        return found

    if not install:
        raise MissingError(f"PgBouncer is not installed; {' '.join(INSTALL)} brings it")

    if os.geteuid() != 0 or shutil.which("apt-get") is None:
        raise MissingError("PgBouncer is not installed, and only root of a Debian can install it")

    # No service of the machine's is to be started by it.
    quiet = {**wanted, "DEBIAN_FRONTEND": "noninteractive", "RUNLEVEL": "1"}
    said = ""

    for command in (INSTALL, ("apt-get", "update"), INSTALL):
        ran = subprocess.run(command, capture_output=True, text=True, timeout=300, env=quiet)
        said = ran.stderr.strip().splitlines()[-1:] and ran.stderr.strip().splitlines()[-1]

        if found := shutil.which("pgbouncer", path=wanted["PATH"]):
            return found

    raise MissingError(f"PgBouncer could not be installed: {said}")


@contextmanager
def pooled(dsn: str, program: str, **settings: Any) -> Iterator[str]:
    """PgBouncer in transaction mode before a database; the way through it.

    It runs as the user that PostgreSQL would run as, because it refuses root as well.
    """
    end = conninfo_to_dict(dsn)
    folder = Path(tempfile.mkdtemp(prefix="oban-sync-pgbouncer-"))
    account = binaries.account_for(folder / "data")

    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]

    options = {
        "listen_addr": HOST,
        "listen_port": port,
        "unix_socket_dir": "",
        "auth_type": "scram-sha-256",
        "auth_file": folder / "users.txt",
        "pool_mode": "transaction",
        "max_client_conn": 200,
        "default_pool_size": 10,
        "server_login_retry": 1,
        "logfile": folder / "pgbouncer.log",
        **settings,
    }
    lines = [
        "[databases]",
        f"{end['dbname']} = host={end['host']} port={end['port']}",
        "[pgbouncer]",
        *(f"{name} = {value}" for name, value in options.items()),
    ]
    (folder / "pgbouncer.ini").write_text("\n".join(lines) + "\n")
    (folder / "users.txt").write_text(f'"{end["user"]}" "{end["password"]}"\n')

    for path in (folder, *folder.iterdir()):
        account.own(path)

    process = subprocess.Popen(
        [program, str(folder / "pgbouncer.ini")],
        user=account.uid,
        group=account.gid,
        extra_groups=account.groups,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    through = make_conninfo(dsn, host=HOST, port=port, gssencmode="disable")

    try:
        _until(lambda: _answers(through), "PgBouncer does not answer", process)

        yield through
    finally:
        process.kill()
        process.wait(10.0)
        shutil.rmtree(folder, ignore_errors=True)


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=2, prepare_threshold=None).close()
    except psycopg.OperationalError:
        return False

    return True


def _until(condition: Any, trouble: str, process: subprocess.Popen[bytes] | None = None) -> None:
    deadline = monotonic() + 15.0
    pause = Event()

    while not condition():
        assert process is None or process.poll() is None, f"{trouble}: it ended"
        assert monotonic() < deadline, trouble
        pause.wait(0.05)
