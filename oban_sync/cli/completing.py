"""What shells complete: names from the database, where it answers at once."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import click
from click.shell_completion import CompletionItem, get_completion_class

from oban_sync import settings
from oban_sync.cli.reach import looking
from oban_sync.control import crons, queues
from oban_sync.oban import Oban

SHELLS = ("bash", "zsh", "fish")

#: Seconds that somebody who pressed a key may wait.
_PATIENCE = 1.0

#: What asks the command for completions; click makes it of the command's name.
_VARIABLE = "_OBAN_SYNC_COMPLETE"


@click.command()
@click.argument("shell", type=click.Choice(SHELLS))
@click.pass_context
def completion(context: click.Context, shell: str) -> None:
    """Print what makes a shell complete commands, options and names of queues.

    For bash: eval "$(oban-sync completion bash)", in ~/.bashrc. For zsh likewise, in ~/.zshrc. For
    fish: oban-sync completion fish | source, in ~/.config/fish/config.fish.
    """
    kind = get_completion_class(shell)
    root = context.find_root().command

    if kind is not None:
        # Not source(), which starts a bash to look at its version.
        made = kind(root, {}, "oban-sync", _VARIABLE)
        click.echo(made.source_template % made.source_vars())


def queue_names(
    context: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Queues that nodes run, or that something was asked of."""
    return _names(context, incomplete, _queues_of)


def worker_names(
    context: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Workers that nodes know."""
    return _names(context, incomplete, _workers_of)


def cron_names(
    context: click.Context, param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    """Cron entries."""
    return _names(context, incomplete, _crons_of)


def _queues_of(oban: Oban) -> set[str]:
    nodes = queues.list_nodes(oban.db.impatient(_PATIENCE))

    return {queue.queue for node in nodes for queue in node.queues}


def _workers_of(oban: Oban) -> set[str]:
    nodes = queues.list_nodes(oban.db.impatient(_PATIENCE))

    return {worker for node in nodes for worker in node.workers or ()}


def _crons_of(oban: Oban) -> set[str]:
    return {cron.name for cron in crons.list_crons(oban.db.impatient(_PATIENCE), oban.name)}


def _names(
    context: click.Context, incomplete: str, find: Callable[[Oban], Iterable[str]]
) -> list[CompletionItem]:
    given = context.params

    try:
        # An application is not loaded for it: that may take long, and do anything.
        config = settings.resolve({key: given.get(key) for key in ("prefix", "name")})
        conninfo = given.get("dsn") or config.conninfo

        with looking(conninfo, config.prefix, config.name) as oban:
            names = find(oban)
    except Exception:
        # Whatever it is, somebody only pressed a key.
        return []

    return [CompletionItem(name) for name in sorted(names) if name.startswith(incomplete)]
