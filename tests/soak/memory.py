"""How much memory a process has, and whether that grows."""

from __future__ import annotations

import itertools
import os
import statistics
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

SAMPLE_EVERY: Final = 5.0
"""Seconds."""

WARM_UP: Final = 60.0
"""Seconds until a process has imported, loaded, cached its statements and been through a first few faults."""

ENOUGH: Final = 120.0
"""Seconds of samples after which a process can be judged; one that is younger is only reported."""

NOISE: Final = 8 * 1024
"""KiB by which the trend may let a process grow within its samples, beyond what it keeps by design. The rows are of a
fixed number and size, some 200 KB of them, so nothing may grow that is not bounded; what moves is the allocators' own,
of whose arenas one has 1 MiB. A leak of 200 bytes an event, of some 60 a second, would be there within a soak of 12
minutes."""

PEAK: Final = 32 * 1024
"""KiB by which a process may exceed its first sample. An outage of the database leaves a step of up to 12 MiB, seen at
the same moment on all nodes, after which memory is level for minutes: dozens of calls fail at once, and what the
allocators needed for that they keep. Twice that, and what an outbox may hold."""

PAGE: Final = os.sysconf("SC_PAGE_SIZE") // 1024


def resident(pid: int) -> int | None:
    """KiB of memory that a process has now; ``None`` if it is gone."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(pages) * PAGE or None  # a zombie has none


@dataclass
class Memory:
    """Samples of one process, of which there are as many as its life is long."""

    ages: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    keeps: list[int] = field(default_factory=list)
    highest: int = 0
    kept: int = 0
    """KiB that it keeps by design, and within bounds, as far as it has said: they take hours to be reached."""

    def add(self, age: float, size: int) -> None:
        """A sample `age` seconds after the start."""
        self.highest = max(self.highest, size)
        if age >= WARM_UP or not self.sizes:
            if self.ages and self.ages[0] < WARM_UP <= age:
                self.ages.clear()  # that was for those who do not live so long
                self.sizes.clear()
                self.keeps.clear()
            self.ages.append(age)
            self.sizes.append(size)
            self.keeps.append(self.kept)

    @property
    def first(self) -> int:
        """After the warm-up, or the first at all."""
        return self.sizes[0] if self.sizes else 0

    @property
    def last(self) -> int:
        return self.sizes[-1] if self.sizes else 0

    @property
    def slope(self) -> float | None:
        """KiB a minute beyond what is kept by design; ``None`` for a life that was too short.

        The median of the slopes between any two samples (Theil 1950, Sen 1968), which a step does not move, as
        least squares would be moved.
        """
        if not self._enough:
            return None
        rest = (size - kept for size, kept in zip(self.sizes, self.keeps, strict=True))
        samples = list(zip(self.ages, rest, strict=True))
        pairs = itertools.combinations(samples, 2)
        return statistics.median((b - a) / (later - age) for (age, a), (later, b) in pairs) * 60

    @property
    def growth(self) -> float:
        """KiB within the samples, by that slope; 0 for a life that was too short."""
        slope = self.slope
        return 0.0 if slope is None else slope * (self.ages[-1] - self.ages[0]) / 60

    @property
    def _enough(self) -> bool:
        return len(self.sizes) >= 3 and self.ages[-1] - self.ages[0] >= ENOUGH

    def fault(self) -> str | None:
        """What is wrong with it."""
        if self._enough and self.highest - self.first > PEAK:
            return f"had {(self.highest - self.first) / 1024:.1f} MiB more than after the warm-up"
        if self.growth <= NOISE:
            return None
        return (
            f"grew by {self.growth / 1024:.1f} MiB within {self.ages[-1] - self.ages[0]:.0f} s"
            f" after the warm-up, {self.slope:.0f} KiB a minute, beyond what it keeps to be sent again and of answered"
            f" doubts; {NOISE / 1024:.0f} MiB are noise"
        )
