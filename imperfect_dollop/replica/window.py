"""Loads against events: which keys were touched since a load began.

A load reads the source while events go on arriving. Its row for a key may be older than an event that
arrived meanwhile, so the row counts only if nothing touched the key since the load *began*. Loads that
overlap touch for each other, for which of them read first is not known either. The same idea as the
leases of Nishtala et al., "Scaling Memcache at Facebook" (2013), and the watermark windows of Andreakis
and Papapanagiotou, "DBLog" (2020).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Hashable
from typing import Any, Final

__all__ = ["Load", "Window"]

MAX_TOUCHED: Final = 100_000
"""Keys remembered while loads are open. Past that the oldest loads count as overrun and are repeated."""


class Load:
    """One read of the source that `began`, and was `answered`, at hybrid times: it is of some moment in between."""

    __slots__ = ("altered", "answered", "began", "doubtful", "mark", "overtaken")

    def __init__(self, mark: int, began: int) -> None:
        # Keys on which it is not believed, and differs from what is held, or which are in doubt still.
        self.doubtful: list[Any] = []
        # Keys whose objects had been changed in place, and were put right.
        self.altered: list[Any] = []
        self.overtaken: bool = False  # by a complete load
        self.mark: int = mark
        self.began: int = began
        self.answered: int = began


class Window:
    """The keys touched since the oldest open load began, each with the number of its last touch."""

    __slots__ = ("_count", "_floor", "_open", "_touched", "limit")

    def __init__(self, limit: int = MAX_TOUCHED) -> None:
        self.limit: int = limit
        self._count = 0
        self._floor = 0  # touches up to this number may have been forgotten
        self._open: dict[Load, None] = {}  # oldest first
        self._touched: OrderedDict[Hashable, int] = OrderedDict()  # least recently touched first

    @property
    def idle(self) -> bool:
        """Whether no load is open."""
        return not self._open

    def open(self, began: int) -> Load:
        """A load begins."""
        load = Load(self._count, began)
        self._open[load] = None
        return load

    def close(self, load: Load) -> None:
        """The load has ended; what only it needed is forgotten. Closing twice is harmless."""
        self._open.pop(load, None)
        oldest = next(iter(self._open), None)
        if oldest is None:
            self._touched.clear()
            return
        while self._touched and self._touched[next(iter(self._touched))] <= oldest.mark:
            self._touched.popitem(last=False)

    def touch(self, key: Hashable) -> None:
        """An event, a write or another load has spoken about the key."""
        if not self._open:
            return
        self._count += 1
        self._touched[key] = self._count
        self._touched.move_to_end(key)
        if len(self._touched) > self.limit:
            self._floor = self._touched.popitem(last=False)[1]

    def touch_all(self) -> None:
        """Every load that is open has been overtaken."""
        self._count += 1
        self._floor = self._count
        self._touched.clear()

    def overtake(self, load: Load) -> None:
        """A complete load has its rows; which of the others that are open read earlier is not known."""
        for other in self._open:
            other.overtaken = other.overtaken or other is not load

    def overrun(self, load: Load) -> bool:
        """Whether touches since `load` began may have been forgotten."""
        return load.overtaken or load.mark < self._floor

    def since(self, load: Load) -> list[Any]:
        """The keys that were touched since `load` began, which is not overrun."""
        return [key for key, count in self._touched.items() if count > load.mark]

    def untouched(self, key: Hashable, load: Load) -> bool:
        """Whether the load's word on the key still counts."""
        return self._touched.get(key, 0) <= load.mark and not self.overrun(load)
