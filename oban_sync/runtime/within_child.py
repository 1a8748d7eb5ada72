"""Whether this process is a child of a process queue, where nothing is to be started."""

from __future__ import annotations

import sys
from collections.abc import Iterable

from oban_sync.core.config import QueueConfig
from oban_sync.core.errors import NotRunningError

#: How the names of child processes begin.
NAME = "oban-child-"


def refuse_within_child(queues: Iterable[QueueConfig]) -> None:
    """To be asked before queues are started; a client without any may start anywhere.

    Raises:
        NotRunningError: This is a child of a process queue, which imports the module that starts
            Oban; or it is on the way to become one.
    """
    queues = tuple(queues)
    # A process that never imported this was not started by it. The package is not imported here:
    # without process queues nothing needs it.
    known = sys.modules.get("multiprocessing.process")

    if known is None:
        return

    process = known.current_process()
    # While it imports the main module, what is to become a child or the fork server carries this
    # mark, and can start no processes.
    starting = getattr(process, "_inheriting", False)
    wants_children = any(queue.executor.kind == "process" for queue in queues)

    if (queues and process.name.startswith(NAME)) or (starting and wants_children):
        raise NotRunningError(
            "a child process of a process queue imported a module that starts Oban; let the start "
            'stand under if __name__ == "__main__": in the script, or in a function that importing '
            "does not call"
        )
