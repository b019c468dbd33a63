"""What an application does with a repository: it reads in every way there is, and it writes, against others.

Everything that a read returns is noted, and each writer has keys of its own on this node, so that what one of them was
told comes in order; the other nodes' writers have the same keys. The last keys are special: `hot_keys` are written by
all nodes as often as they can, and rows under `bad_keys` are spoiled by SQL (`outside`), so that no node can hold them.
"""

from __future__ import annotations

import asyncio
import random
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import replace
from functools import partial
from typing import Final

from imperfect_dollop import (
    ClosedError,
    ConflictError,
    EntityExistsError,
    EntityNotFoundError,
    InvalidEntityError,
    LoadTimeoutError,
    NotReadyError,
    Repository,
    SourceUnavailableError,
)

from ..integration.history import Saw
from ..integration.rows import Row
from ..integration.watch import Watch

REFUSED: Final = (ConflictError, EntityExistsError, EntityNotFoundError)
"""What may become of a write where others write too."""

AWAY: Final = (NotReadyError, ClosedError, SourceUnavailableError, LoadTimeoutError)
"""What may become of any call while something is away."""

FILLER: Final = "x" * 200
"""Makes a row as large as one that somebody would keep."""

DISPUTED: Final = 20
"""Keys that a third of the writes are about, so that nodes get in each other's way."""

HOT: Final = 2
"""Keys that a writer of each node does nothing but write, so that many nodes write them at once."""

HOT_SHARE: Final = 0.25
"""Of the pause of other writers, that of the one of the hot keys."""

BAD: Final = 4
"""Keys whose rows are spoiled now and then."""

WRITERS: Final = 2
READERS: Final = 2
READ_PAUSE: Final = 0.02
UPKEEP_PAUSE: Final = 20.0
"""Seconds, on average, until a node asks for a refresh or invalidates a few keys."""

SOME: Final = 10
"""Keys of one `get_many`."""

MOST_UNEXPECTED: Final = 10
"""Errors that nobody had foreseen and that are kept to be shown."""


def bad_keys(keys: int) -> range:
    """Those of so many keys whose rows are spoiled now and then."""
    return range(keys - BAD, keys)


def hot_keys(keys: int) -> range:
    """Those of so many keys that all nodes write."""
    return range(keys - BAD - HOT, keys - BAD)


