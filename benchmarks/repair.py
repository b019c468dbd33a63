"""What it takes to put a hundred wrong rows right, beside a copy of all.

Two nodes in this process, with a broker in memory that counts every byte: what a newcomer takes for its copy, and then
what goes to and fro until the rows that were changed behind its back are right again, heartbeats included.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import time
from collections.abc import Sequence
from typing import Final, cast

from imperfect_dollop import FunctionSource, Node, Repository
from imperfect_dollop.broker import Broker
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.session import Session

from .copies import right
from .counting import Counting
from .figures import Mistake
from .rows import Row, chunks, row
from .servers import add_numbers

__all__ = ["add_arguments", "run"]

WRONG: Final = 100

REPAIR_SECONDS: Final = 120.0

LOOK_SECONDS: Final = 0.05


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_numbers(parser, {"--rows": (1_000_000, "rows")}, rows=10 * WRONG)


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure, print, and return the figures. Raises `Mistake`."""
    count: int = arguments.rows
    broker = Counting(MemoryBroker())
    donor, joiner = _repository(count), _repository(count)
    async with Node(cast(Broker, broker), donor, startup="wait"):
        before = broker.bytes
        async with Node(cast(Broker, broker), joiner, startup="wait"):
            copy = broker.bytes - before
            await _agreed(donor, joiner, count)
            wrong = random.Random(0).sample(range(count), WRONG)
            before, began = broker.bytes, time.monotonic()
            for number in wrong:
                _spoil(joiner, number)
            await _agreed(donor, joiner, count)
            healing, seconds = broker.bytes - before, time.monotonic() - began
            full = donor.stats.full_loads + joiner.stats.full_loads
            if full != 1 or joiner.stats.snapshots != 1:
                raise Mistake(
                    f"{full} loads and {joiner.stats.snapshots} copies: all was read again"
                )
            reads = donor.stats.doubts + joiner.stats.doubts
    ratio = healing / copy
    print(
        f"  {count:,} rows: a copy takes {copy:,} bytes, {WRONG} wrong rows {healing:,} bytes and"
        f" {seconds:.1f} s; {reads} rows were read from the source\n  bytes_ratio: {ratio:.5f}"
    )
    return {
        "bytes_ratio": round(ratio, 6),
        "copy_bytes": copy,
        "repair_bytes": healing,
        "repair_s": round(seconds, 1),
        "rows": count,
    }


def _repository(count: int) -> Repository[int, Row]:
    async def load_many(keys: Sequence[int]) -> list[Row]:
        return [row(key) for key in keys]

    source: FunctionSource[int, Row] = FunctionSource(
        load_all=lambda: chunks(count), load_many=load_many
    )
    return Repository(Row, source=source, version="version", ttl=None, read_only=True)


def _spoil(repository: Repository[int, Row], number: int) -> None:
    """Another content than anybody has written, which nothing has told of."""
    table = _session(repository).replica.table
    table.put(number, Row(number, "Nobody", "Nowhere", 0, 1), table.stamp(number))


async def _agreed(donor: Repository[int, Row], joiner: Repository[int, Row], count: int) -> None:
    """Until both have all rows, and know it."""
    both = _session(donor), _session(joiner)

    def agreed() -> bool:
        roots = {session.replica.table.root for session in both}
        return len(roots) == 1 and all(session.upkeep.clean for session in both)

    try:
        async with asyncio.timeout(REPAIR_SECONDS):
            # The row that makes them equal is one of many, and nobody is told of it.
            while not agreed():  # noqa: ASYNC110
                await asyncio.sleep(LOOK_SECONDS)
    except TimeoutError as error:
        raise Mistake(f"the copies are not equal after {REPAIR_SECONDS:g} s") from error
    if not right(donor, count) or not right(joiner, count):
        raise Mistake("the copies are equal, and wrong")


def _session(repository: Repository[int, Row]) -> Session[int, Row]:
    session = repository._session
    assert session is not None
    return session
