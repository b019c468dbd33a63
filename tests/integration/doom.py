"""How a worker is made to kill itself at a certain point of its work."""

from __future__ import annotations

import os
import signal
from collections.abc import AsyncGenerator, AsyncIterable, AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from imperfect_dollop import Broker, Source
from imperfect_dollop.broker import Delivery, Link, TransferSender

from .orders import Point
from .rows import Row


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
        self.identity: str | None = getattr(source, "identity", None)

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
