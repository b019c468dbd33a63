"""A stranger who can read and write all that is on the broker, among nodes with a secret: nothing changes."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec

from imperfect_dollop.broker import Link, Message
from imperfect_dollop.brokers import from_url
from imperfect_dollop.codecs import EntityCodec
from imperfect_dollop.errors import BrokerUnavailableError, ProtocolError
from imperfect_dollop.replica.messages import (
    Chunk,
    Event,
    Events,
    Footer,
    Header,
    Heartbeat,
    Kind,
    Phase,
    Refuse,
    RepositoryState,
    Run,
    Take,
    decode,
    encode,
)
from imperfect_dollop.replica.seal import Seal, Secrets
from imperfect_dollop.replica.stamp import ABSENT, Stamp, at

from .rows import Row
from .servers import Server
from .test_faults_strangers import GARBAGE, publish
from .workers import Crew, Worker, until

KEYS = 100

SECRET = "of the nodes of this test"

PRINT = EntityCodec(Row).fingerprint


@contextlib.asynccontextmanager
async def stranger(server: Server, namespace: str) -> AsyncIterator[Link]:
    broker = from_url(server.url)
    async with broker.connect(namespace, "stranger") as link:
        yield link
    await broker.aclose()


@contextlib.asynccontextmanager
async def listening(link: Link, note: Callable[[bytes], Awaitable[None]]) -> AsyncIterator[None]:
    async def listen() -> None:
        async for delivery in link.deliveries():
            if isinstance(delivery, Message):
                await note(delivery.payload)

    task = asyncio.create_task(listen())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def said(payload: bytes) -> Any:
    """What is in an envelope, which anybody can read."""
    origin = 42 + 8
    try:
        return decode(payload[origin + 1 + payload[origin] :])
    except ProtocolError as error:
        raise AssertionError("an envelope has changed its form") from error


def forged(origin: str) -> list[bytes]:
    row, now = msgspec.msgpack.encode(Row(1, "forged", "", 9)), at(time.time())
    events = [
        Event(Kind.UPDATE, b"\x01", row, Stamp(9, now, origin), ABSENT),
        Event(Kind.DELETE, b"\x02", None, Stamp(9, now, origin), ABSENT),
        Event(Kind.CLEAR, b"", None, Stamp(0, now, origin), ABSENT),
    ]
    state = RepositoryState("Row", PRINT, Phase.READY, True, True, 2**40, 1, 1, 1, now, 0, 1)
    return [
        encode(Events(origin, "Row", PRINT, 2**50, events)),
        encode(Heartbeat(origin, "a stranger", 2**50, now, False, 1.0, [state])),
        encode(Heartbeat(origin, "a stranger", 2**51, now, True, 1.0, [state])),
        encode(Refuse(origin, "address", "busy")),
    ]


async def picture(node: Worker) -> dict[str, Any]:
    """What a message could have changed."""
    status = await node.status()
    repository = status["repositories"]["Row"]
    named = ("applied", "ignored", "duplicates", "doubts", "gaps", "rejected", "events_received")
    loads = ("loads", "full_loads", "snapshots", "snapshots_given", "repairs")
    return {
        "dump": await node.ask("dump"),
        "members": sorted(member["origin"] for member in status["members"]),
        "crashes": status["crashes"],
        "up": status["broker"]["up"],
        **{name: repository["stats"][name] for name in (*named, *loads)},
    }


async def rejected(node: Worker) -> int:
    return int((await node.status())["rejected_messages"])


async def test_garbage_forged_and_recorded_messages(crew: Crew, server: Server) -> None:
    # The last row is not among those that are written at random, and deleted.
    await crew.rows.seed(KEYS + 1)
    nodes = await crew.start(2, keys=KEYS, secret=SECRET)
    recorded: list[bytes] = []

    async def note(payload: bytes) -> None:
        recorded.append(payload)

    async with stranger(server, crew.namespace) as link, listening(link, note):
        await crew.write()
        await crew.more_writes(10)
        await crew.stop_writing()
        (leaver,) = await crew.start(1, keys=KEYS, secret=SECRET)
        await leaver.update(KEYS)
        await crew.converged()
        await leaver.leave()
        await crew.all_see_all()
        await crew.converged()
    assert [await rejected(node) for node in nodes] == [0, 0]  # so far all was in order
    assert {type(said(payload)) for payload in recorded} == {Events, Heartbeat, Take}
    origins = {said(payload).origin for payload in recorded}
    assert len(origins) == 3
    another = Seal(Secrets("of somebody else's nodes"), crew.namespace, "stranger", time.time())
    elsewhere = Seal(Secrets(SECRET), "another namespace", "stranger", time.time())
    plain = [text for origin in (*origins, "stranger") for text in forged(origin)]
    hostile = [
        *GARBAGE,
        *recorded,
        *(payload[:-1] for payload in recorded),
        *(payload[:80] + b"?" + payload[81:] for payload in recorded),
        *plain,
        *(seal.close(text, time.time()) for seal in (another, elsewhere) for text in plain),
    ]
    before = [await picture(node) for node in nodes]
    await publish(server, crew.namespace, hostile)

    async def all_seen() -> bool:
        return {await rejected(node) for node in nodes} == {len(hostile) + 1}

    await until(all_seen, "all of it was rejected")
    assert [await picture(node) for node in nodes] == before
    await crew.write()
    await crew.more_writes(10)
    await crew.stop_writing()
    await crew.judge()
    assert {await rejected(node) for node in nodes} == {len(hostile) + 1}


async def test_a_copy_that_somebody_else_sends(crew: Crew, server: Server) -> None:
    await crew.rows.seed(KEYS)
    nodes = await crew.start(2, keys=KEYS, secret=SECRET)
    row = msgspec.msgpack.encode(Row(1, "forged", "", 9))
    sent = 0
    async with stranger(server, crew.namespace) as link:

        async def note(payload: bytes) -> None:
            """Be quicker than the donor, or at least in its way."""
            nonlocal sent
            take = said(payload)
            if not isinstance(take, Take):
                return
            chunk = Chunk(take.buckets, False, {}, ["s"], [row], [Run(1, 1, 0)], [])
            frames = (
                Header(take.address, PRINT, {}, 1, take.buckets),
                chunk,
                Footer({}, 1, 1, True),
            )
            with contextlib.suppress(BrokerUnavailableError):
                async with link.send_transfer(take.address, timeout=1.0) as transfer:
                    for frame in frames:
                        await transfer.send(encode(frame))
                        sent += 1

        async with listening(link, note):
            for _ in range(3):
                (newcomer,) = await crew.start(1, keys=KEYS, secret=SECRET)
                nodes.append(newcomer)
                await crew.converged()
    assert sent
    await crew.write()
    await crew.more_writes(5)
    await crew.stop_writing()
    await crew.judge()
    assert {(await node.status())["crashes"] for node in nodes} == {0}


async def test_nodes_that_were_cut_off_believe_what_was_said_meanwhile(
    crew: Crew, server: Server
) -> None:
    await crew.rows.seed(KEYS)
    nodes = await crew.start(3, keys=KEYS, secret=SECRET)
    await crew.write()
    await crew.more_writes(10)
    await nodes[
        0
    ].stop_writing()  # else it may hold the lock of a row, which whoever writes it waits for
    nodes[0].freeze()
    await crew.more_writes(40, nodes[1:])
    (newcomer,) = await crew.start(1, keys=KEYS, secret=SECRET)  # one that it has never heard of
    newcomer.write()
    await crew.more_writes(10, [newcomer])
    nodes[0].thaw()
    nodes[0].write()
    await crew.more_writes(10)
    await crew.stop_writing()
    await crew.judge()
    await crew.all_see_all()
    assert {await rejected(node) for node in crew} == {0}
