"""doctor: what is well and what is not."""

from __future__ import annotations

import importlib
import json
import shutil
import sys
import textwrap
from collections.abc import Callable
from dataclasses import asdict

import click

from oban_sync import settings
from oban_sync.cli.application import application, load_oban
from oban_sync.cli.options import FAILED, Command, database, told_plainly, warn_of_password
from oban_sync.control import doctor as examination
from oban_sync.control.report import FAIL, OK, WARN, Check, Report
from oban_sync.core.config import Config
from oban_sync.core.errors import ConfigError, EmbeddedServerError
from oban_sync.embedded.conninfo import reachable
from oban_sync.oban import Oban
from oban_sync.telemetry.log import printable

__all__ = ["Check", "Report", "doctor", "examine", "report_options", "reported", "run"]

_COLOURS = {OK: "green", WARN: "yellow", FAIL: "red"}


def report_options(command: Command) -> Command:
    """Add ``--processes``, ``--json`` and ``--strict``."""
    for option in (
        click.option("--strict", is_flag=True, help="Exit with 1 for warnings, too."),
        click.option("--json", "as_json", is_flag=True, help="Print one JSON object instead."),
        click.option(
            "--processes",
            type=click.IntRange(1, 100_000),
            default=1,
            show_default=True,
            metavar="N",
            help="How many processes connect, web and workers, for the count of connections.",
        ),
    ):
        command = option(command)

    return command


@click.command()
@application
@database
@report_options
@told_plainly
def doctor(
    app: str | None,
    app_dir: str,
    dsn: str | None,
    prefix: str | None,
    processes: int,
    as_json: bool,
    strict: bool,
) -> None:
    """Look for what is wrong, or will be: with the database, its tables, connections and queues.

    For a Flask application `flask oban doctor` tells besides where its queues would start. Nothing
    is changed. Exits with 1 when a check failed, and with --strict when one warns.
    """
    warn_of_password(dsn)

    def ask() -> Report:
        if app is None:
            config = settings.resolve({"conninfo": dsn, "prefix": prefix})

            return examine(config, config.conninfo, processes=processes)

        oban = load_oban(app, app_dir).configure(conninfo=dsn, prefix=prefix)

        return examine(oban.config, oban.conninfo, processes=processes)

    sys.exit(reported(ask, as_json=as_json, strict=strict))


def run(
    oban: Oban,
    *,
    autostart: bool | None = None,
    processes: int = 1,
    as_json: bool = False,
    strict: bool = False,
) -> int:
    """Examine an application's Oban and print the report; the exit code.

    Args:
        oban: Nothing of it is started.
        autostart: Whether its queues start by themselves in processes that serve requests.
        processes: How many processes connect, web and workers.
        as_json: Print one JSON object, not a table.
        strict: A warning counts as a failure.
    """
    return reported(
        lambda: examine(
            oban.config, oban.conninfo, web=True, autostart=autostart, processes=processes
        ),
        as_json=as_json,
        strict=strict,
    )


def reported(ask: Callable[[], Report], *, as_json: bool, strict: bool) -> int:
    """Print a report; the exit code. Options that are wrong are a check that failed.

    Args:
        ask: Gives the report.
        as_json: Print one JSON object, not a table.
        strict: A warning counts as a failure.
    """
    try:
        report = ask()
    except ConfigError as error:
        report = Report((Check("options", FAIL, str(error)),))

    if as_json:
        checks = [asdict(check) for check in report.checks]
        click.echo(json.dumps({"status": report.status, "checks": checks}, indent=2))
    else:
        _print(report)

    return FAILED if report.status == FAIL or (strict and report.status == WARN) else 0


def examine(
    config: Config,
    conninfo: str,
    *,
    web: bool = False,
    autostart: bool | None = None,
    processes: int = 1,
) -> Report:
    """As `control.doctor.examine`, and with an embedded server that runs meanwhile.

    The workers that `imports` names are loaded, to be compared with those that jobs wait for.
    """
    before = _loaded(config.imports)

    try:
        with reachable(conninfo, create=False) as there:
            report = examination.examine(
                config, there, web=web, autostart=autostart, processes=processes
            )
    except EmbeddedServerError as error:
        report = Report((Check("database", FAIL, str(error)),))

    return Report((*before, *report.checks))


def _loaded(modules: tuple[str, ...]) -> list[Check]:
    found = []

    for module in modules:
        try:
            importlib.import_module(module)
        except Exception as error:
            # Whatever it is, the start would meet it too.
            text = f"{module} cannot be imported: {type(error).__name__}: {error}"
            found.append(Check("imports", FAIL, text))

    return found


def _print(report: Report) -> None:
    width = max(len(check.name) for check in report.checks)
    columns = max(60, min(120, shutil.get_terminal_size().columns))

    for check in report.checks:
        mark = click.style(f"{check.status:<4}", fg=_COLOURS[check.status], bold=check.status != OK)
        indent = " " * (width + 8)
        lines = [check.text, f"-> {check.advice}"] if check.advice else [check.text]
        text = "\n".join(
            textwrap.fill(
                printable(line),
                columns,
                initial_indent=indent,
                subsequent_indent=indent,
                break_long_words=False,
                break_on_hyphens=False,
            )
            for line in lines
        )
        click.echo(f"{mark}  {check.name:<{width}}  {text.lstrip()}")

    counts = {
        status: sum(check.status == status for check in report.checks) for status in (WARN, FAIL)
    }
    click.echo()
    click.echo(
        "Everything is well."
        if report.status == OK
        else f"{counts[FAIL]} failed, {counts[WARN]} warnings."
    )
