"""Somebody else publishes where the nodes do: nothing changes, and what was no message is counted."""

from __future__ import annotations

import os
from collections.abc import Sequence

import aio_pika
import msgspec
from redis.asyncio import Redis

from imperfect_dollop.brokers.rabbitmq import RabbitMQBroker
from imperfect_dollop.brokers.redis import RedisBroker
from imperfect_dollop.replica.messages import (
    MAX_MESSAGE,
    Event,
    Events,
    Heartbeat,
    Kind,
    Phase,
    RepositoryState,
    encode,
)
from imperfect_dollop.replica.stamp import ABSENT, Stamp

from .rows import Row
from .servers import Server
from .workers import Crew, until

KEYS = 100

EVENTS = encode(
    Events(
        "stranger",
        "Row",
        "of another shape",
        1,
        [Event(Kind.UPDATE, b"1", msgspec.msgpack.encode(Row(1, "forged", "", 9)), ABSENT, ABSENT)],
    )
)

HEARTBEAT = encode(
    Heartbeat(
        "stranger",
        "a stranger",
        1,
        0,
        False,
        1.0,
        [RepositoryState("Row", "of another shape", Phase.READY, True, True, 0, 0, 0, 0, 0, 0, 0)],
    )
)

GARBAGE: Sequence[bytes] = (
    b"\x00",
    b"hello",
    b'{"origin": "stranger"}',
    os.urandom(200),
    *(EVENTS[:length] for length in range(1, len(EVENTS), 7)),
    *(HEARTBEAT[:length] for length in range(1, len(HEARTBEAT), 7)),
    EVENTS + b"\x00",
    b"\x91" * 100_000,  # an array in an array in an array
    b"\xdd\xff\xff\xff\xff",  # an array of four thousand million
    msgspec.msgpack.encode(["e", "stranger", "Row", "", -1, []]),
    msgspec.msgpack.encode(["?", 1, 2, 3]),
    b"\x00" * (MAX_MESSAGE + 1),
)

FOREIGN: Sequence[bytes] = (
    encode(Events("stranger", "of no repository here", "", 1, [])),
    encode(Events("stranger", "Row", "of another shape", 1, [])),
    HEARTBEAT,
)
"""Messages as they might be, of a node that has nothing to do with ours."""


async def publish(server: Server, namespace: str, payloads: Sequence[bytes]) -> None:
    """With the bare driver."""
    if server.program == "redis-server":
        key = RedisBroker(server.url)._server.key("events", namespace)
        async with Redis.from_url(server.url) as client:
            for payload in payloads:
                await client.xadd(key, {"p": payload})
            # Entries that are not even laid out as ours.
            await client.xadd(key, {"something": "else", "and": "more"})
        return
    async with await aio_pika.connect(server.url) as connection:
        channel = await connection.channel()
        exchange = await channel.get_exchange(RabbitMQBroker(server.url)._server.name(namespace))
        for payload in payloads:
            await exchange.publish(aio_pika.Message(payload), routing_key="")
        await exchange.publish(
            aio_pika.Message(b"something else", headers={"and": "more"}, type="?"), "of no use"
        )


async def test_garbage_truncated_and_oversized_messages(crew: Crew, server: Server) -> None:
    await crew.rows.seed(KEYS)
    nodes = await crew.start(2, keys=KEYS)
    await publish(server, crew.namespace, GARBAGE)

    async def rejected() -> set[int]:
        return {(await node.status())["rejected_messages"] for node in nodes}

    expected = {len(GARBAGE) + 1}

    async def all_seen() -> bool:
        return await rejected() == expected

    await until(all_seen, "every piece of it was rejected")
    await crew.write()
    await crew.more_writes(10)
    await crew.stop_writing()
    await crew.judge()
    assert await rejected() == expected
    for node in nodes:
        status = await node.status()
        assert status["crashes"] == 0
        assert status["broker"]["up"]
        assert len(status["members"]) == 1
        stats = status["repositories"]["Row"]["stats"]
        assert stats["gaps"] == stats["rejected"] == 0


async def test_messages_of_a_node_of_another_application(crew: Crew, server: Server) -> None:
    await crew.rows.seed(KEYS)
    nodes = await crew.start(2, keys=KEYS)
    forged = Event(
        Kind.UPDATE,
        msgspec.msgpack.encode(1),
        msgspec.msgpack.encode(Row(1, "forged", "", 9)),
        Stamp(9, 1, "stranger"),
        ABSENT,
    )
    events = encode(Events("stranger", "Row", "of another shape", 1, [forged]))
    await publish(server, crew.namespace, [*FOREIGN, events])

    async def all_seen() -> bool:
        return all([(await node.stats())["rejected"] == 1 for node in nodes])

    await until(all_seen, "its event was rejected")
    await nodes[0].update(1)
    await crew.judge()
    assert {(await node.status())["crashes"] for node in nodes} == {0}
