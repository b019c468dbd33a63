"""One life of one node: ``python -m tests.soak.member``, which is told who it is on standard input.

It reads from before its node is open until it ends, and works from then on until it is told to rest.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final, TypeAlias

from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from imperfect_dollop import Node, Repository
from imperfect_dollop.brokers import from_url
from imperfect_dollop.replica.buffer import STAMP_BYTES
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource

from ..integration.doom import Doom, DoomedBroker, DoomedSource
from ..integration.history import Shown
from ..integration.obey import enter, obey, setup_of, standard_input
from ..integration.orders import Point
from ..integration.rows import Row, table_named
from ..integration.watch import Watch
from .record import Recorder
from .settings import HEARTBEAT, Member
from .workload import BAD, Workload, bad_keys

WHOLE: Final = "whole"
LOOKUP: Final = "lookup"
"""The names of the two repositories."""

LOOK_EVERY: Final = 0.1
"""Seconds between two looks at all rows, and the most of the records that is lost with a process that is killed."""


class Part:
    """One of the two repositories, with what is done with it and what is seen of it."""

    def __init__(self, setup: Member, repository: Repository[int, Row], *, whole: bool) -> None:
        self.repository = repository
        self.watch = Watch(repository, setup.keys)
        self.work = Workload(
            repository,
            self.watch,
            whole=whole,
            keys=setup.keys,
            pause=setup.pause,
            name=setup.name,
            chance=random.Random(f"{setup.seed} {setup.name} {repository.name}"),
        )
        self._keys = setup.keys
        self._whole = whole
        self._recorder = Recorder(Path(f"{setup.records}.{repository.name}"))

    def record(self) -> None:
        """Hand what was seen to the file."""
        if records := self.watch.take():
            self._recorder.write(records)

    async def look(self) -> None:
        """Never returns."""
        while True:
            for key in range(self._keys):
                self.work.look(key)
            self.record()
            await asyncio.sleep(LOOK_EVERY)

    async def shown(self) -> dict[int, Shown]:
        """All rows as an application gets them now."""
        good, bad = range(self._keys - BAD), bad_keys(self._keys)
        found: dict[int, Row | None] = {key: await self.work.get_bad(key) for key in bad}
        if self._whole:
            found |= {key: self.repository.peek(key) for key in good}
        else:
            found |= await self.work.get_many(good)
        return {key: Shown(row.mark, row.version) for key, row in found.items() if row is not None}


class Verbs:
    """Each public coroutine is one."""

    def __init__(self, node: Node, parts: tuple[Part, Part], doom: Doom) -> None:
        self._node = node
        self._parts = parts
        self._doom = doom

    async def report(self) -> dict[str, Any]:
        """Everything that can be told of this node without reading.

        What nobody refers to any more is collected first, so that memory is judged by what is held: connections that
        were cut leave cycles, which else wait for the collector.
        """
        gc.collect()
        works = [part.work for part in self._parts]
        return {
            "status": self._node.status(),
            "node": dataclasses.asdict(self._node.stats),
            "kept": kept(self._node),
            "counts": dict(works[0].counts + works[1].counts),
            "unexpected": [error for work in works for error in work.unexpected],
        }

    async def shown(self) -> dict[str, Any]:
        """What both repositories hold, by name."""
        return {part.repository.name: list((await part.shown()).items()) for part in self._parts}

    async def rest(self) -> None:
        """Write no more."""
        await asyncio.gather(*(part.work.rest() for part in self._parts))

    async def doom(self) -> None:
        """Die between the next commit and the event of it."""
        self._doom.point, self._doom.after = Point.COMMITTED, 0

    async def leave(self) -> None:
        await self._node.__aexit__(None, None, None)
        for part in self._parts:
            part.record()


def kept(node: Node) -> dict[str, int]:
    """Bytes of what grows for long before it comes to its bounds, by what it is."""
    seats = node._seats
    answered = [
        answers for seat in seats for _, answers in seat.replica.disputes._answered.values()
    ]
    return {
        "to be sent again": sum(seat.ring._bytes for seat in seats),
        "answered": sum(len(answers) for answers in answered) * STAMP_BYTES,
    }


async def live(node: Node, parts: tuple[Part, Part]) -> None:
    """Join, and work."""
    await enter(node)
    async with asyncio.TaskGroup() as group:
        for part in parts:
            group.create_task(part.work.run())


def repositories(
    setup: Member, engine: AsyncEngine, doom: Doom, kind: type[Repository[int, Row]]
) -> tuple[Repository[int, Row], Repository[int, Row]]:
    """The one that holds all rows, and the one that loads them by key."""

    def source(table: str) -> DoomedSource:
        rows = SQLAlchemySource(
            engine,
            table_named(table),
            entity=Row,
            version_column="version",
            identity=f"soak {table}",  # each node reaches the database at a port of its own
        )
        return DoomedSource(rows, doom)

    return (
        kind(Row, source=source(setup.whole), version="version", name=WHOLE, ttl=setup.ttl),
        kind(
            Row,
            source=source(setup.lookup),
            version="version",
            name=LOOKUP,
            ttl=setup.ttl,
            preload=False,
            max_entries=setup.held,
        ),
    )


STATEMENTS: Final = 10
"""Prepared statements that are kept for each connection to PostgreSQL. Each length of an IN is a statement of its own,
and by default 100 of them for each of five connections take minutes to gather: some MiB that look like a leak."""


def engine_of(url: str) -> AsyncEngine:
    """As an application would have it, with as many connections as SQLAlchemy keeps by default."""
    arguments = {}
    if url.startswith("postgresql+asyncpg"):
        arguments["prepared_statement_cache_size"] = STATEMENTS
    return create_async_engine(url, pool_size=5, max_overflow=0, connect_args=arguments)


Choice: TypeAlias = Callable[[Member], type[Repository[int, Row]]]


async def main(choice: Choice) -> None:
    """`choice` says which class the repositories have."""
    orders = await standard_input()
    setup = await setup_of(orders, Member)
    doom = Doom(None, 0)
    engine = engine_of(setup.database)
    whole, lookup = repositories(setup, engine, doom, choice(setup))
    node = Node(
        DoomedBroker(from_url(setup.broker), doom),
        whole,
        lookup,
        namespace=setup.namespace,
        name=setup.name,
        heartbeat=HEARTBEAT,
    )
    parts = Part(setup, whole, whole=True), Part(setup, lookup, whole=False)
    verbs = Verbs(node, parts, doom)
    await obey(orders, verbs, live(node, parts), *(part.look() for part in parts))


def run(choice: Choice = lambda setup: Repository[int, Row]) -> None:
    """Be such a process."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    asyncio.run(main(choice))


if __name__ == "__main__":
    run()
