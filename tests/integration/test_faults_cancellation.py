"""A node's start or stop is cancelled: nothing of it is left, here or on the server."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import aio_pika
import pytest
from aio_pika.exceptions import ChannelClosed
from redis.asyncio import Redis

from imperfect_dollop import Broker, FunctionSource, Node, Repository
from imperfect_dollop.broker import Link
from imperfect_dollop.brokers import from_url
from imperfect_dollop.brokers.rabbitmq import RabbitMQBroker

from ..unit.school import cancelled_at, others
from .proxy import Proxy
from .rows import Row
from .servers import Server
from .workers import Crew, until

KEYS = 300

FILLER = 2_000
"""Characters of a row, so that a start has a snapshot of several chunks in it."""

MOMENTS = 16
"""At which it is cancelled, from the first to the last."""


class Remembering:
    """A broker that remembers the addresses to which transfers were asked for."""

    def __init__(self, broker: Broker) -> None:
        self.addresses: list[str] = []
        self._broker = broker

    @asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[Link]:
        async with self._broker.connect(namespace, node, after=after) as link:
            receive = link.receive_transfer

            def remembered(
                address: str, *, timeout: float
            ) -> AbstractAsyncContextManager[AsyncIterator[bytes]]:
                self.addresses.append(address)
                return receive(address, timeout=timeout)

            link.receive_transfer = remembered  # type: ignore[method-assign]
            yield link

    async def aclose(self) -> None:
        await self._broker.aclose()


class Bench:
    """A node in this process, reached through a proxy that counts connections, and a sibling that has a copy."""

    def __init__(self, crew: Crew, proxy: Proxy, server: Server) -> None:
        self.crew = crew
        self.proxy = proxy
        self.server = server
        self.broker = Remembering(from_url(proxy.url(server.url)))
        self.before = others()

    def node(self) -> Node:
        async def load_all() -> list[Row]:
            return [Row(key, f"seed:{key}", "x" * FILLER) for key in range(KEYS)]

        repository: Repository[int, Row] = Repository(
            Row,
            source=FunctionSource[int, Row](load_all=load_all),
            version="version",
            read_only=True,
        )
        return Node(
            self.broker,
            repository,
            namespace=self.crew.namespace,
            heartbeat=0.3,
            shutdown_timeout=1.0,
        )

    def tasks(self) -> set[asyncio.Task[Any]]:
        """Those that were not there before, besides the test."""
        return others() - self.before

    async def nothing_left(self) -> None:
        """No task, no connection, and no address that anything could be sent to."""

        async def gone() -> bool:
            return self.proxy.connections == 0 and not self.tasks()

        def left() -> str:
            return f"{self.proxy.connections} connections, {self.tasks()}"

        await until(gone, lambda: f"all of it is gone, but there are {left()}", 10)
        addresses, self.broker.addresses = self.broker.addresses, []
        if self.server.program == "redis-server":
            async with Redis.from_url(self.server.url) as client:
                keys = [key async for key in client.scan_iter(f"*{self.crew.namespace}*")]
                assert not [key for key in keys if b":chunks:" in key]
                assert all([await client.ttl(key) > 0 for key in keys])
            return
        name = RabbitMQBroker(self.server.url)._server.name
        async with await aio_pika.connect(self.server.url) as connection:
            for address in addresses:
                channel = await connection.channel()
                with pytest.raises(ChannelClosed, match="NOT_FOUND"):
                    await channel.declare_queue(
                        name(self.crew.namespace, "chunks", address), passive=True
                    )


@pytest.fixture
async def bench(crew: Crew, proxy: Proxy, server: Server) -> AsyncIterator[Bench]:
    await crew.rows.seed(KEYS, filler=FILLER)
    await crew.start(1, keys=KEYS)
    bench = Bench(crew, proxy, server)
    yield bench
    await bench.broker.aclose()


async def at_every_moment(
    bench: Bench, work: Callable[[], Awaitable[Any]], prepare: Callable[[], Awaitable[Any]]
) -> int:
    """Cancel `work` at moments from its beginning to its end; how often it had not ended by then."""
    await prepare()
    began = time.monotonic()
    await work()
    took = time.monotonic() - began
    await bench.nothing_left()
    hit = 0
    for moment in range(MOMENTS):
        await prepare()
        began = time.monotonic()
        task = asyncio.ensure_future(work())
        await asyncio.wait([task], timeout=took * moment / MOMENTS)
        if task.done():  # the machine was slower before: the moments to come lie closer together
            took = min(took, time.monotonic() - began)
        else:
            hit += 1
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        await bench.nothing_left()
    return hit


async def test_while_it_starts(bench: Bench) -> None:
    async def start() -> None:
        async with bench.node() as node:
            stats = node.status()["repositories"]["Row"]["stats"]
            assert (stats["snapshots"], stats["full_loads"]) == (1, 0)

    async def nothing() -> None:
        """Nothing is to be prepared."""

    assert await at_every_moment(bench, start, nothing) >= MOMENTS // 2
    await bench.crew.judge()


async def test_while_it_stops(bench: Bench) -> None:
    nodes: list[Node] = []

    async def start() -> None:
        nodes.append(bench.node())
        await nodes[-1].__aenter__()

    async def stop() -> None:
        await nodes[-1].__aexit__(None, None, None)

    assert await at_every_moment(bench, stop, start) > 0
    await bench.crew.judge()


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
async def test_at_every_await_of_start_and_stop(bench: Bench, late: bool) -> None:
    async def life() -> None:
        async with bench.node():
            pass

    cancelled = 0
    while await cancelled_at(life(), cancelled, late=late):
        await bench.nothing_left()
        cancelled += 1
    await bench.nothing_left()
    assert cancelled > 3


@pytest.mark.parametrize("late", [False, True], ids=["early", "late"])
async def test_at_every_await_before_a_transfer_is_open(bench: Bench, late: bool) -> None:
    is_open = False

    async def receive() -> None:
        nonlocal is_open
        async with bench.broker.connect(bench.crew.namespace, "n") as link:
            async with link.receive_transfer("somewhere", timeout=1.0):
                is_open = True

    cancelled = 0
    while True:
        await cancelled_at(receive(), cancelled, late=late)
        if is_open:
            break
        await bench.nothing_left()
        cancelled += 1
    assert cancelled > 5


async def test_while_the_broker_does_not_answer(bench: Bench) -> None:
    bench.proxy.half_open()
    for seconds in (0.0, 0.2, 1.0):
        start = asyncio.ensure_future(bench.node().__aenter__())
        await asyncio.wait([start], timeout=seconds)
        assert not start.done()
        start.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await start
    await bench.proxy.restore()
    await bench.nothing_left()


async def test_while_it_stops_and_the_broker_does_not_answer(bench: Bench) -> None:
    for seconds in (0.0, 0.2, 1.0):
        node = await bench.node().__aenter__()
        bench.proxy.half_open()
        stop = asyncio.ensure_future(node.__aexit__(None, None, None))
        await asyncio.wait([stop], timeout=seconds)
        stop.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await stop
        await bench.proxy.restore()
        await bench.nothing_left()
