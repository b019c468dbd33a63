"""Nodes with a secret among strangers: who hears whom, and that nothing else changes anything."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from imperfect_dollop.broker import Link, Message, TransferSender
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.codecs import EntityCodec
from imperfect_dollop.replica.messages import (
    MAX_MESSAGE,
    Ask,
    Event,
    Events,
    Heartbeat,
    Kind,
    Phase,
    Refuse,
    RepositoryState,
    Take,
    encode,
)
from imperfect_dollop.replica.seal import Seal, Secrets
from imperfect_dollop.replica.stamp import ABSENT, MAX_DRIFT, Stamp, at

from .school import (
    Member,
    SchoolSource,
    Student,
    cluster,
    eventually,
    member,
    settled,
    students,
    until_all_hold,
)

SECRET = "what only members know"
OTHER = "what somebody else knows"
BEATS = 5


def sealed(
    broker: MemoryBroker, source: SchoolSource, secret: Any = SECRET, **given: Any
) -> Member:
    return member(broker, source, node={"secret": secret, **given.pop("node", {})}, **given)


def rejections(one: Member) -> dict[str, int]:
    return {reason: count for reason, count in one.node.stats.rejections.items() if count}


def state(one: Member) -> dict[str, object]:
    """All that a message could have changed, save what time changes and own heartbeats do."""
    membership, (seat,) = one.node._membership, one.node._seats
    assert membership is not None
    replica, upkeep = seat.replica, seat.session.upkeep
    table = replica.table
    stats = dataclasses.asdict(one.repository.stats)
    return {
        "rows": (dict(table.live), dict(table.stamped()), dict(table.dead), table.root),
        "vector": (dict(replica.progress.vector), replica.progress.awaited),
        "confirmed": replica.confirmed,
        "resets": replica.resets,
        "members": sorted(membership.members.alive),
        "links": membership.links,
        "up": membership.up,
        "phase": upkeep.phase,
        "clean": upkeep.clean,
        "state": one.repository.state,
        "donating": (seat.donating, seat._answering),
        "stats": stats,
        "crashes": one.node.stats.crashes,
    }


class Recorder(MemoryBroker):
    """Keeps what was published, and lets a test tamper with chunks on their way."""

    def __init__(self) -> None:
        super().__init__()
        self.heard: list[bytes] = []
        self.tamper: Callable[[list[bytes]], list[bytes]] = lambda chunks: chunks
        self.tampered = 0

    @asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[Any]:
        async with super().connect(namespace, node, after=after) as link:
            publish, send = link.publish, link.send_transfer

            async def recorded(payload: bytes) -> None:
                self.heard.append(payload)
                await publish(payload)

            @asynccontextmanager
            async def tampered(address: str, *, timeout: float) -> AsyncIterator[TransferSender]:
                chunks: list[bytes] = []
                async with send(address, timeout=timeout) as transfer:
                    yield Collector(chunks)
                    changed = self.tamper(chunks)
                    self.tampered += changed != chunks
                    for chunk in changed:
                        await transfer.send(chunk)

            link.publish = recorded  # type: ignore[method-assign]
            link.send_transfer = tampered  # type: ignore[method-assign, assignment]
            yield link


class Collector:
    def __init__(self, chunks: list[bytes]) -> None:
        self._chunks = chunks

    async def send(self, chunk: bytes) -> None:
        self._chunks.append(chunk)


@contextlib.asynccontextmanager
async def stranger(broker: MemoryBroker, namespace: str = "default") -> AsyncIterator[Link]:
    async with broker.connect(namespace, "a stranger") as link:
        yield link


# -- who hears whom --------------------------------------------------------------------------------


async def test_nodes_with_a_secret_are_a_cluster() -> None:
    source, broker = SchoolSource(*students(2_000)), Recorder()
    async with cluster(*(sealed(broker, source) for _ in range(3))) as members:
        assert source.calls["load_all"] == 1
        assert sum(one.repository.stats.snapshots for one in members) == 2
        await members[0].repository.create(Student(5_000, "Ada"))
        await members[1].repository.delete(1)
        await until_all_hold(members, source)
        assert [rejections(one) for one in members] == [{}] * 3
        assert all(payload.startswith(b"\xc1") for payload in broker.heard)
        assert broker.heard


@pytest.mark.parametrize("secret", [None, OTHER])
async def test_a_node_without_it_is_not_heard_and_hears_nothing(secret: str | None) -> None:
    source, broker = SchoolSource(*students(10)), MemoryBroker()
    async with cluster(*(sealed(broker, source) for _ in range(2))) as members:
        before = [state(one) for one in members]
        async with cluster(sealed(broker, SchoolSource(), secret)) as (third,):
            await third.repository.create(Student(99, "Eve"))
            await third.repository.clear()
            await third.node.flush()
            reason = "unsigned" if secret is None else "forged"
            await eventually(lambda: all(rejections(one).get(reason, 0) > BEATS for one in members))
            await eventually(lambda: third.content == {99: Student(99, "Eve", version=1)})
            assert third.node.members == (third.node.name,)
            await members[0].repository.create(Student(77, "Ada"))
            await until_all_hold(members, source)
            assert third.repository.peek(77) is None
            assert set(rejections(third)) == {"signed" if secret is None else "forged"}
        await members[0].repository.delete(77)
        await until_all_hold(members, source)
        for one, then in zip(members, before, strict=True):
            now = state(one)
            assert now["members"] == then["members"]
            assert now["rows"][0] == then["rows"][0]  # type: ignore[index]


async def test_what_is_wrong_is_said_once_with_what_to_do(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING)
    source, broker = SchoolSource(), MemoryBroker()
    async with cluster(sealed(broker, source), sealed(broker, source, None)) as members:
        await eventually(lambda: all(sum(rejections(one).values()) > BEATS for one in members))
    said = [record.getMessage() for record in caplog.records if "rejected" in record.getMessage()]
    assert len(said) == 2
    assert any("somebody in this namespace has no secret" in text for text in said)
    assert any("this node has none" in text for text in said)


async def test_rotation_while_all_go_on() -> None:
    source, broker = SchoolSource(*students(100)), MemoryBroker()
    for some in (
        [SECRET, [SECRET, OTHER]],
        [[SECRET, OTHER], [OTHER, SECRET]],
        [[OTHER, SECRET], OTHER],
    ):
        async with cluster(*(sealed(broker, source, secret) for secret in some)) as members:
            loads = source.calls["load_all"]
            for number, one in enumerate(members):
                held = one.repository[number + 1]
                await one.repository.update(dataclasses.replace(held, name=f"{held.name}!"))
            await until_all_hold(members, source)
            assert [rejections(one) for one in members] == [{}, {}]
            assert source.calls["load_all"] == loads


# -- what is played to them ------------------------------------------------------------------------

PRINT = EntityCodec(Student).fingerprint


def forgeries(origin: str, donor: str) -> list[bytes]:
    """What would do harm, were it believed."""
    row = EntityCodec(Student).encode(Student(1, "forged", version=9))
    now = at(time.time())
    events = [
        Event(Kind.UPDATE, b"\x01", row, Stamp(9, now, origin), ABSENT),
        Event(Kind.DELETE, b"\x02", None, Stamp(2**63 - 1, now, origin), ABSENT),
        Event(Kind.CLEAR, b"", None, Stamp(0, now, origin), ABSENT),
        Event(Kind.CONFIRM, b"", None, Stamp(0, now, origin), Stamp(0, now, origin)),
        Event(Kind.REREAD, b"\x03", None, Stamp(0, now, origin), ABSENT),
    ]
    about = RepositoryState("Student", PRINT, Phase.READY, True, True, 2**40, 1, 1, 1, now, 0, 1)
    return [
        *(encode(Events(origin, "Student", PRINT, 2**62, [event])) for event in events),
        encode(Events(origin, "Student", PRINT, 2**63 - 1, events)),
        encode(Heartbeat(origin, "Eve", 2**60, now, False, 1.0, [about])),
        encode(Heartbeat(origin, "Eve", 2**61, 2**63 - 1, True, 1.0, [about])),
        encode(Take(origin, donor, "Student", PRINT, "somewhere", list(range(1_024)))),
        encode(Take(origin, donor, "Student", PRINT, "somewhere", [], bytes(8 * 1_024))),
        encode(Ask(donor, "Student", 1, 5)),
        encode(Refuse(origin, "somewhere", "busy")),
    ]


def dropped_and_ready(one: Member) -> bool:
    """Whether it has heard of a `clear`, and has loaded everything again since."""
    session = one.repository._session
    return session is not None and session.replica.resets > 1 and one.repository.state == "ready"


async def test_nothing_that_is_forged_or_played_again_changes_anything() -> None:
    source, broker = SchoolSource(*students(50)), Recorder()
    async with cluster(*(sealed(broker, source) for _ in range(2))) as members:
        one, two = members
        async with cluster(sealed(broker, source)) as (leaver,):  # whom to play back, too
            await leaver.repository.create(Student(100, "Ada"))
            await leaver.repository.clear()
            await until_all_hold([one, two], source)
            await eventually(lambda: all(dropped_and_ready(each) for each in (one, two)))
        await eventually(lambda: len(one.node.members) == len(two.node.members) == 2)
        await settled()
        recorded = list(broker.heard)
        assert one.node._membership is not None
        mine = one.node._membership.origin
        seals = {
            "of another secret": Seal(Secrets(OTHER), "default", "x", time.time()),
            "of another namespace": Seal(Secrets(SECRET), "office", "x", time.time()),
        }
        plain = [*forgeries("x", mine), *forgeries(mine, mine)]
        hostile = [
            *recorded,
            *plain,
            *(each.close(text, time.time()) for each in seals.values() for text in plain),
            *(payload[:-1] for payload in recorded),
            *(payload[:60] + b"\x00" + payload[61:] for payload in recorded),
            b"",
            b"\xc1",
            b"\xc1" * (MAX_MESSAGE + 1_000),
        ]
        old = Seal(Secrets(SECRET), "default", "long gone", time.time() - MAX_DRIFT - 60)
        hostile += [old.close(text, time.time() - MAX_DRIFT - 60) for text in plain]
        before = [state(member) for member in members]
        counted = [sum(rejections(member).values()) for member in members]
        async with stranger(broker) as link:
            for payload in hostile:
                await link.publish(payload)
        await eventually(
            lambda: (
                [sum(rejections(member).values()) for member in members]
                == [count + len(hostile) for count in counted]
            )
        )
        await settled()
        assert [state(member) for member in members] == before
        assert set(rejections(one)) == {"unsigned", "forged", "stale", "oversized", "malformed"}
        held = one.repository[1]
        await one.repository.update(dataclasses.replace(held, name="still at work"))
        await until_all_hold(members, source)


async def test_a_message_that_is_not_let_in_does_not_keep_a_dead_link_looking_alive() -> None:
    source, broker = SchoolSource(*students(3)), MemoryBroker()
    async with cluster(sealed(broker, source)) as (one,):
        membership = one.node._membership
        assert membership is not None
        await eventually(lambda: membership.listening)
        (link,) = broker._hub.links

        async def swallow(payload: bytes) -> None:
            """Own heartbeats do not come back any more."""

        link.publish = swallow  # type: ignore[method-assign]
        put = asyncio.create_task(flood(link.inbox.put))
        try:
            await eventually(lambda: membership.links == 2)
        finally:
            put.cancel()


async def flood(put: Callable[[Message], object]) -> None:
    while True:
        put(Message(b"forged"))
        await asyncio.sleep(0.001)


# -- copies ----------------------------------------------------------------------------------------


def flipped(chunks: list[bytes]) -> list[bytes]:
    place = len(chunks[1]) // 2
    changed = bytearray(chunks[1])
    changed[place] ^= 1
    return [chunks[0], bytes(changed), *chunks[2:]]


def swapped(chunks: list[bytes]) -> list[bytes]:
    return [chunks[0], chunks[2], chunks[1], *chunks[3:]]


def without_one(chunks: list[bytes]) -> list[bytes]:
    return [*chunks[:2], *chunks[3:]]


def cut_short(chunks: list[bytes]) -> list[bytes]:
    return chunks[:-1]


@pytest.mark.parametrize("tamper", [flipped, swapped, without_one, cut_short])
async def test_a_copy_that_was_tampered_with_is_refused_and_the_next_donor_asked(
    tamper: Callable[[list[bytes]], list[bytes]],
) -> None:
    source, broker = SchoolSource(*students(5_000)), Recorder()
    async with cluster(*(sealed(broker, source) for _ in range(2))) as members:
        loads = source.calls["load_all"]

        def once(chunks: list[bytes]) -> list[bytes]:
            if broker.tampered or len(chunks) < 4:
                return chunks
            return tamper(chunks)

        broker.tamper = once
        async with cluster(sealed(broker, source)) as (third,):
            assert broker.tampered == 1
            assert third.content == source.rows
            assert third.repository.stats.snapshots == 1
            assert source.calls["load_all"] == loads
            assert rejections(third) == ({} if tamper is cut_short else {"forged": 1})
        assert [rejections(one) for one in members] == [{}, {}]


async def test_the_frames_of_one_copy_are_none_of_another() -> None:
    source, broker = SchoolSource(*students(5_000)), Recorder()
    async with cluster(sealed(broker, source)):
        recorded: list[list[bytes]] = []
        broker.tamper = lambda chunks: recorded.append(chunks) or chunks  # type: ignore[func-returns-value]
        async with cluster(sealed(broker, source)) as (second,):
            assert second.repository.stats.snapshots == 1
        broker.tamper = lambda chunks: recorded[0]
        loads = source.calls["load_all"]
        async with cluster(sealed(broker, source)) as (third,):
            assert third.repository.stats.snapshots == 0
            assert set(rejections(third)) == {"forged"}
            assert source.calls["load_all"] == loads + 1
            assert third.content == source.rows


def test_msgpack_never_begins_as_an_envelope_does() -> None:
    values: list[object] = [
        None,
        0,
        -1,
        "",
        b"",
        [],
        {},
        1.5,
        True,
        2**64 - 1,
        "x" * 70_000,
        [0] * 70_000,
    ]
    for value in values:
        assert not msgspec.msgpack.encode(value).startswith(b"\xc1")