class Workload:
    """Readers and writers of one repository; `whole` says whether it holds all rows."""

    def __init__(
        self,
        repository: Repository[int, Row],
        watch: Watch,
        *,
        whole: bool,
        keys: int,
        pause: float,
        name: str,
        chance: random.Random,
    ) -> None:
        self._repository = repository
        self._watch = watch
        self._whole = whole
        self._keys = keys
        self._good = keys - BAD
        self._hot = hot_keys(keys)
        self._pause = pause
        self._name = name
        self._chance = chance
        self._number = 0
        self._resting = asyncio.Event()
        self._done = asyncio.Event()
        self.counts: Counter[str] = Counter()
        self.unexpected: list[str] = []

    async def run(self) -> None:
        """Until `rest` is called."""
        async with asyncio.TaskGroup() as group:
            for first in range(WRITERS):
                mine = range(first, self._hot.start, WRITERS)
                group.create_task(self._again(partial(self._write, mine), self._pause))
            group.create_task(self._again(self._write_hot, HOT_SHARE * self._pause))
            for _ in range(READERS):
                group.create_task(self._again(self._read, READ_PAUSE))
            group.create_task(self._again(self._upkeep, UPKEEP_PAUSE))
        self._done.set()

    async def rest(self) -> None:
        """Stop, and wait until what was begun is done."""
        self._resting.set()
        await self._done.wait()

    async def _again(self, act: Callable[[], Awaitable[None]], pause: float) -> None:
        while not await self._rested(pause * self._chance.uniform(0.5, 1.5)):
            try:
                await act()
            except REFUSED:
                self.counts["conflicts"] += 1
            except AWAY as error:
                self.counts[type(error).__name__] += 1
            except Exception as error:  # whatever it is, the verdict is told of it
                self.counts["unexpected"] += 1
                if len(self.unexpected) < MOST_UNEXPECTED:
                    self.unexpected.append(repr(error))

    async def _rested(self, pause: float) -> bool:
        try:
            async with asyncio.timeout(pause):
                await self._resting.wait()
        except TimeoutError:
            return False
        return True

    # -- writes ----------------------------------------------------------------------------------

    def _mark(self) -> str:
        self._number += 1
        return f"{self._name}:{self._number}"

    async def _write(self, mine: range) -> None:
        disputed = self._chance.random() < 1 / 3
        key = self._chance.choice(mine[: DISPUTED // WRITERS] if disputed else mine)
        held = self._repository.peek(key) if self._whole else await self._get(key)
        dice = self._chance.random()
        if held is None:
            self._wrote(await self._repository.create(Row(key, self._mark(), FILLER)))
        elif dice < 0.2:
            await self._delete(key)
        elif dice < 0.25:  # of a version that was replaced, mostly, or is yet to be
            wrong = max(0, held.version + self._chance.choice((-1, 1)))
            await self._update(replace(held, version=wrong))
        elif dice < 0.3:
            self._wrote(await self._repository.create(Row(key, self._mark(), FILLER)))
        else:
            await self._update(held)
        self.counts["writes"] += 1

    async def _write_hot(self) -> None:
        """Write what others write too, and read it at once: the own write, the one in the way, or something newer."""
        key = self._chance.choice(self._hot)
        held = await self._get(key)
        if held is None:
            self._wrote(await self._repository.create(Row(key, self._mark(), FILLER)))
            return
        try:
            await self._update(held)
        except (ConflictError, EntityNotFoundError) as error:
            of_version = not isinstance(error, ConflictError) or error.reason == "version"
            # With a note it says that the row in the way could not be read.
            if of_version and not getattr(error, "__notes__", []):
                self._watch.note(Saw.REFUSED, key, held)
                await self._get(key)
                self.counts["hot conflicts"] += 1
            raise
        self.counts["writes"] += 1
        self.counts["hot writes"] += 1

    # A write that was acknowledged is read at once: a node reads what it has written.

    async def _update(self, row: Row) -> None:
        self._wrote(await self._repository.update(replace(row, mark=self._mark())))

    def _wrote(self, stored: Row) -> None:
        self._watch.note(Saw.WROTE, stored.id, stored)
        self.look(stored.id)

    async def _delete(self, key: int) -> None:
        self.look(key)
        self._watch.note(Saw.DELETING, key, None)
        await self._repository.delete(key)
        self._watch.note(Saw.DELETED, key, None)
        self.look(key)

    # -- reads -----------------------------------------------------------------------------------

    def look(self, key: int) -> None:
        """What is in memory. Where rows are loaded by key, that one is not there says nothing."""
        self.counts["reads"] += 1
        try:
            if self._whole or key in self._repository:
                self._watch.look(key)
        except (NotReadyError, ClosedError):
            return
        except InvalidEntityError:
            if key < self._good:
                raise
            self.counts["quarantined"] += 1

    async def get_bad(self, key: int) -> Row | None:
        """A row that may be quarantined; ``None`` if it is."""
        try:
            return await self._get(key)
        except InvalidEntityError:
            self.counts["quarantined"] += 1
            return None

    async def _get(self, key: int) -> Row | None:
        self.counts["reads"] += 1
        began = self._watch.began(key)
        row = await self._repository.get(key)
        self._watch.answered(key, row, began)
        return row

    async def _read(self) -> None:
        dice = self._chance.random()
        if dice < 0.5:
            await self._get(self._chance.randrange(self._good))
        elif dice < 0.55:
            await self.get_bad(self._chance.choice(bad_keys(self._keys)))
        elif dice < 0.7:
            self.look(self._chance.randrange(self._keys))
        elif dice < 0.97 or not self._whole:
            await self.get_many(self._chance.sample(range(self._good), SOME))
        else:
            self.counts["reads"] += 1
            began = [self._watch.began(key) for key in range(self._good)]
            rows = {row.id: row for row in await self._repository.get_all()}
            for key in range(self._good):
                self._watch.answered(key, rows.get(key), began[key])

    async def get_many(self, keys: Iterable[int]) -> dict[int, Row]:
        """What the repository returns of them, noted."""
        self.counts["reads"] += 1
        began = {key: self._watch.began(key) for key in keys}
        rows = await self._repository.get_many(began)
        for key, then in began.items():
            self._watch.answered(key, rows.get(key), then)
        return rows

    # -- upkeep ----------------------------------------------------------------------------------

    async def _upkeep(self) -> None:
        if self._chance.random() < 0.3:
            await self._repository.refresh()
        else:
            await self._repository.invalidate(*self._chance.sample(range(self._keys), 3))
