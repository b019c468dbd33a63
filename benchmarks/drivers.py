"""The bare drivers, used as their documentation shows: what one message costs without us."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from importlib.metadata import version
from typing import Any, Final, TypeAlias

import aio_pika
import redis.asyncio
from aio_pika.abc import AbstractIncomingMessage
from anyio import create_task_group

__all__ = ["DRIVERS", "listen", "payload", "publisher", "versions"]

Arrived: TypeAlias = Callable[[bytes], None]
Publish: TypeAlias = Callable[[bytes], Awaitable[object]]

DRIVERS: Final = {"redis": "redis", "rabbitmq": "aio-pika"}
"""The distribution that is the driver of a broker."""

SECONDS: Final = 5.0
"""For an answer of the server."""


def payload(number: int, size: int) -> bytes:
    """What is carried for the message with this number: as long as one of ours."""
    return (b"%d " % number).ljust(size, b"x")


async def versions(kind: str, url: str) -> dict[str, str]:
    """Of the server and its driver. Raises `OSError`, or an error of the driver, if it is away."""
    async with asyncio.timeout(SECONDS):
        if kind == "redis":
            async with redis.asyncio.Redis.from_url(url) as client:
                information = await client.info("server")
            answer = information["redis_version"]
        else:
            async with await aio_pika.connect(url) as connection:
                transport = connection.transport
                assert transport is not None
                properties = transport.connection.server_properties
                answer = properties["version"]
    text = answer.decode() if isinstance(answer, bytes) else str(answer)
    return {"server": text, "driver": f"{DRIVERS[kind]} {version(DRIVERS[kind])}"}


@asynccontextmanager
async def publisher(kind: str, url: str, name: str) -> AsyncIterator[Publish]:
    """Publishes one message, and returns when the server has taken it."""
    if kind == "redis":
        async with redis.asyncio.Redis.from_url(url) as client:
            try:
                yield lambda payload: client.xadd(name, {"p": payload})
            finally:
                await client.delete(name)
    else:
        async with await aio_pika.connect_robust(url) as connection:
            channel = await connection.channel()  # with publisher confirms
            exchange = await channel.declare_exchange(name, "fanout", auto_delete=True)
            yield lambda payload: exchange.publish(aio_pika.Message(payload), routing_key="")


@asynccontextmanager
async def listen(kind: str, url: str, name: str, arrived: Arrived) -> AsyncIterator[None]:
    """Calls `arrived` with every message that is published from now on."""
    if kind == "redis":
        async with (
            redis.asyncio.Redis.from_url(url, socket_timeout=None) as client,
            create_task_group() as group,
        ):
            group.start_soon(_read, client, name, arrived)
            yield
            group.cancel_scope.cancel()
    else:

        async def callback(message: AbstractIncomingMessage) -> None:
            arrived(message.body)

        async with await aio_pika.connect_robust(url) as connection:
            channel = await connection.channel()
            exchange = await channel.declare_exchange(name, "fanout", auto_delete=True)
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(exchange)
            await queue.consume(callback, no_ack=True)
            yield


async def _read(client: redis.asyncio.Redis, name: str, arrived: Arrived) -> None:
    place: bytes | str = "0"  # the stream is new
    while True:
        found: Any = await client.xread({name: place}, block=1_000)
        for _, entries in found:
            for at, fields in entries:
                arrived(fields[b"p"])
                place = at
