"""Command lines of the documentation, held against the commands they name; nothing is run."""

from __future__ import annotations

import configparser
import json
import re
import shlex
from collections.abc import Collection, Iterator
from pathlib import Path

import click
from flask.cli import cli as flask_commands

from oban_sync.cli.main import main as oban_sync_commands
from oban_sync.integrations.flask_commands import oban as flask_oban_commands

ROOT = Path(__file__).parents[2]

EXTRAS = set(
    re.findall(
        r"^(\w+) = \[",
        (ROOT / "pyproject.toml")
        .read_text("utf-8")
        .partition("[project.optional-dependencies]")[2]
        .partition("[project.scripts]")[0],
        re.M,
    )
)

_OPERATORS = {"&&", "||", "|", ";", "&", "(", ")"}
_ASSIGNMENT = re.compile(r"\w+=.*", re.S)

#: Instructions of a Dockerfile.
_INSTRUCTIONS = {
    *("ADD", "ARG", "CMD", "COPY", "ENTRYPOINT", "ENV", "EXPOSE", "FROM", "HEALTHCHECK", "LABEL"),
    *("RUN", "SHELL", "STOPSIGNAL", "USER", "VOLUME", "WORKDIR"),
}


class WrongCommandError(Exception):
    """A command line that its command would not take; says which and why."""


def check_shell(text: str, *, files: Collection[str] = (), source: str = "") -> None:
    """Check the command lines of a shell script.

    Args:
        text: The script.
        files: Scripts that ``python FILE`` may name.
        source: Python code that may define commands of its own for ``flask``.

    Raises:
        WrongCommandError: A command, an option, an extra or a file does not exist.
    """
    for line in re.sub(r"\\\n\s*", " ", text).splitlines():
        for words in _commands(line.strip().removeprefix("$ ")):
            _check(words, files, source)


def check_procfile(text: str, **known: object) -> None:
    """Check the commands of a Procfile."""
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            name, colon, command = line.partition(": ")

            if not colon or not re.fullmatch(r"[\w-]+", name):
                raise WrongCommandError(f"{line!r} is not NAME: COMMAND")

            check_shell(command, **known)


def check_ini(text: str, **known: object) -> None:
    """Check that it can be parsed, and the commands of a systemd unit."""
    parser = configparser.ConfigParser(strict=False, interpolation=None, allow_no_value=True)
    parser.optionxform = str  # keys of units are what their case is
    parser.read_string(text)

    for section in parser.values():
        for key, value in section.items():
            if key.startswith("Exec"):
                check_shell(value.lstrip("-@:+!"), **known)


def check_dockerfile(text: str, **known: object) -> None:
    """Check its instructions and their commands."""
    joined = re.sub(r"\\\n\s*", " ", text)

    for line in joined.splitlines():
        word, _, rest = line.strip().partition(" ")

        if not word or word.startswith("#"):
            continue

        if word not in _INSTRUCTIONS:
            raise WrongCommandError(f"{word} is no instruction of a Dockerfile")

        if word in ("CMD", "ENTRYPOINT", "RUN"):
            if rest.startswith("["):
                rest = shlex.join(json.loads(rest))

            check_shell(rest, **known)


def _commands(line: str) -> Iterator[list[str]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    words: list[str] = []

    for word in lexer:
        if word in _OPERATORS:
            yield words
            words = []
        else:
            words.append(word)

    yield words


def _check(words: list[str], files: Collection[str], source: str) -> None:
    while words and (words[0] in ("exec", "env", "export", "sudo") or _ASSIGNMENT.match(words[0])):
        words = words[1:]

    if not words:
        return

    program, arguments = Path(words[0]).name, words[1:]

    if re.fullmatch(r"python[\d.]*", program):
        if arguments[:1] == ["-m"]:
            program, arguments = arguments[1].replace("_", "-"), arguments[2:]
        elif arguments and not arguments[0].startswith("-"):
            if arguments[0] not in files:
                raise WrongCommandError(f"there is no {arguments[0]}")

            return

    if program == "oban-sync":
        _parse(oban_sync_commands, arguments, source)
    elif program == "flask":
        _parse(flask_commands, arguments, source)
    elif program == "pip":
        _check_extras(arguments)
    elif program == "gunicorn":
        _check_gunicorn(arguments)
    elif program == "pytest":
        _check_pytest(arguments)


def _parse(command: click.Command, arguments: list[str], source: str) -> None:
    """Have click parse it, without the callbacks of groups, which would load an application."""
    path = command.name or ""

    while isinstance(command, click.Group):
        context = click.Context(command, info_name=path)

        try:
            _, arguments, _ = command.make_parser(context).parse_args(list(arguments))
        except click.UsageError as error:
            raise WrongCommandError(f"{path}: {error.format_message()}") from error

        if not arguments:
            return

        name, *arguments = arguments
        path = f"{path} {name}"
        group = command
        # Not get_command: for the one of Flask that loads an application.
        command = group.commands.get(name)

        if command is None and group is flask_commands:
            if name == "oban":
                command = flask_oban_commands
            elif re.search(rf"""command\(["']{re.escape(name)}["']""", source):
                return

        if command is None:
            raise WrongCommandError(f"there is no {path}")

    if {"-h", "--help", "--version"} & set(arguments):
        return

    try:
        command.make_context(path, list(arguments))
    except click.UsageError as error:
        raise WrongCommandError(f"{path} {arguments}: {error.format_message()}") from error


def _check_extras(arguments: list[str]) -> None:
    for argument in arguments:
        if match := re.fullmatch(r"(?:oban-sync|\.|(?:\.\./)*\.\.)\[([\w, -]+)\].*", argument):
            wrong = {extra.strip() for extra in match[1].split(",")} - EXTRAS

            if wrong:
                raise WrongCommandError(f"there is no extra {', '.join(sorted(wrong))}")


def _check_gunicorn(arguments: list[str]) -> None:
    from gunicorn.config import Config

    try:
        Config().parser().parse_args(arguments)
    except SystemExit as error:
        raise WrongCommandError(f"gunicorn does not take {arguments}") from error


def _check_pytest(arguments: list[str]) -> None:
    known = {"-n", "-q", "-x", "-k", "-p", "-s", "-v", "--oban-seed"}

    for argument in arguments:
        if argument.startswith("-") and argument.partition("=")[0] not in known:
            raise WrongCommandError(f"pytest {argument} is not among {sorted(known)}")
