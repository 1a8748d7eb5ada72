"""The commands of ``flask oban``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import wraps
from typing import Any, Concatenate, ParamSpec

import click
from flask import Flask
from flask.cli import ScriptInfo, pass_script_info

from oban_sync import schema as tables
from oban_sync.cli import doctor as examination
from oban_sync.cli import schema, start, verbs
from oban_sync.cli.doctor import Report
from oban_sync.cli.options import start_logging, told_plainly
from oban_sync.cli.reach import Verb, looking, own_options
from oban_sync.core import clock, instances
from oban_sync.core.config import mask
from oban_sync.core.errors import ConfigError, DatabaseUnavailableError, SchemaError
from oban_sync.integrations.flask import settings_of
from oban_sync.oban import Oban

Params = ParamSpec("Params")

_AUTOSTART = {
    None: "auto: in processes that serve requests, where that is certain to be right",
    True: "on: in processes that serve requests",
    False: "off: only by `flask oban start`, or start()",
}


@click.group()
def oban() -> None:
    """Background jobs: run queues, make the tables, see how things stand."""


def of_app(
    command: Callable[Concatenate[Oban, Params], None],
) -> Callable[Params, None]:
    """Give a command the application's Oban, outside of any app context."""

    @pass_script_info
    @told_plainly
    @wraps(command)
    def called(info: ScriptInfo, /, *args: Params.args, **kwargs: Params.kwargs) -> None:
        command(_oban_of(info.load_app(), info.app_import_path), *args, **kwargs)

    return called


def _oban_of(app: Flask, path: str | None) -> Oban:
    found = instances.of(app, path)

    if not isinstance(found, Oban):
        raise ConfigError(
            "app", f"the application {app.name!r} has no Oban; give it one by FlaskOban(app)"
        )

    return found


@oban.command("start")
@start.worker_options
@pass_script_info
@told_plainly
def start_queues(info: ScriptInfo, /, log_format: str, log_level: str, **given: Any) -> None:
    """Run queues until a SIGTERM or SIGINT comes.

    The first signal stops gracefully: running jobs get the grace period, and those that do not
    finish are handed back without spending the attempt. A second signal hands them back at once,
    a third ends the process.
    """
    # Before the application is loaded, which may have other wishes.
    start_logging(log_format, log_level)
    start.run(_oban_of(info.load_app(), info.app_import_path).configure(**given))


@oban.command()
@click.option("--sql", is_flag=True, help="Print the statements instead, for one transaction.")
@of_app
def install(found: Oban, sql: bool) -> None:
    """Create the tables, or add what is missing to those of Oban or oban-py.

    Safe to run again. Nothing that exists is altered or removed.
    """
    if sql:
        schema.print_install(found.prefix)
    else:
        schema.install_in(found.conninfo, found.prefix)


@oban.command()
@click.option(
    "--sql",
    "sql_from",
    type=int,
    metavar="FROM",
    help="Print the statements from this version on instead, for one transaction.",
)
@of_app
def upgrade(found: Oban, sql_from: int | None) -> None:
    """Bring installed tables up to the version this oban_sync needs."""
    if sql_from is not None:
        schema.print_upgrade(found.prefix, sql_from)
    else:
        schema.upgrade_in(found.conninfo, found.prefix)


@oban.command()
@of_app
def verify(found: Oban) -> None:
    """Check that the tables are there and new enough; exits with 1 when they are not."""
    schema.verify_in(found.conninfo, found.prefix)


@oban.command()
@click.option("--yes", is_flag=True, help="Do not ask.")
@of_app
def uninstall(found: Oban, yes: bool) -> None:
    """Remove what was installed, with all jobs.

    A jobs table that Oban or oban-py made before stays, with its jobs.
    """
    schema.uninstall_in(found.conninfo, found.prefix, yes=yes)


@oban.command()
@pass_script_info
@click.pass_context
@told_plainly
def status(context: click.Context, info: ScriptInfo, /) -> None:
    """Show where the jobs are, how many in which state, and which nodes run their queues.

    Exits with 1 when the database cannot be asked.
    """
    app = info.load_app()
    found = _oban_of(app, info.app_import_path)

    for line in _head(app, found):
        click.echo(line)

    try:
        for line in _status(found):
            click.echo(line)
    except (DatabaseUnavailableError, SchemaError) as error:
        click.echo(f"  trouble   {error}")
        context.exit(1)


@oban.command()
@examination.report_options
@pass_script_info
@click.pass_context
@told_plainly
def doctor(
    context: click.Context, info: ScriptInfo, /, processes: int, as_json: bool, strict: bool
) -> None:
    """Look for what is wrong, or will be: with the database, its tables, connections and queues.

    Tells besides where the queues of this application would start. Nothing is changed. Exits with
    1 when a check failed, and with --strict when one warns.
    """
    app = info.load_app()

    def ask() -> Report:
        found = _oban_of(app, info.app_import_path)
        settings = settings_of(app)

        return examination.examine(
            found.config,
            found.conninfo,
            web=True,
            autostart=None if settings is None else settings.autostart,
            processes=processes,
        )

    context.exit(examination.reported(ask, as_json=as_json, strict=strict))


def _of_app(verb: Verb) -> Callable[..., Any]:
    """Give a command an Oban of the application's, with connections of its own."""

    @pass_script_info
    @told_plainly
    @wraps(verb)
    def called(info: ScriptInfo, /, **given: Any) -> None:
        found = _oban_of(info.load_app(), info.app_import_path)

        with looking(found.conninfo, found.prefix, found.name) as look:
            verb(look, **given)

    own_options(called, verb)

    return called


for _command in verbs.commands(_of_app):
    oban.add_command(_command)


def _head(app: Flask, found: Oban) -> Iterator[str]:
    settings = settings_of(app)
    queues = ", ".join(f"{queue.name}:{queue.limit}" for queue in found.config.queues)

    yield f"Oban {found.name} of {app.name}"
    yield f"  database  {mask(found.conninfo)}"
    yield f"  schema    {found.prefix}"
    yield f"  queues    {queues or 'none; this application only enqueues'}"

    if settings is not None:
        yield f"  autostart {_AUTOSTART[settings.autostart]}"


def _status(found: Oban) -> Iterator[str]:
    yield f"  version   {tables.verify(found.conninfo, prefix=found.prefix)}"

    with looking(found.conninfo, found.prefix, found.name) as look:
        counts = look.count_jobs()
        nodes = look.list_nodes()

    yield "Jobs"
    yield from (f"  {state!s:10}{count:>10,}" for state, count in counts.items())

    # What died is taken away by those that live.
    ages = [(clock.utc_now() - node.beat_at).total_seconds() for node in nodes]
    most = found.config.refresher.max_age

    yield "Nodes" if any(age <= most for age in ages) else "No living node runs any queue."

    for node, age in zip(nodes, ages, strict=True):
        running = ", ".join(f"{queue.queue}:{queue.limit}" for queue in node.queues) or "no queues"
        leads = ", leads" if node.leader else ""
        state = f"{running}{leads}" if age <= most else f"dead: silent for {age:,.0f} s"

        yield f"  {node.node}  {node.uuid[:8]}  {state}"
