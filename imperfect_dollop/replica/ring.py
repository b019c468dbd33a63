"""The events that a node has sent last, to be sent again to whoever has missed them."""

from __future__ import annotations

from collections import deque
from typing import Final

from .buffer import size
from .messages import Events

__all__ = ["Ring"]

RING_EVENTS: Final = 20_000
RING_BYTES: Final = 8 << 20
"""Bounds of what one repository keeps: some seconds of the fastest writing, and hours of an ordinary day's. A sibling
that was away for longer compares copies, which costs no more than what differs."""


class Ring:
    """The last batches that the broker has taken, in the order of their numbers; the oldest go first."""

    __slots__ = ("_batches", "_bytes", "_count")

    def __init__(self) -> None:
        self._batches: deque[Events] = deque()
        self._bytes = 0
        self._count = 0

    def add(self, events: Events) -> None:
        """Keep a batch. One that does not follow on what is kept begins anew: in between something was given up."""
        if self._batches and _end(self._batches[-1]) != events.first:
            self.clear()
        self._batches.append(events)
        self._count += len(events.events)
        self._bytes += size(events)
        while len(self._batches) > 1 and (self._count > RING_EVENTS or self._bytes > RING_BYTES):
            oldest = self._batches.popleft()
            self._count -= len(oldest.events)
            self._bytes -= size(oldest)

    def kept(self, sequence: int) -> int:
        """The first number from which on nothing is missing up to `sequence`, the last that was given out."""
        return self._batches[0].first if self._batches else sequence + 1

    def between(self, first: int, last: int) -> list[Events]:
        """The batches that have events with these numbers."""
        return [one for one in self._batches if one.first <= last and _end(one) > first]

    def clear(self) -> None:
        """Keep nothing."""
        self._batches.clear()
        self._bytes = self._count = 0


def _end(events: Events) -> int:
    return events.first + len(events.events)
