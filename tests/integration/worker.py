"""One node in a process of its own, which does what it is told on standard input.

Run as ``python -m tests.integration.worker``. From before the node is there until the end it also reads all the
time and reports what reads have returned. It ends when its standard input does.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
import signal
import sys
import time
from collections.abc import (
    AsyncGenerator,
    AsyncIterable,
    AsyncIterator,
    Awaitable,
    Callable,
    Collection,
    Iterable,
    Sequence,
)
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import msgspec
from sqlalchemy.ext.asyncio import create_async_engine

from imperfect_dollop import (
    Broker,
    ClosedError,
    ConflictError,
    EntityExistsError,
    EntityNotFoundError,
    Node,
    NotReadyError,
    Repository,
    Source,
)
from imperfect_dollop.broker import Delivery, Link, TransferSender
from imperfect_dollop.brokers import from_url
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource

from .history import Record, Saw, Shown
from .orders import READY, Order, Point, Reply, Report, Seen, Setup, line
from .rows import Row, table_named

LOOK_EVERY: Final = 0.005
"""Seconds between two looks at all rows."""

REFUSED: Final = (ConflictError, EntityExistsError, EntityNotFoundError)
"""What may become of a write where others write too."""


def die() -> None:
    """End at once, as if killed: nothing is closed, nothing is said."""
    os.kill(os.getpid(), signal.SIGKILL)


class Doom:
    """Kills this process when `point` is passed for the `after`-th time and once more.

    Of several processes with one path in `once`, only the first to come there dies.
    """

    def __init__(self, point: Point | None, after: int) -> None:
        self.point = point
        self.after = after
        self.once: Path | None = None

    def passed(self, point: Point) -> None:
        if point is not self.point:
            return
        self.after -= 1
        if self.after >= 0:
            return
        self.point = None
        try:
            if self.once is not None:
                self.once.touch(exist_ok=False)
        except FileExistsError:
            return
        die()


class DoomedSource:
    """A source that may end the process between its commit and all that follows from it."""

    def __init__(self, source: Source[int, Row], doom: Doom) -> None:
        self._source = source
        self._doom = doom

    async def load(self, key: int, /) -> Row | None:
        return await self._source.load(key)

    async def load_many(self, keys: Sequence[int], /) -> Iterable[Row]:
        return await self._source.load_many(keys)

    def load_all(self) -> AsyncIterator[Iterable[Row]]:
        return self._source.load_all()

    async def create(self, entity: Row, /) -> Row:
        stored = await self._source.create(entity)
        self._doom.passed(Point.COMMITTED)
        return stored

    async def update(self, entity: Row, /) -> Row:
        stored = await self._source.update(entity)
        self._doom.passed(Point.COMMITTED)
        return stored

    async def delete(self, key: int, version: int | None, /) -> None:
        await self._source.delete(key, version)
        self._doom.passed(Point.COMMITTED)


class DoomedBroker:
    """A broker whose transfers may end the process midway."""

    def __init__(self, broker: Broker, doom: Doom) -> None:
        self._broker = broker
        self._doom = doom

    @asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[DoomedLink]:
        async with self._broker.connect(namespace, node, after=after) as link:
            yield DoomedLink(link, self._doom)

    async def aclose(self) -> None:
        await self._broker.aclose()


class DoomedLink:
    def __init__(self, link: Link, doom: Doom) -> None:
        self._link = link
        self._doom = doom

    @property
    def position(self) -> str | None:
        return self._link.position

    @property
    def waiting(self) -> int:
        return self._link.waiting

    async def publish(self, payload: bytes) -> None:
        await self._link.publish(payload)

    def deliveries(self) -> AsyncGenerator[Delivery, None]:
        return self._link.deliveries()

    @asynccontextmanager
    async def receive_transfer(
        self, address: str, *, timeout: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        async with self._link.receive_transfer(address, timeout=timeout) as chunks:
            yield self._counted(chunks)

    async def _counted(self, chunks: AsyncIterable[bytes]) -> AsyncIterator[bytes]:
        async for chunk in chunks:
            self._doom.passed(Point.TAKING)
            yield chunk

    @asynccontextmanager
    async def send_transfer(self, address: str, *, timeout: float) -> AsyncIterator[TransferSender]:
        async with self._link.send_transfer(address, timeout=timeout) as transfer:
            yield DoomedSender(transfer, self._doom)


class DoomedSender:
    def __init__(self, transfer: TransferSender, doom: Doom) -> None:
        self._transfer = transfer
        self._doom = doom

    async def send(self, chunk: bytes) -> None:
        self._doom.passed(Point.GIVING)
        await self._transfer.send(chunk)


class Watch:
    """Reads all the time, and notes each key's answer when it is another than the last."""

    def __init__(self, repository: Repository[int, Row], keys: int) -> None:
        self._repository = repository
        self.keys = keys
        self._last: dict[int, Shown | None] = {}
        self.records: list[Record] = []

    def note(self, saw: Saw, key: int, row: Row | None) -> None:
        """Something that is noted in any case."""
        shown = None if row is None else Shown(row.mark, row.version)
        if saw is Saw.READ:
            if key in self._last and self._last[key] == shown:
                return
            self._last[key] = shown
        self.records.append(Record(saw, key, shown, time.time()))

    def look(self, key: int) -> None:
        """A read that does not wait; one that raises has shown nothing."""
        try:
            self.note(Saw.READ, key, self._repository.peek(key))
        except (NotReadyError, ClosedError):
            return

    async def ask(self, key: int) -> None:
        """A read that waits where there is nothing yet."""
        try:
            row = await self._repository.get(key)
        except (NotReadyError, ClosedError):
            return
        self.note(Saw.READ, key, row)

    async def run(self, tell: Callable[[Report], None]) -> None:
        """Never returns."""
        asking: asyncio.Task[None] | None = None
        while True:
            if asking is None or asking.done():
                asking = asyncio.create_task(self.ask(random.randrange(self.keys)))
            for key in range(self.keys):
                self.look(key)
            self.report(tell)
            await asyncio.sleep(LOOK_EVERY)

    def report(self, tell: Callable[[Report], None]) -> None:
        records, self.records = self.records, []
        if records:
            tell(Seen(records))


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


