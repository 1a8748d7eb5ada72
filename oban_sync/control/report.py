"""What a doctor says."""

from __future__ import annotations

from dataclasses import dataclass

OK = "ok"
WARN = "warn"
FAIL = "fail"


@dataclass(frozen=True, slots=True)
class Check:
    """One thing that was looked at.

    Attributes:
        name: What it is about, in a word or two.
        status: ok, warn or fail.
        text: What was found.
        advice: What to do about it; empty where nothing is to be done.
    """

    name: str
    status: str
    text: str
    advice: str = ""


@dataclass(frozen=True, slots=True)
class Report:
    """All checks, in the order they were made."""

    checks: tuple[Check, ...]

    @property
    def status(self) -> str:
        """The worst of them."""
        found = {check.status for check in self.checks}

        return next(status for status in (FAIL, WARN, OK) if status in found or status == OK)

    def named(self, name: str) -> Check:
        """The check of a name.

        Raises:
            KeyError: It was not made.
        """
        for check in self.checks:
            if check.name == name:
                return check

        raise KeyError(name)
