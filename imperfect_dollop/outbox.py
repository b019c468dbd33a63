"""Events that are waiting for the broker: in order, bounded, one queue for each repository.

Numbers are given when a batch is packed, not when an event is written, so what waits can still be
merged. Under pressure the older of two events of one key goes (the newer takes over its base); if that is
not enough the oldest events go for good, and their numbers are skipped so that every sibling notices.
"""

from __future__ import annotations

from collections import deque
from typing import Final

import msgspec

from .replica.messages import FOR_ALL, MAX_BATCH, WITHOUT_CONTENT, Event

__all__ = ["Outbox"]

MAX_BATCH_BYTES: Final = 1 << 20
"""Content of one message, about: an eighth of what a receiver accepts, and one entity may come on top."""

MAX_BYTES: Final = 64 << 20
"""Content of all events that wait."""


class Outbox:
    """The events of one repository that are still to be sent; at most `limit` of them."""

    __slots__ = ("_size", "_waiting", "added", "limit", "merged", "skipped")

    def __init__(self, limit: int) -> None:
        self.limit: int = limit
        self._waiting: deque[tuple[int, Event]] = deque()  # each with how many were added before it
        self._size = 0
        self.added: int = 0
        self.skipped: int = 0
        self.merged: int = 0

    def __len__(self) -> int:
        return len(self._waiting)

    @property
    def gone(self) -> int:
        """How many of all that were added, from the first on, wait no longer, nor does what they were merged into."""
        return self._waiting[0][0] if self._waiting else self.added

    def add(self, event: Event) -> None:
        """Queue one event."""
        self._waiting.append((self.added, event))
        self.added += 1
        self._size += _bytes(event)
        if len(self._waiting) > self.limit or self._size > MAX_BYTES:
            self._merge()
            # Room for a while, or every event to come would merge again; one event that is given
            # up costs the siblings as much as many.
            room, bytes_left = self.limit - self.limit // 10, MAX_BYTES - MAX_BYTES // 10
            while len(self._waiting) > room or self._size > bytes_left:
                self._size -= _bytes(self._waiting.popleft()[1])
                self.skipped += 1

    def batch(self) -> tuple[list[Event], int]:
        """Take the next events to send, and how many before them were given up."""
        events: list[Event] = []
        size = 0
        while self._waiting and len(events) < MAX_BATCH and size < MAX_BATCH_BYTES:
            _, event = self._waiting.popleft()
            size += _bytes(event)
            events.append(event)
        self._size -= size
        skipped, self.skipped = self.skipped, 0
        return events, skipped

    def _merge(self) -> None:
        last: dict[bytes, int] = {}
        kept: list[tuple[int, Event]] = []
        for number, event in self._waiting:
            if event.kind in FOR_ALL or event.kind in WITHOUT_CONTENT:
                last.clear()  # what is on either side of these must not change places
            elif event.key in last:
                place = last[event.key]
                older, replaced = kept[place]
                kept[place] = older, msgspec.structs.replace(event, base=replaced.base)
                self.merged += 1
                continue
            else:
                last[event.key] = len(kept)
            kept.append((number, event))
        self._waiting = deque(kept)
        self._size = sum(_bytes(event) for _, event in kept)


def _bytes(event: Event) -> int:
    return len(event.content or b"") + len(event.key)
