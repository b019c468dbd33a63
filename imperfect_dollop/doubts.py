"""Keys that wait to be read again: each once, in order, and those that a sibling may settle a moment later."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from typing import Final, Generic, TypeVar

from .clock import monotonic

__all__ = ["LEAD_SECONDS", "REREAD_BATCH", "Doubts"]

K = TypeVar("K")

REREAD_BATCH: Final = 200
"""Keys read again in one call of the source."""

LEAD_SECONDS: Final = 0.05
"""The longest wait for somebody else's read. Each of N nodes draws its own, so the first of them reads after 50 ms / (N
+ 1), and has as long again to tell the others before the next one reads: time for a read of one row and a message, with
ten nodes. Longer would be seen by readers of a row that is in doubt."""


class Doubts(Generic[K]):
    """A queue. Keys that are being read are left alone until that has come to an end."""

    def __init__(self) -> None:
        self._urgent: dict[K, None] = {}
        self._waiting: dict[K, None] = {}
        self._until = 0.0  # monotonic, for how long these wait
        self._reading: Counter[K] = Counter()

    def __len__(self) -> int:
        return len(self._urgent) + len(self._waiting)

    def __contains__(self, key: object) -> bool:
        return key in self._urgent or key in self._waiting

    def add(self, key: K, *, wait: bool = False) -> None:
        """Read this key again; with `wait`, unless somebody else has done so in a moment."""
        if not wait:
            self._waiting.pop(key, None)
            self._urgent[key] = None
        elif key not in self:
            if not self._waiting:  # one moment for all that come while it lasts
                self._until = monotonic() + LEAD_SECONDS * random.random()
            self._waiting[key] = None

    def discard(self, key: K) -> None:
        """It was read, or need not be any more."""
        self._urgent.pop(key, None)
        self._waiting.pop(key, None)

    def postpone(self, keys: Iterable[K]) -> None:
        """Those of these that wait go behind all others, which may do better."""
        for key in keys:
            if key in self._urgent:
                self._urgent[key] = self._urgent.pop(key)

    def clear(self) -> None:
        """None is in doubt."""
        self._urgent.clear()
        self._waiting.clear()

    @property
    def due(self) -> float | None:
        """Seconds until there is something to read; ``None`` for never."""
        if self._ready():
            return 0.0
        return max(0.0, self._until - monotonic()) if self._waiting else None

    def batch(self) -> list[K]:
        """The keys to read next."""
        return self._ready(REREAD_BATCH)

    def _ready(self, count: int = 1) -> list[K]:
        if self._waiting and monotonic() >= self._until:
            self._urgent.update(self._waiting)
            self._waiting.clear()
        return list(islice((key for key in self._urgent if key not in self._reading), count))

    @contextmanager
    def reading(self, keys: Iterable[K]) -> Iterator[None]:
        """These keys are being read while the block runs."""
        self._reading.update(keys)
        try:
            yield
        finally:
            self._reading.subtract(keys)
            for key in keys:
                if not self._reading[key]:
                    del self._reading[key]
