"""What a repository that loads by key has to know beyond the rows: their ages, the misses, who goes first."""

from __future__ import annotations

import random
from collections import OrderedDict
from typing import Final, Generic, TypeVar

import anyio

from .clock import monotonic
from .freshness import due_after
from .replica.replica import Replica
from .stats import Stats

__all__ = ["Ages"]

K = TypeVar("K")
V = TypeVar("V")

MAX_MISSES: Final = 100_000
"""Absent keys remembered: enough for any real set of them, and a bound for a scan over random keys."""

SURPLUS: Final = 1_000
"""Ages of keys that events have removed since, kept until it pays to look for them."""

NEVER: Final = float("inf")

HOT_SECONDS: Final = 1.0
"""For which a row that was just found fresh and used is answered without another look."""

MAX_HOT: Final = 100_000
"""Rows of which that holds: to forget them all takes a millisecond or two."""


class Ages(Generic[K, V]):
    """When each held key was read; keeps within `max_entries` by dropping the least recently used.

    A row that is used is `hot` until the second is over, if it is fresh for as long: nothing needs to be looked up but
    the row itself, neither its age nor its place among those that were used. So which one is the least recently used
    is known to the second. Whatever changes a row takes it out, see `Table.hot`; `run` takes out all.

    Times are monotonic seconds; `ttl` (``None`` for never) and `missing_ttl` are seconds.
    """

    def __init__(
        self,
        replica: Replica[K, V],
        stats: Stats,
        *,
        ttl: float | None,
        jitter: float,
        missing_ttl: float,
        max_entries: int | None,
    ) -> None:
        self._replica = replica
        self._stats = stats
        self._ttl = ttl
        self._jitter = jitter
        self._missing_ttl = missing_ttl
        self._max_entries = max_entries
        self._last: float | None = None
        self._rows: OrderedDict[K, tuple[float, float]] = OrderedDict()  # read at, fresh until
        self._misses: OrderedDict[K, float] = OrderedDict()  # remembered until
        self.hot: dict[K, V] = replica.table.hot
        self._hot_until = 0.0  # monotonic; nothing is hot before `run`

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def since_last_read(self) -> float | None:
        """Seconds since anything was read or written; ``None`` before that."""
        return None if self._last is None else monotonic() - self._last

    def held(self, key: K) -> None:
        """The replica now holds what was just read or written: a row, or that there is none."""
        now = self._last = monotonic()
        self._rows.pop(key, None)
        self._misses.pop(key, None)
        if key in self._replica.table.live:
            until = (
                now + due_after(self._ttl, self._jitter, random.random()) if self._ttl else NEVER
            )
            self._rows[key] = (now, until)
            self._bound()
        else:
            self._misses[key] = now + self._missing_ttl
            if len(self._misses) > MAX_MISSES:
                oldest, _ = self._misses.popitem(last=False)
                self._replica.forget(oldest)

    def _bound(self) -> None:
        live = self._replica.table.live
        while self._rows and self._max_entries is not None and len(live) > self._max_entries:
            oldest, _ = self._rows.popitem(last=False)
            if oldest in live:  # else an event has removed it already
                self._replica.forget(oldest)
                self._stats.evictions += 1
        if len(self._rows) > 2 * len(live) + SURPLUS:
            self._rows = OrderedDict(item for item in self._rows.items() if item[0] in live)

    def age(self, key: K) -> float | None:
        """Seconds since a held row was read; ``None`` if it is not held."""
        times = self._rows.get(key)
        return None if times is None else monotonic() - times[0]

    def fresh(self, key: K) -> bool:
        """Whether a held row is within its `ttl`; counts as its use."""
        times = self._rows.get(key)
        if times is None:
            return False
        if self._max_entries is not None:
            self._rows.move_to_end(key)
        _, until = times
        now = monotonic()
        if now < self._hot_until <= until and len(self.hot) < MAX_HOT:
            self.hot[key] = self._replica.table.live[key]
        return now < until

    async def run(self) -> None:
        """Forget every second what is hot; never returns."""
        try:
            while True:
                self._hot_until = monotonic() + HOT_SECONDS
                await anyio.sleep(HOT_SECONDS)
                self.hot.clear()
        finally:
            self._hot_until = 0.0
            self.hot.clear()

    def missing(self, key: K) -> bool:
        """Whether the key is known to be absent."""
        until = self._misses.get(key)
        if until is None:
            return False
        if until > monotonic():
            # An event may have told since that the row is there, or the miss was forgotten.
            return key in self._replica.table.dead
        del self._misses[key]
        if key not in self._replica.table.quarantined:  # which remembers the last good row
            self._replica.forget(key)
        return False

    def expire_all(self) -> None:
        """Whatever is held may be out of date, or is being read; it is read again when asked for."""
        self._replica.window.touch_all()
        self.hot.clear()
        for key, (read, _) in self._rows.items():
            self._rows[key] = (read, 0.0)
        for key in self._misses:
            self._replica.forget(key)
        self._misses.clear()

    def drop(self) -> None:
        """Nothing is held any more."""
        self._rows.clear()
        self._misses.clear()
