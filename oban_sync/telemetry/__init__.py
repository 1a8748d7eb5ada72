"""What happens inside, as events that applications can follow."""

from oban_sync.telemetry import log
from oban_sync.telemetry.bus import attach, detach, emit, listened, span

__all__ = ["attach", "detach", "emit", "listened", "log", "span"]
