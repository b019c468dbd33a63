"""What the reads of a process return, for `history.py` to judge."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable
from typing import Final

from imperfect_dollop import ClosedError, NotReadyError, Repository

from .history import Record, Saw, Shown
from .rows import Row

LOOK_EVERY: Final = 0.005
"""Seconds between two looks at all rows."""


class Watch:
    """Reads all the time, and notes each key's answer when it is another than the last."""

    def __init__(self, repository: Repository[int, Row], keys: int) -> None:
        self._repository = repository
        self.keys = keys
        self._last: dict[int, Shown | None] = {}
        self._notes: dict[int, int] = {}
        self.records: list[Record] = []

    def note(self, saw: Saw, key: int, row: Row | None) -> None:
        """Something that is noted in any case."""
        shown = None if row is None else Shown(row.mark, row.version)
        if saw is Saw.READ:
            if key in self._last and self._last[key] == shown:
                return
            self._last[key] = shown
        else:
            # The next read is recorded even if it returns what the last one did, which is wrong now.
            self._last.pop(key, None)
        self._notes[key] = self._notes.get(key, 0) + 1
        self.records.append(Record(saw, key, shown, time.time()))

    def look(self, key: int) -> None:
        """A read that does not wait; one that raises has shown nothing."""
        try:
            self.note(Saw.READ, key, self._repository.peek(key))
        except (NotReadyError, ClosedError):
            return

    def began(self, key: int) -> int:
        """What `answered` wants to know of the moment at which a read that may wait begins."""
        return self._notes.get(key, 0)

    def answered(self, key: int, row: Row | None, began: int) -> None:
        """What a read that may have waited has returned.

        Its value may be of any moment since it began, so it may come behind a later one that another read has shown.
        """
        if self.began(key) == began:
            self.note(Saw.READ, key, row)
        else:
            shown = None if row is None else Shown(row.mark, row.version)
            self.records.append(Record(Saw.LATE, key, shown, time.time()))

    async def ask(self, key: int) -> None:
        """A read that waits where there is nothing yet."""
        began = self.began(key)
        try:
            row = await self._repository.get(key)
        except (NotReadyError, ClosedError):
            return
        self.answered(key, row, began)

    async def run(self, report: Callable[[], None], every: float = LOOK_EVERY) -> None:
        """Look at all rows every so many seconds, and `report` after each look; never returns."""
        asking: asyncio.Task[None] | None = None
        while True:
            if asking is None or asking.done():
                asking = asyncio.create_task(self.ask(random.randrange(self.keys)))
            for key in range(self.keys):
                self.look(key)
            report()
            await asyncio.sleep(every)

    def take(self) -> list[Record]:
        """The records since the last time."""
        records, self.records = self.records, []
        return records
