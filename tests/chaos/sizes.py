"""How long a scenario takes: a short form for every run of the tests, and the promises in full."""

from __future__ import annotations

import os
import secrets
from types import SimpleNamespace
from typing import Any

import pytest

from tests.chaos.cluster import FAST, USUAL

#: Repeats what a run left to chance. One for all of xdist's workers. Read here, because the tests
#: run without variables of ours.
SEED = (
    os.environ.get("OBAN_SYNC_CHAOS_SEED")
    or os.environ.get("PYTEST_XDIST_TESTRUNUID", "")[:8]
    or secrets.token_hex(4)
)

#: Instead of the number of repeats that the full scenarios have.
REPEATS = os.environ.get("OBAN_SYNC_CHAOS_REPEATS")

#: Whether root may install what is missing: on machines that are there for the tests.
MAY_INSTALL = bool(os.environ.get("CI") or os.environ.get("OBAN_SYNC_CHAOS_INSTALL"))


def sized(*, smoke: dict[str, Any], full: dict[str, Any], timeout: float = 900.0) -> Any:
    """Run a scenario in two sizes, told to it as ``size``; the full one only when it is asked for.

    Args:
        smoke: Numbers of the short form, which has the short leases.
        full: Numbers of the full one, which has the default ones.
        timeout: Seconds for the full one.
    """
    if REPEATS and "repeats" in full:
        full = {**full, "repeats": int(REPEATS)}

    short = SimpleNamespace(pace=FAST, full=False, **smoke)
    long = SimpleNamespace(**{"pace": USUAL, "full": True, **full})
    marks = [pytest.mark.chaos, pytest.mark.timeout(timeout)]

    return pytest.mark.parametrize(
        "size",
        [
            pytest.param(short, id="smoke", marks=pytest.mark.timeout(180)),
            pytest.param(long, id="full", marks=marks),
        ],
    )
