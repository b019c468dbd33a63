"""How samples become figures, and what the machine is that they were taken on."""

from __future__ import annotations

import dataclasses
import math
import os
import platform
import statistics
from collections.abc import Sequence

__all__ = ["Comparison", "Mistake", "machine", "p50", "p99"]


class Mistake(Exception):  # noqa: N818 - not an error of the program's
    """A result was wrong, or there is none: there is nothing that a figure could be about."""


def _percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of all are not above."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Samples of two sides, in rounds that alternated."""

    ours: Sequence[Sequence[float]]
    bare: Sequence[Sequence[float]]

    @property
    def ratio(self) -> float:
        """Ours to the bare driver's: of each the median of the rounds' medians."""
        return p50(self.ours) / p50(self.bare)

    @property
    def ratios(self) -> list[float]:
        """The same of each round by itself: how much it moved."""
        pairs = zip(self.ours, self.bare, strict=True)
        return [statistics.median(ours) / statistics.median(bare) for ours, bare in pairs]


def p50(rounds: Sequence[Sequence[float]]) -> float:
    """The median of the rounds' medians."""
    return statistics.median(map(statistics.median, rounds))


def p99(rounds: Sequence[Sequence[float]]) -> float:
    """Of all samples together: a round alone has too few for it."""
    return _percentile([sample for samples in rounds for sample in samples], 99)


def machine() -> dict[str, object]:
    """Whatever the figures depend on that the benchmark has not chosen."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else (0.0,)
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(load[0], 2),
    }
