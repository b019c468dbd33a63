"""Rows read by key: one load at a time for each, none of which overwrites what events have brought meanwhile."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from .errors import DollopError, InvalidEntityError
from .flight import Flights, Spawn
from .replica.messages import Event
from .replica.replica import Replica
from .replica.stamp import ABSENT
from .sourcing import Reader, source_read
from .stats import Stats
from .upkeep import Upkeep

__all__ = ["KeyLoads"]

K = TypeVar("K")
V = TypeVar("V")

ATTEMPTS: Final = 3
"""Reads of a key that events overtake before the last one is handed out, but not kept. If the key is held, the second
read is kept, see `own_writes`."""


class KeyLoads(Flights[K, V], Generic[K, V]):
    """The flights of one repository. `held(key)` is called when a row, or its absence, is kept."""

    def __init__(
        self,
        replica: Replica[K, V],
        reader: Reader[K, V],
        upkeep: Upkeep[K, V],
        stats: Stats,
        *,
        spawn: Spawn,
        publish: Callable[[Event], None],
        held: Callable[[K], None],
    ) -> None:
        super().__init__(spawn, self._read, describe=self._about)
        self._replica = replica
        self._reader = reader
        self._upkeep = upkeep
        self._stats = stats
        self._publish = publish
        self._held = held

    async def _read(self, keys: tuple[K, ...]) -> dict[K, V | None]:
        for key in keys:
            self._reader.keys.encode(key)  # what is no key here is a mistake, not an absent row
        table = self._replica.table
        found: dict[K, V | None] = {}
        left = list(keys)
        awaited: dict[K, int] = {}
        try:
            for _ in range(ATTEMPTS):
                left = await self._read_once(left, found)
                for key in [key for key in left if key in awaited]:
                    if self._replica.shows(key, awaited[key]):
                        left.remove(key)
                        self._held(key)
                        if self._upkeep.in_doubt(key):
                            self._upkeep.doubt([key])
                if not left:
                    break
                for key in left:
                    if key not in awaited and (self._replica.whole or key in table.live):
                        awaited[key] = self._replica.await_read(key, time.time())
        except DollopError as error:
            if not isinstance(error, InvalidEntityError):
                self._upkeep.health.failed(error)
            raise
        finally:
            for key, moment in awaited.items():
                self._replica.no_longer_awaited(key, moment)
        self._upkeep.health.answered()
        for key in keys:
            if table.stamp(key) is not ABSENT:  # an event may have brought something newer
                found[key] = table.live.get(key)
        return found

    async def _read_once(self, keys: list[K], found: dict[K, V | None]) -> list[K]:
        """Read some keys; returns those for which events have overtaken the load."""
        load = self._replica.begin_load(time.time())
        overtaken = []
        try:
            with source_read(self._stats):
                read = await self._reader.load_many(keys)
            self._replica.answered(load, time.time())
            for key in keys:
                found[key] = read.rows.get(key)
                counts, event = self._replica.loaded(load, key, found[key], read.faults.get(key))
                if not counts:
                    overtaken.append(key)
                    continue
                self._held(key)
                # On demand, a row that nobody had asked for here is no news.
                if event is not None and (self._replica.whole or event.base != ABSENT):
                    self._publish(event)
        finally:
            self._replica.end_load(load)
        if read.faults:
            self._upkeep.on_change()
        return overtaken

    def _about(self, keys: tuple[K, ...]) -> str:
        keys_text = f"key {keys[0]!r}" if len(keys) == 1 else f"{len(keys)} keys"
        return f"{self._reader.name}, {keys_text}"
