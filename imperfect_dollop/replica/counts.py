"""What a replica counts: plain numbers, which cost next to nothing, for whoever looks at them now and then."""

from __future__ import annotations

import dataclasses
from bisect import bisect_left
from collections import Counter
from typing import Final

__all__ = ["EVENT_REASONS", "MESSAGE_REASONS", "PROPAGATION_BOUNDS", "Counts", "Histogram"]

PROPAGATION_BOUNDS: Final = (
    *(0.000_25, 0.000_5, 0.001, 0.002_5, 0.005),
    *(0.01, 0.025, 0.05, 0.1, 0.25, 0.5),
    *(1.0, 2.5, 5.0, 10.0),
)
"""Seconds: from below what a broker on the same host takes to above what a node is away for unnoticed."""


MESSAGE_REASONS: Final = ("malformed", "oversized", "unsigned", "forged", "stale", "signed")
"""Why a message is rejected as a whole: it is none; it is too large; this node has a secret, and it has no signature, a
wrong one, or was heard before; it has a signature, and this node no secret."""

EVENT_REASONS: Final = ("schema", "identity", "clock", "numbers", "key", "malformed")
"""Why events are rejected: of another shape; of another source; too far in the future; with numbers, or a key, that
cannot be; else."""


@dataclasses.dataclass(slots=True)
class Histogram:
    """How many observations there were up to each of the `bounds`, and in all."""

    bounds: tuple[float, ...]
    """Upper bounds, inclusive and ascending; above the last there is one more count."""
    counts: list[int] = dataclasses.field(default_factory=list[int])
    """Of the observations above the bound before and up to this one: not cumulative."""
    total: float = 0.0
    """The sum of all observations."""

    def __post_init__(self) -> None:
        if not self.counts:
            self.counts = [0] * (len(self.bounds) + 1)

    def observe(self, value: float) -> None:
        """Count one."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.total += value

    def copy(self) -> Histogram:
        """As of now."""
        return Histogram(self.bounds, list(self.counts), self.total)


class Counts:
    """What happened to events, since the replica was made."""

    __slots__ = (
        "applied",
        "doubts",
        "duplicates",
        "gaps",
        "ignored",
        "mended",
        "propagation",
        "rejections",
        "shared",
    )

    def __init__(self) -> None:
        self.applied: int = 0
        self.ignored: int = 0
        self.duplicates: int = 0
        self.doubts: int = 0
        self.gaps: int = 0
        self.mended: int = 0
        self.shared: int = 0
        self.rejections: Counter[str] = Counter(dict.fromkeys(EVENT_REASONS, 0))
        self.propagation: Histogram = Histogram(PROPAGATION_BOUNDS)
