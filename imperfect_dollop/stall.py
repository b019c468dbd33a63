"""Notices that the event loop was blocked, so that what follows from that is not taken for a fault of the broker."""

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
"""By which a look has to be late before the loop counts as blocked: garbage collection takes less."""

AFTERMATH_SECONDS: Final = 2.0
"""For which what goes wrong after the loop was blocked is put down to that."""


class StallWatch:
    """Of one event loop, for one node."""

    def __init__(self, label: str) -> None:
        self._label = label
        self._due = float("inf")  # when to look next
        self._ended = float("-inf")  # when the loop was blocked last
        self._blocked = 0.0

    async def run(self) -> None:
        """Look at the clock, again and again; never returns."""
        while True:
            self._due = monotonic() + LOOK_SECONDS
            await anyio.sleep(LOOK_SECONDS)
            self._note()

    def blocked(self) -> float:
        """Seconds for which the loop was blocked until just now; 0 if it was not."""
        self._note()
        return self._blocked if monotonic() - self._ended < AFTERMATH_SECONDS else 0.0

    def _note(self) -> None:
        """Say that the loop was blocked, if it was."""
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
