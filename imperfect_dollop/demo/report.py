"""What the demo has seen."""

from __future__ import annotations

import dataclasses
import time
from typing import NamedTuple

__all__ = ["Check", "Report", "Step"]


class Check(NamedTuple):
    """One thing that was looked at."""

    seen: str
    """What was seen, not what was hoped for."""
    held: bool
    seconds: float
    """Since the check before, or the beginning of the step."""


@dataclasses.dataclass(slots=True)
class Step:
    """A step of the demo, from before it begins until after it has ended."""

    title: str
    checks: list[Check] = dataclasses.field(default_factory=list[Check])
    error: Exception | None = None
    """What ended it, if it was not its end."""
    began: float | None = None
    """By `time.perf_counter`, as `ended`."""
    ended: float | None = None
    done: int = 0
    """How far it is, of `total` where that is known."""
    total: int = 0
    _lap: float = 0.0

    def begin(self) -> None:
        """The clock runs."""
        self.began = self._lap = time.perf_counter()

    def check(self, seen: str, held: bool) -> None:
        """Note what was seen since the last check, and whether it is as it should be."""
        now = time.perf_counter()
        self.checks.append(Check(seen, held, now - self._lap))
        self._lap = now

    def end(self, error: Exception | None = None) -> None:
        """The clock stops."""
        self.ended = time.perf_counter()
        self.error = error

    @property
    def seconds(self) -> float:
        """How long it has taken, so far or in all."""
        if self.began is None:
            return 0.0
        return (time.perf_counter() if self.ended is None else self.ended) - self.began

    @property
    def held(self) -> bool:
        """Whether it went to its end, has looked at something, and all was as it should be."""
        return (
            self.ended is not None
            and self.error is None
            and bool(self.checks)
            and all(check.held for check in self.checks)
        )


@dataclasses.dataclass(slots=True)
class Report:
    """All steps, those included that are not reached, and what the library has counted on the way."""

    steps: list[Step]
    seconds: float = 0.0
    counted: dict[str, int] = dataclasses.field(default_factory=dict[str, int])
    """Sums over all nodes, those that were thrown away included; see `imperfect_dollop.Stats`."""

    @property
    def held(self) -> bool:
        """Whether every check of every step held."""
        return all(step.held for step in self.steps)
