"""How measurements become figures, and what the machine is that they were taken on."""

from __future__ import annotations

import math
import os
import platform
import statistics
from collections import defaultdict
from collections.abc import Sequence
from typing import NamedTuple

__all__ = ["Mistake", "Ratio", "Rounds", "Skipped", "machine", "percentile"]


class Mistake(Exception):  # noqa: N818 - not an error of the program's
    """A result was wrong, or there is none: there is nothing that a figure could be about."""


class Skipped(Exception):  # noqa: N818 - nor is this
    """What is needed for a figure is not on this machine. The message says what."""


class Ratio(NamedTuple):
    """Of one side to another: of their medians, and of single rounds, which says how noisy the run was."""

    median: float
    lowest: float
    highest: float

    def __str__(self) -> str:
        return f"{_short(self.median)} ({_short(self.lowest)} to {_short(self.highest)})"

    def figures(self, name: str) -> dict[str, float]:
        """As in the JSON."""
        return {
            name: _rounded(self.median),
            f"{name}_lowest": _rounded(self.lowest),
            f"{name}_highest": _rounded(self.highest),
        }


class Rounds:
    """One number a round for each side, in rounds in which the sides took turns."""

    def __init__(self) -> None:
        self._of: defaultdict[str, list[float]] = defaultdict(list)

    def add(self, side: str, number: float) -> None:
        """What a round of a side has come to."""
        self._of[side].append(number)

    def median(self, side: str) -> float:
        """Of all rounds of a side."""
        return statistics.median(self._of[side])

    def least(self, sides: Sequence[str]) -> str:
        """The side with the smallest median."""
        return min(sides, key=self.median)

    def ratio(self, side: str, other: str) -> Ratio:
        """How many times the other's number a side's is."""
        each = [a / b for a, b in zip(self._of[side], self._of[other], strict=True)]
        return Ratio(self.median(side) / self.median(other), min(each), max(each))


def percentile(samples: Sequence[float], percent: float) -> float:
    """The smallest sample that at least `percent` of all are not above."""
    ordered = sorted(samples)
    return ordered[max(0, math.ceil(len(ordered) * percent / 100) - 1)]


def machine() -> dict[str, object]:
    """Whatever the figures depend on that the benchmark has not chosen."""
    load = os.getloadavg() if hasattr(os, "getloadavg") else (0.0,)
    return {
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "load": round(load[0], 2),
    }


def _rounded(number: float) -> float:
    """To three digits, or to a whole number where that has more."""
    return float(f"{number:.3g}") if number < 100 else round(number)


def _short(number: float) -> str:
    return f"{_rounded(number):,g}"
