"""The line of an error's text that says what went wrong."""

from __future__ import annotations

import re

#: How a traceback begins ...
_TRACEBACK = "Traceback (most recent call last):"

#: ... and what stands, with an empty line, before one that came of the one above it.
_LINKS = (
    "The above exception was the direct cause of the following exception:",
    "During handling of the above exception, another exception occurred:",
)

#: How lines begin behind which the library tells what else went wrong.
ADDED = ("And its policy failed", "And backoff(job) failed", "And its backoff or policy")

#: A line of a group of exceptions, that is none of its frames.
_OF_A_GROUP = re.compile(r"\s*\| (?=\S)(?!Traceback |Exception Group Traceback )")


def cause_of(text: str) -> str:
    """What went wrong, as ``ValueError: no such address``; nothing where the text is empty.

    Args:
        text: As it is stored: the traceback of an exception, with notes and with what the library
            added to it, or any other text, whose first line is taken.
    """
    lines = _without_additions([line for line in text.splitlines() if line.strip()])

    if not lines:
        return ""

    if lines[0].strip().startswith("+ Exception Group Traceback"):
        return next((_OF_A_GROUP.sub("", line) for line in lines if _OF_A_GROUP.match(line)), "")

    if not lines[0].startswith(_TRACEBACK):
        return lines[0].strip()

    # The line of the error is the first one behind the frames, which are indented: a message of
    # several lines, notes and the like follow it.
    begin = max((at for at in range(1, len(lines)) if lines[at - 1] in _LINKS), default=0)
    after = (line for line in lines[begin + 1 :] if not line[0].isspace())

    return next(after, lines[0]).strip()


def _without_additions(lines: list[str]) -> list[str]:
    # Not the first one, which may be an error that is worded alike.
    ends = (at for at, line in enumerate(lines) if at and line.startswith(ADDED))

    return lines[: next(ends, len(lines))]
