"""Writes of this node that the source has answered, and that this node does not show yet.

A write that rivals overtake is not shown at once: which of the two the source took first is not known. The writer
waits until a read that *began* after the source's answer has ended, and this node shows what that read found. Such a
read is at least as new as the write, whatever events arrive while it is under way. That holds because, while a key is
listed here, only reads of this node and its own writes change what is held for the key: events of siblings are noted
as doubt. So one read is enough, however many rivals write the key; the doubt that they leave behind is settled in the
background.

The same wait follows a write that the source refused, so that the next read of the key shows why; and it makes reads
that a caller asks for (`invalidate`, `max_staleness`) end, if events have overtaken the first one.
"""

from __future__ import annotations

from typing import Generic, TypeVar

__all__ = ["Unshown"]

K = TypeVar("K")


class _Waiting:
    """The hybrid times that callers wait for, and the time of the last change of what is held for the key."""

    __slots__ = ("changed", "times")

    def __init__(self) -> None:
        self.times: set[int] = set()
        self.changed: int = 0


class Unshown(Generic[K]):
    """The keys of these writes and reads. Each has a caller that waits, so callers bound the number of entries."""

    __slots__ = ("_waiting",)

    def __init__(self) -> None:
        self._waiting: dict[K, _Waiting] = {}

    def __contains__(self, key: object) -> bool:
        return key in self._waiting

    def __len__(self) -> int:
        return len(self._waiting)

    def keys(self) -> list[K]:
        """The keys, as of now."""
        return list(self._waiting)

    def add(self, key: K, time: int) -> None:
        """The source has answered a write, by a hybrid time."""
        waiting = self._waiting.get(key)
        if waiting is None:
            waiting = self._waiting[key] = _Waiting()
        waiting.times.add(time)

    def waits(self, key: K, time: int) -> bool:
        """Whether the write that was answered by `time` is not shown yet."""
        waiting = self._waiting.get(key)
        return waiting is not None and time in waiting.times

    def shows(self, key: K, began: int) -> bool:
        """Whether a read that began at a hybrid time is as new as what is held, and as one of the writes."""
        waiting = self._waiting.get(key)
        return waiting is not None and began > max(waiting.changed, min(waiting.times))

    def read(self, key: K, began: int, now: int) -> None:
        """What is held was read, by a read that began at a hybrid time and ended `now`."""
        waiting = self._waiting.get(key)
        if waiting is None:
            return
        waiting.times = {time for time in waiting.times if time >= began}
        waiting.changed = now
        if not waiting.times:
            del self._waiting[key]

    def drop(self, key: K, time: int | None = None) -> None:
        """The caller of a write no longer waits; without `time`: none has to, for this key."""
        waiting = self._waiting.get(key)
        if waiting is None:
            return
        waiting.times = set() if time is None else waiting.times - {time}
        if not waiting.times:
            del self._waiting[key]

    def clear(self) -> None:
        """Nothing is held any more, so nothing older than a write is shown."""
        self._waiting.clear()