def tell(report: Report) -> None:
    """To the test. It always reads, so this does not wait for long."""
    sys.stdout.buffer.write(line(report))
    sys.stdout.buffer.flush()


async def carry_out(worker: Worker, order: Order) -> None:
    verb: Callable[..., Awaitable[Any]] = getattr(worker, order.verb)
    try:
        reply = Reply(order.number, await verb(**order.arguments))
    except Exception as error:  # the test knows what to make of it
        reply = Reply(order.number, error=type(error).__name__, message=str(error))
    worker.watch.report(tell)
    tell(reply)


async def standard_input() -> asyncio.StreamReader:
    reader = asyncio.StreamReader(limit=1 << 20)
    protocol = asyncio.StreamReaderProtocol(reader)
    await asyncio.get_running_loop().connect_read_pipe(lambda: protocol, sys.stdin)
    return reader


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
    setup = msgspec.json.decode(await orders.readline(), type=Setup)
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
    decode = msgspec.json.Decoder(Order).decode
    running = {asyncio.create_task(worker.watch.run(tell)), asyncio.create_task(enter(node))}
    while text := await orders.readline():
        task = asyncio.create_task(carry_out(worker, decode(text)))
        running.add(task)
        task.add_done_callback(running.discard)
    os._exit(0)  # the test has gone, or wants no more of this


async def enter(node: AbstractAsyncContextManager[Any]) -> None:
    try:
        await node.__aenter__()
    except Exception as error:  # the test knows what to make of it
        tell(Reply(READY, error=type(error).__name__, message=str(error)))
    else:
        tell(Reply(READY))


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    asyncio.run(main())
