"""Events that a cold replica keeps until the rows that they refer to are there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

from .messages import MAX_ORIGINS, Events

__all__ = ["Buffer", "size", "split"]

MAX_BUFFERED: Final = 64 << 20
"""Bytes of events kept while cold. More, and the replica starts by resyncing."""

EVENT_BYTES: Final = 500
"""What an event takes beyond its content and key, roughly."""

STAMP_BYTES: Final = 150
"""What each stamp that it answers takes beyond its origin."""


def size(events: Events) -> int:
    """Bytes that events take in memory, about."""
    return sum(
        EVENT_BYTES
        + len(event.key)
        + len(event.content or b"")
        + sum(STAMP_BYTES + len(stamp.origin) for stamp in event.answers)
        for event in events.events
    )


class Buffer:
    """Batches, each with when it came; `lost` is set when something was not kept, or did not arrive."""

    __slots__ = ("_size", "events", "lost", "tail")

    def __init__(self) -> None:
        self._size = 0
        self.events: list[tuple[float, Events]] = []
        self.lost: bool = False
        self.tail: dict[str, int] = {}  # the number of the last event that came, by origin

    def add(self, events: Events, now: float) -> None:
        """Keep a batch, if there is room."""
        last = events.first + len(events.events) - 1
        self.tail[events.origin] = max(last, self.tail.get(events.origin, 0))  # some come again
        if len(self.tail) > MAX_ORIGINS:
            del self.tail[next(iter(self.tail))]
            self.lost = True
        self._size += size(events)
        if self._size > MAX_BUFFERED:
            self.lost = True
        else:
            self.events.append((now, events))


def split(events: Events, until: Mapping[str, int] | None) -> tuple[Events | None, Events | None]:
    """The part of a batch up to a number of its origin (``None``: all of it), and the part after it."""
    last = events.first + len(events.events) - 1
    cut = last if until is None else until.get(events.origin, 0)
    if cut >= last:
        return events, None
    if cut < events.first:
        return None, events
    count = cut - events.first + 1
    replace = msgspec.structs.replace
    return (
        replace(events, events=events.events[:count]),
        replace(events, first=cut + 1, events=events.events[count:]),
    )
