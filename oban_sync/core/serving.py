"""Whether an application's queues run in a process that serves its requests, and when.

Threads started in the wrong process are lost at a fork, or run twice under a reloader. So it is
decided from what is known of the process, and the reason is a sentence that can be shown.
"""

from __future__ import annotations

from dataclasses import dataclass

#: What a decision may say of the moment.
AT_ONCE = "at once"
AT_FIRST_REQUEST = "at the first request"
AFTER_FORK = "after the fork"
NEVER = "never"

#: What to add, where uWSGI gives no threads.
NO_THREADS = "add enable-threads = true to its configuration, or --enable-threads to its command"


@dataclass(frozen=True, slots=True)
class Facts:
    """What is known of a process.

    Attributes:
        server: What serves requests here, as people call it; empty where nothing is known to.
        serving: It is serving a request of a server at this very moment.
        asked: A hook of the server said that this is one of its workers.
        forks: This process loads the application and forks those that serve it; a hook tells them.
        per_request: The process, or a copy of it, ends with each request.
        threads: Threads run besides those of requests.
        green: What has made threads take turns on one, gevent or eventlet.
        shared: The web server starts and ends this process as it likes, as Apache its children.
        reloader_parent: This process only watches files, for another one that serves.
        command: The command that runs here, where one does.
        child: This is a child of a process queue.
    """

    server: str = ""
    serving: bool = False
    asked: bool = False
    forks: bool = False
    per_request: bool = False
    threads: bool = True
    green: str = ""
    shared: bool = False
    reloader_parent: bool = False
    command: str = ""
    child: bool = False


@dataclass(frozen=True, slots=True)
class Decision:
    """What becomes of the queues in a process.

    Attributes:
        start: Whether they are started here.
        server: What serves here.
        when: One of at once, at the first request, after the fork, never.
        reason: Why, in a sentence.
        trouble: The queues should run here, and cannot.
    """

    start: bool
    server: str
    when: str
    reason: str
    trouble: bool = False

    @property
    def effect(self) -> str:
        """What becomes of them, in words."""
        return f"queues start {self.when}" if self.start else "queues do not start"

    def __str__(self) -> str:
        where = f" under {self.server}" if self.server else ""

        return f"{self.effect}{where}: {self.reason}"


def decided(facts: Facts, *, autostart: bool | None, queues: bool, testing: bool) -> Decision:
    """Whether queues start by themselves in a process, and when.

    Args:
        facts: What is known of it.
        autostart: True starts them where it is doubtful too; False nowhere; None where it is
            certain to be right.
        queues: Whether any are configured.
        testing: The application is under test.
    """
    refusal = _refusal(facts, autostart=autostart, queues=queues, testing=testing)

    if refusal is not None:
        reason, trouble = refusal

        return Decision(False, facts.server, NEVER, reason, trouble)

    if facts.asked:
        return Decision(True, facts.server, AT_ONCE, f"this is a worker of {facts.server}")

    if facts.serving:
        return Decision(True, facts.server, AT_ONCE, "this process has a request to serve")

    if facts.forks:
        return Decision(
            True,
            facts.server,
            AFTER_FORK,
            "this process loads the application, and those it forks serve it",
        )

    return Decision(
        True,
        facts.server,
        AT_FIRST_REQUEST,
        "only a process that is asked for something is certain to serve",
    )


def _refusal(
    facts: Facts, *, autostart: bool | None, queues: bool, testing: bool
) -> tuple[str, bool] | None:
    """Why they never start, and whether somebody has to do something about it."""
    certain = facts.serving or facts.asked

    if autostart is False:
        return "OBAN_AUTOSTART is off; start() starts them, or a process of their own", False

    if not queues:
        return "no queues are configured; jobs are only enqueued here", False

    if testing:
        return "the application is under test", False

    if facts.child:
        return "this is a child of a process queue, whose parent runs the queues", False

    if facts.reloader_parent:
        return "this process only watches files for the reloader; its child serves", False

    if facts.command and not certain:
        return f"`{facts.command}` is a command, and serves no requests", False

    if not facts.threads:
        return f"{facts.server or 'the server'} runs no threads here; {NO_THREADS}", True

    if facts.per_request:
        return "the process ends with the request; let the queues have one of their own", True

    if autostart is None and facts.green:
        return (
            f"{facts.green} has made all threads one, which any job may hold up; let the queues "
            "have a process of their own, or set OBAN_AUTOSTART to true",
            True,
        )

    if autostart is None and facts.shared:
        return (
            f"{facts.server} ends this process as it likes; use its daemon mode, let the queues "
            "have a process of their own, or set OBAN_AUTOSTART to true",
            True,
        )

    return None
