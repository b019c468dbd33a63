"""When data is due, and when what has failed is tried again: a source, a broker, a busy sibling. Plain arithmetic."""

from __future__ import annotations

from typing import Final

__all__ = ["Backoff", "due_after"]

LONGEST_PAUSE: Final = 30.0
"""Seconds: a source that is back is noticed within half a minute, however long it was away."""


def due_after(ttl: float, jitter: float, draw: float) -> float:
    """Seconds until data is refreshed: `ttl`, less up to `jitter`; `draw` is uniform in [0, 1).

    Subtracted rather than added, so that nothing is older than `ttl` by design.
    """
    return max(0.0, ttl - jitter * draw)


class Backoff:
    """Pauses between attempts: the first, then doubling up to the longest, each drawn from its upper half.

    Half fixed, half random ("equal jitter", Brooker, "Exponential Backoff and Jitter", 2015): many nodes do not
    return to what failed in step, and none returns at once.
    """

    __slots__ = ("failures", "first", "longest")

    def __init__(self, first: float, longest: float = LONGEST_PAUSE) -> None:
        self.first: float = first
        self.longest: float = max(first, longest)
        self.failures: int = 0

    def failed(self, draw: float) -> float:
        """Seconds to wait after one more failure."""
        pause = min(self.first * 2.0 ** min(self.failures, 16), self.longest)
        self.failures += 1
        return pause * (0.5 + draw / 2)

    def succeeded(self) -> None:
        """Start over."""
        self.failures = 0
