"""Notices that the event loop was blocked, so that the consequences are not reported as faults of the broker."""

from __future__ import annotations

import logging
from typing import Final

import anyio

from .clock import monotonic

__all__ = ["StallWatch"]

logger: Final = logging.getLogger(__name__)

LOOK_SECONDS: Final = 0.5
"""Between two looks at the clock."""

STALL_SECONDS: Final = 1.0
"""Delay of a look at the clock from which on the loop counts as blocked. Garbage collection takes less."""

AFTERMATH_SECONDS: Final = 2.0
"""Time after a stall in which a lost link counts as a consequence of the stall."""


class StallWatch:
    """Watches the event loop of one node; `label` names the node in the log."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._due = float("inf")  # when to look next
        self._ended = float("-inf")  # when the loop was blocked last
        self._blocked = 0.0

    async def run(self) -> None:
        """Look at the clock every `LOOK_SECONDS`; never returns."""
        while True:
            self._due = monotonic() + LOOK_SECONDS
            await anyio.sleep(LOOK_SECONDS)
            self._note()

    def blocked(self) -> float:
        """Return the seconds of a stall that has just ended, else 0."""
        self._note()
        return self._blocked if monotonic() - self._ended < AFTERMATH_SECONDS else 0.0

    def _note(self) -> None:
        """Log a stall if this look at the clock is late."""
        now = monotonic()
        late = now - self._due
        if late < STALL_SECONDS:
            return
        self._due, self._ended, self._blocked = now, now, late
        logger.warning(
            "%s: the event loop was blocked for %.1f s: nothing was sent or received meanwhile, and siblings and the"
            " broker may take this node for gone. Some code called a function that blocks: run such a function by"
            " asyncio.to_thread()",
            self._label,
            late,
        )
