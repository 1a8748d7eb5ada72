"""What was found a moment ago is good enough, but not for who has just changed it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from oban_sync.web.site import KEPT, here, visit


def lately(what: str, look: Callable[[], Any], seconds: float = KEPT) -> Any:
    """As `Site.kept`; whoever comes from an action gets what there is now.

    A page that does not refresh itself would go on showing what was before.
    """
    return here().kept(what, look, seconds if visit().said is None else 0.0)
