"""A sibling with all rows and a cold node, each a process of its own: what `snapshot` and `stall` look at."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, Literal

from imperfect_dollop import FunctionSource, Node, Repository
from imperfect_dollop.brokers import from_url

from .children import Parent, child
from .figures import Mistake
from .resident import forget_peak, peak, resident
from .rows import Row, chunks, row

__all__ = ["COPY_SECONDS", "Copied", "copied", "right"]

COPY_SECONDS: Final = 300.0
"""For a million rows, on a slow machine."""

TICK: Final = 0.001
"""Seconds between two looks of `stall` at the event loop."""

GETS: Final = 10
"""Hits at each of them."""


@dataclasses.dataclass(frozen=True)
class Copied:
    """What a process saw of a copy that it gave or took."""

    seconds: float
    """From before it joined until it was ready; of the one who gave 0."""
    bytes: int
    """Of the copy."""
    resident: int
    """Bytes in memory afterwards: what the process has grown by since it began."""
    peak: int
    """The most of that in between."""
    pauses: list[float]
    """Milliseconds by which each tick came too late, if there were any."""


@asynccontextmanager
async def copied(
    url: str, namespace: str, count: int, *, ticks: bool = False
) -> AsyncIterator[tuple[Copied, Copied]]:
    """What the giver and the taker of one copy saw. Raises `Mistake` unless it was one, and is right."""
    async with child("giver", _give, url, namespace, count, ticks) as giver:
        await giver.told(COPY_SECONDS)
        await giver.ask("begin")
        async with child("taker", _take, url, namespace, count, ticks) as taker:
            taken: Copied = await taker.told(COPY_SECONDS)
            given: Copied = await giver.ask("end", COPY_SECONDS)
            yield given, taken


def right(repository: Repository[int, Row], count: int) -> bool:
    """Whether these are all rows: every one is compared."""
    held = repository.items()
    return len(held) == count and all(each == row(number, each.version) for number, each in held)


async def _give(parent: Parent, url: str, namespace: str, count: int, ticks: bool) -> None:
    before = resident()
    source: FunctionSource[int, Row] = FunctionSource(load_all=lambda: chunks(count))
    repository = _repository(source, place="source")
    async with Node(url, repository, namespace=namespace, startup="wait"):
        parent.tell(len(repository))
        await parent.asked()
        forget_peak()
        parent.tell(None)
        pauses: list[float] = []
        ticking = asyncio.create_task(_tick(repository, count, pauses)) if ticks else None
        await parent.asked()
        most = peak()
        if ticking is not None:
            ticking.cancel()
        stats = repository.stats
        if stats.snapshots_given != 1:
            raise Mistake(f"{stats.snapshots_given} copies were given instead of one")
        parent.tell(
            Copied(0.0, stats.snapshot_bytes_given, resident() - before, most - before, pauses)
        )
        await parent.asked()


async def _take(parent: Parent, url: str, namespace: str, count: int, ticks: bool) -> None:
    # A driver is imported when it is first used, which takes 0.1 s and is no part of a copy.
    async with from_url(url).connect(f"{namespace}-before", "before"):
        pass
    before = resident()
    repository = _repository(FunctionSource(load_all=_no_source), place="sibling")
    pauses: list[float] = []
    began = time.monotonic()
    ticking = asyncio.create_task(_tick(None, count, pauses)) if ticks else None
    async with Node(url, repository, namespace=namespace, startup="wait"):
        seconds = time.monotonic() - began
        if ticking is not None:
            ticking.cancel()
        most = peak()
        stats = repository.stats
        if not right(repository, count) or stats.snapshots != 1 or stats.full_loads:
            raise Mistake(f"{len(repository)} rows, {stats.snapshots} copies, wrong or not taken")
        parent.tell(
            Copied(seconds, stats.snapshot_bytes, resident() - before, most - before, pauses)
        )
        await parent.asked()


def _repository(
    source: FunctionSource[int, Row], *, place: Literal["sibling", "source"]
) -> Repository[int, Row]:
    return Repository(
        Row, source=source, version="version", ttl=None, read_only=True, bootstrap=(place,)
    )


async def _no_source() -> list[Row]:
    raise RuntimeError("this process has no source: it is to copy its sibling")


async def _tick(repository: Repository[int, Row] | None, count: int, pauses: list[float]) -> None:
    """Note how late each tick is, and read some rows at each."""
    key = 0
    last = time.monotonic()
    while True:
        await asyncio.sleep(TICK)
        now = time.monotonic()
        pauses.append(1e3 * (now - last - TICK))
        last = now
        if repository is not None:
            for _ in range(GETS):
                key = (key + 7_919) % count
                await repository.get(key)
