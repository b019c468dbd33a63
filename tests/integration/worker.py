"""One node in a process of its own, which does what it is told on standard input.

Run as ``python -m tests.integration.worker``. From before the node is there until the end it also reads all the
time and reports what reads have returned. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Collection
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

from sqlalchemy.ext.asyncio import create_async_engine

from imperfect_dollop import (
    Broker,
    ConflictError,
    EntityExistsError,
    EntityNotFoundError,
    Node,
    NotReadyError,
    Repository,
)
from imperfect_dollop.brokers import from_url
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource

from .doom import Doom, DoomedBroker, DoomedSource
from .history import Saw, Shown
from .obey import enter, obey, setup_of, standard_input, tell
from .orders import Point, Seen, Setup
from .rows import Row, table_named
from .watch import Watch

REFUSED: Final = (ConflictError, EntityExistsError, EntityNotFoundError)
"""What may become of a write where others write too."""


class Load:
    """Writes of random rows, by several writers with keys of their own; counts what became of them."""

    def __init__(self, repository: Repository[int, Row], watch: Watch, name: str) -> None:
        self._repository = repository
        self._watch = watch
        self._name = name
        self._number = 0
        self.stopping = False
        self.acknowledged = 0
        self.refused = 0
        self.failed: list[str] = []

    def mark(self) -> str:
        """One that no other write has."""
        self._number += 1
        return f"{self._name}:{self._number}"

    async def run(self, writers: int, pause: float, keys: int, filler: int) -> None:
        """Until `stopping`."""
        self.stopping = False
        async with asyncio.TaskGroup() as group:
            for first in range(writers):
                mine = range(first, keys, writers)
                group.create_task(self._write(mine, pause, "x" * filler))

    async def _write(self, keys: range, pause: float, filler: str) -> None:
        while not self.stopping:
            await self._once(random.choice(keys), filler)
            await asyncio.sleep(pause)

    async def _once(self, key: int, filler: str) -> None:
        try:
            held = self._repository.peek(key)
            if held is None:
                await self.create(Row(key, self.mark(), filler))
            elif random.random() < 0.2:
                await self.delete(key)
            else:
                await self.update(replace(held, mark=self.mark()))
            self.acknowledged += 1
        except REFUSED:
            self.refused += 1
        except Exception as error:  # whatever it is, the test is told of it
            self.failed.append(repr(error))

    # A write that was acknowledged is read at once: a node reads what it has written.

    async def create(self, row: Row) -> Row:
        return self._wrote(await self._repository.create(row))

    async def update(self, row: Row) -> Row:
        return self._wrote(await self._repository.update(row))

    def _wrote(self, stored: Row) -> Row:
        self._watch.note(Saw.WROTE, stored.id, stored)
        self._watch.look(stored.id)
        return stored

    async def delete(self, key: int) -> None:
        self._watch.look(key)
        self._watch.note(Saw.DELETING, key, None)
        await self._repository.delete(key)
        self._watch.note(Saw.DELETED, key, None)
        self._watch.look(key)


class Worker:
    """Carries out orders; each public coroutine is a verb."""

    def __init__(
        self, setup: Setup, node: Node, repository: Repository[int, Row], doom: Doom
    ) -> None:
        self._node = node
        self._doom = doom
        self._repository = repository
        self.watch = Watch(repository, setup.keys)
        self._load = Load(repository, self.watch, setup.name)

    def report(self) -> None:
        """Tell what reads have returned since the last time."""
        if records := self.watch.take():
            tell(Seen(records))

    async def create(self, key: int, filler: int = 0) -> Shown:
        return _shown(await self._load.create(Row(key, self._load.mark(), "x" * filler)))

    async def update(self, key: int) -> Shown:
        held = self._repository[key]
        return _shown(await self._load.update(replace(held, mark=self._load.mark())))

    async def delete(self, key: int) -> None:
        await self._load.delete(key)

    async def dump(self) -> dict[str, Any]:
        """All rows, with what they add up to and whether anything is known to be missing."""
        status = self._node.status()["repositories"][self._repository.name]
        return {
            "state": status["state"],
            "clean": status["clean"],
            "unsent": status["unsent"],
            "digest": status["digest"],
            "rows": [(row.id, _shown(row)) for row in self._rows()],
        }

    def _rows(self) -> Collection[Row]:
        try:
            return self._repository.values()
        except NotReadyError:
            return ()

    async def status(self) -> dict[str, Any]:
        return self._node.status()

    async def block(self, seconds: float) -> None:
        time.sleep(seconds)  # noqa: ASYNC251 - that nothing else runs meanwhile is the point

    async def doom(self, point: str, after: int, once: str | None) -> None:
        """Die there, some time."""
        self._doom.point, self._doom.after = Point(point), after
        self._doom.once = None if once is None else Path(once)

    async def load(self, writers: int, pause: float, keys: int, filler: int = 0) -> None:
        """Write until told to stop."""
        await self._load.run(writers, pause, keys, filler)

    async def loaded(self) -> dict[str, Any]:
        """What became of the writes so far."""
        load = self._load
        return {
            "acknowledged": load.acknowledged,
            "refused": load.refused,
            "failed": load.failed[:10],
        }

    async def stop_load(self) -> None:
        self._load.stopping = True

    async def flush(self) -> None:
        await self._node.flush()

    async def leave(self) -> None:
        await self._node.__aexit__(None, None, None)


def _shown(row: Row) -> Shown:
    return Shown(row.mark, row.version)


def broker_of(setup: Setup) -> Broker:
    if setup.backlog is None:
        return from_url(setup.broker)
    if setup.broker.startswith("redis"):
        from imperfect_dollop.brokers.redis import RedisBroker

        return RedisBroker(setup.broker, backlog=setup.backlog)
    from imperfect_dollop.brokers.rabbitmq import RabbitMQBroker

    return RabbitMQBroker(setup.broker, backlog=setup.backlog)


async def main() -> None:
    orders = await standard_input()
    setup = await setup_of(orders, Setup)
    doom = Doom(setup.fatal, setup.fatal_after)
    table: SQLAlchemySource[Row] = SQLAlchemySource(
        create_async_engine(setup.database, pool_size=4, max_overflow=0),
        table_named(setup.table),
        entity=Row,
        version_column="version",
    )
    source = DoomedSource(table, doom)
    repository: Repository[int, Row] = Repository(
        Row, source=source, version="version", ttl=setup.ttl
    )
    broker = DoomedBroker(broker_of(setup), doom)
    node = Node(
        broker,
        repository,
        namespace=setup.namespace,
        name=setup.name,
        heartbeat=setup.heartbeat,
        secret=setup.secret,
    )
    worker = Worker(setup, node, repository, doom)
    await obey(
        orders,
        worker,
        worker.watch.run(worker.report),
        enter(node),
        before_reply=worker.report,
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(main())
