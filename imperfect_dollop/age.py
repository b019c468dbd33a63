"""How old a whole set is: seconds since the last complete read of the source began, by whichever node.

What is known is a time by some wall clock, and an hour's age must not come of a clock that is set. So it is turned
into a time of the monotonic clock once, when it is heard of.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable

from .clock import monotonic
from .freshness import due_after
from .replica.stamp import seconds

__all__ = ["Age"]


class Age:
    """Of one repository's copy. `on_stale` is called when it grows older than `ttl` seconds (``None``: never)."""

    def __init__(self, ttl: float | None, jitter: float, on_stale: Callable[[], None]) -> None:
        self.ttl = ttl
        self._jitter = jitter
        self._on_stale = on_stale
        self._confirmed = 0  # hybrid time
        self._confirmed_at = 0.0  # monotonic
        self._due_in = self._draw()
        self._timer: asyncio.TimerHandle | None = None
        self.stale: bool = False

    def note(self, confirmed: int) -> bool:
        """The last complete read began at this hybrid time (0: there was none); whether that is news."""
        if confirmed == self._confirmed:
            return False
        self._confirmed = confirmed
        elapsed = max(0.0, time.time() - seconds(confirmed))
        self._confirmed_at = monotonic() - elapsed
        self._due_in = self._draw()
        self.close()
        self.stale = False
        if self.ttl is not None and confirmed:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(self.ttl - elapsed, self._grown_stale)
        return True

    @property
    def seconds(self) -> float | None:
        """The age; ``None`` before the first complete read."""
        if self._confirmed == 0:
            return None
        return max(0.0, monotonic() - self._confirmed_at)

    def due(self, *, jitter: bool) -> float | None:
        """Seconds until it is to be read again, with or without `jitter` subtracted; ``None`` for never."""
        if self.ttl is None:
            return None
        age = self.seconds
        return 0.0 if age is None else (self._due_in if jitter else self.ttl) - age

    def close(self) -> None:
        """Watch no longer."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _grown_stale(self) -> None:
        self.stale = True
        self._on_stale()

    def _draw(self) -> float:
        return 0.0 if self.ttl is None else due_after(self.ttl, self._jitter, random.random())
