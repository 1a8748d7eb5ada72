"""What became of a job, or what it has to wait for in any case: each looks whether it is so.

None stands for what is not so. `core.explanation` has them in the order in which they count.
"""

from __future__ import annotations

from oban_sync.core.causes import cause_of
from oban_sync.core.errors import shown
from oban_sync.core.situation import Situation, is_silent
from oban_sync.core.spans import at, counted, lasting, listed, read
from oban_sync.core.state import JobState

#: Seconds after which a job is given back whose owner is not known, where no node says.
RESCUE_AFTER = 300.0

#: Characters of an error that are quoted.
MOST_QUOTED = 200

#: Seconds by which an error may be older than the cancelling that it was the reason of.
SAME_TIME = 1.0


def completed(case: Situation) -> str | None:
    """It is done."""
    if case.state is not JobState.COMPLETED:
        return None

    return f"It completed{_when(case, 'completed_at')}, in attempt {case.job['attempt']:,}."


def cancelled(case: Situation) -> str | None:
    """It was cancelled."""
    if case.state is not JobState.CANCELLED:
        return None

    by = case.job["cancel_requested_by"]
    when, failed_at = case.moment("cancelled_at"), read(case.job["error_at"])
    # One that failed before, and was cancelled by hand, was not cancelled for that.
    is_older = (
        when is not None
        and failed_at is not None
        and ((when - failed_at).total_seconds() > SAME_TIME)
    )
    why = "" if is_older else _why(case)

    return f"It was cancelled{_when(case, 'cancelled_at')}{f', by {by}' if by else ''}{why}."


def discarded(case: Situation) -> str | None:
    """It was given up."""
    if case.state is not JobState.DISCARDED:
        return None

    attempt, most = case.job["attempt"], case.job["max_attempts"]
    runs = f"in attempt {attempt:,} of {most:,}"

    return f"It was given up{_when(case, 'discarded_at')}, {runs}{_why(case)}."


def silent(case: Situation) -> str | None:
    """It is executing, and who runs it is not heard of."""
    if case.state is not JobState.EXECUTING:
        return None

    owner = case.facts["owner"]

    if owner is None:
        began = case.moment("attempted_at")
        after = case.facts["rescue_after"] or RESCUE_AFTER
        left = after - (case.since(began) if began is not None else 0.0)

        return (
            f"It was started by {_place(case)}, of which nothing is known: it is gone, or one of "
            f"another Oban, or a drain runs it. {_rescue(case, left)}"
        )

    age = float(owner["beat_age"])
    is_cut_off = owner["locked"] is False

    if not is_silent(age, owner["beat"]) and not is_cut_off:
        return None

    session = " and its session has ended" if is_cut_off else ""

    return (
        f"It was started by {_place(case)}, which has not been heard of for {lasting(age)}"
        f"{session}. {_rescue(case, float(owner['patience']) - age)}"
    )


def _rescue(case: Situation, left: float) -> str:
    owner = case.facts["owner"]

    if case.facts["alive"] - (1 if owner is not None and owner["lives"] else 0) <= 0:
        return "No other node is there to give it back: start one."

    if left <= 0:
        return "It is given back any moment."

    return f"It is given back in about {lasting(left)}, unless the node is heard of again."


def stopping(case: Situation) -> str | None:
    """It runs, and was asked to stop."""
    if case.state is not JobState.EXECUTING or not case.job["unwanted"]:
        return None

    by = case.job["cancel_requested_by"]
    asked = case.ago(case.moment("cancel_requested_at")) + (f" by {by}" if by else "")

    return f"It was asked to stop{asked}, and still runs on {_place(case)}."


def executing(case: Situation) -> str | None:
    """It runs."""
    if case.state is not JobState.EXECUTING:
        return None

    began = case.moment("attempted_at")
    since = (
        "" if began is None else f" since {at(began, case.now)}, for {lasting(case.since(began))}"
    )

    return f"It runs on {_place(case)}{since}."


def deadline(case: Situation) -> str | None:
    """It is of no use any more."""
    moment = case.moment("deadline_at")

    if not case.waits or moment is None or moment > case.now:
        return None

    return (
        f"Its deadline passed{case.ago(moment)}, at {at(moment, case.now)}: it is cancelled "
        "when a node takes it, and does not run."
    )


def exhausted(case: Situation) -> str | None:
    """It may not be started once more."""
    attempt, most = case.job["attempt"], case.job["max_attempts"]

    if not case.waits or attempt < most:
        return None

    return (
        f"All of its {counted(most, 'attempt')} are used up, so that no node takes it; retry it to "
        "give it another one."
    )


def suspended(case: Situation) -> str | None:
    """It waits for other jobs."""
    if case.state is not JobState.SUSPENDED:
        return None

    steps = [str(step) for step in case.job["deps"] or []]
    workflow = case.job["workflow"]

    if steps:
        of = f" of workflow {shown(workflow)}" if workflow else ""

        return f"It is suspended, and waits for {listed(map(shown, steps))}{of}."

    if workflow:
        return f"It is suspended, and waits for other jobs of workflow {shown(workflow)}."

    return "It is suspended, until whoever suspended it lets it go on, or it is retried."


def quarantined(case: Situation) -> str | None:
    """It is suspected of killing processes."""
    moment = case.moment("scheduled_at")
    deaths = case.job["deaths"]

    if (
        case.state is not JobState.SCHEDULED
        or case.is_due
        or moment is None
        or deaths < case.facts["suspect_at"]
    ):
        return None

    return (
        f"{deaths} processes died while it ran, so it is suspected to be the cause, and started "
        f"apart from other suspects: {case.coming(moment)}."
    )


def scheduled(case: Situation) -> str | None:
    """Its time is to come."""
    if case.state is not JobState.SCHEDULED or case.is_due or quarantined(case) is not None:
        return None

    moment = case.moment("scheduled_at")

    if moment is None:
        return "It is scheduled for a time that never comes; retry it to start it now."

    return f"It is scheduled to start {case.coming(moment)}."


def retryable(case: Situation) -> str | None:
    """It failed, and its next attempt is to come."""
    if case.state is not JobState.RETRYABLE or case.is_due:
        return None

    moment = case.moment("scheduled_at")
    attempt, most = case.job["attempt"], case.job["max_attempts"]
    failed = f"It failed{case.ago(read(case.job['error_at']))}, in attempt {attempt:,} of {most:,}"

    if moment is None:
        return f"{failed}{_why(case)}. The next one never comes; retry it to start it now."

    return f"{failed}{_why(case)}. The next one starts {case.coming(moment)}."


def _when(case: Situation, field: str) -> str:
    moment = case.moment(field)

    return "" if moment is None else f"{case.ago(moment)}, at {at(moment, case.now)}"


def _why(case: Situation) -> str:
    """``: ValueError: no such address``, of the last error; nothing where there is none."""
    if not (text := cause_of(case.job["error"] or "")):
        return ""

    if len(text) > MOST_QUOTED:
        # Not within a word, if there are words.
        text = (text[:MOST_QUOTED].rpartition(" ")[0] or text[:MOST_QUOTED]) + " …"

    return f": {text}".rstrip(".")


def _place(case: Situation) -> str:
    owner = case.facts["owner"]

    return f"node {shown(case.job['node'] if owner is None else owner['node'])}"
