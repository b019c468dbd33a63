"""Looks at every row that is held, again and again: whether it still is what was put in.

Readers get the objects that are held, not copies of them, unless a repository is told otherwise. Somebody who changes
one changes what all others read, and the source knows nothing of it. What the row has added to the digest tells:
computed again from the object it is another number. (File systems do the same with what is on a disk, and call it
scrubbing.)
"""

from __future__ import annotations

import logging
import random
import time
from collections.abc import Iterable
from typing import Any, Final, Generic, TypeVar

import anyio

from .replica.replica import Replica
from .stats import Stats
from .upkeep import Upkeep

__all__ = ["Scrub"]

logger: Final = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")

PASS_SECONDS: Final = 300.0
"""In which every row is looked at once, if that costs no more than `SHARE`. A refresh, by default every two minutes,
puts right what the node that makes it holds; the others have nothing but this."""

SLICE_SECONDS: Final = 0.000_25
"""For which the event loop is held at a time. A small row takes 2 µs as a dataclass, 5 µs as a pydantic model."""

SHARE: Final = 0.02
"""Of one processor, at most."""


class Scrub(Generic[K, V]):
    """Of one repository. What it finds is counted, said in the log, and read again."""

    def __init__(
        self, replica: Replica[K, V], upkeep: Upkeep[K, V], stats: Stats, *, label: str
    ) -> None:
        self._replica = replica
        self._upkeep = upkeep
        self._stats = stats
        self._label = label  # node and repository, for the log
        self._said = False  # in this pass

    async def run(self) -> None:
        """Pass after pass, not at the same time as all the others; never returns."""
        await anyio.sleep(PASS_SECONDS * random.random())
        while True:
            self._said = False
            await self._look_at_all()

    async def _look_at_all(self) -> None:
        table = self._replica.table
        known = table.known()  # rows that come to where it has been were just put in
        done, looked_at = False, 0
        while not done:
            count = max(len(table.live), 1)
            began, first = time.perf_counter(), looked_at
            spent = 0.0
            while spent < SLICE_SECONDS:
                try:
                    key = next(known)
                except StopIteration:
                    done = True
                    break
                if key in table.live:
                    looked_at += 1
                    if not table.intact(key):
                        self.found([key])
                spent = time.perf_counter() - began
            await anyio.sleep(max(PASS_SECONDS * (looked_at - first) / count, spent / SHARE))
        if not looked_at:
            await anyio.sleep(PASS_SECONDS)

    def found(self, keys: Iterable[Any]) -> None:
        """These rows were changed in place, as somebody has found; some may have been put right since."""
        new = [key for key in keys if not self._upkeep.in_doubt(key)]
        if not new:
            return
        self._stats.mutated += len(new)
        if not self._said:
            self._said = True
            logger.warning(
                "%s: somebody has changed the row of key %r in place, which readers see and the source does not."
                " It is read again. Change a copy instead: declare the class frozen, or pass copy=True to the"
                " repository. If there are more in this pass, stats.mutated counts them",
                self._label,
                new[0],
            )
        table = self._replica.table
        self._upkeep.doubt([key for key in new if key in table.live and not table.intact(key)])
