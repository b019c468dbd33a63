"""Nodes in one process, joined by the memory broker: what several of them do together."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import json
import logging
import random
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from typing import Any

import msgspec
import pytest

from imperfect_dollop import (
    BrokerUnavailableError,
    ClosedError,
    FunctionSource,
    Node,
    NotReadyError,
    Repository,
)
from imperfect_dollop.broker import Delivery, Gap, Link, Message
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.codecs import EntityCodec
from imperfect_dollop.replica.messages import (
    MAX_MESSAGE,
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
from imperfect_dollop.replica.stamp import ABSENT, Stamp, at

from .clockwork import clockwork
from .school import (
    Member,
    SchoolSource,
    Student,
    cluster,
    eventually,
    member,
    others,
    repository,
    settled,
    soon,
    students,
    until_all_hold,
)

ADA = Student(1, "Ada", version=1)
BOB = Student(2, "Bob", "Rome", version=1)


def loads(members: Sequence[Member]) -> list[int]:
    return [one.repository.stats.full_loads for one in members]


def snapshots(members: Sequence[Member]) -> list[int]:
    return [one.repository.stats.snapshots for one in members]


class Lossy:
    """A broker that swallows what `drops` says, without a word; like one that fails over without its tail."""

    local = True

    def __init__(self) -> None:
        self.inner = MemoryBroker()
        self.drops: Callable[[str, bytes], bool] = lambda node, payload: False
        self.dropped = 0
        self.refuse = 0  # so many publishes of events to come fail
        self.position: str | None = None  # with one, links go on where the last has ended

    @contextlib.asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[LossyLink]:
        async with self.inner.connect(namespace, node, after=after) as link:
            yield LossyLink(self, link, node)

    async def aclose(self) -> None:
        raise AssertionError("a broker that was handed in is left open")


class LossyLink:
    def __init__(self, broker: Lossy, link: Link, node: str) -> None:
        self._broker = broker
        self._link = link
        self._node = node
        self.position = broker.position
        self.waiting = 0
        self.send_transfer = link.send_transfer
        self.receive_transfer = link.receive_transfer

    async def publish(self, payload: bytes) -> None:
        if self._broker.refuse and is_events(payload):
            self._broker.refuse -= 1
            raise BrokerUnavailableError("not taken")
        await self._link.publish(payload)

    async def deliveries(self) -> AsyncGenerator[Delivery, None]:
        async for delivery in self._link.deliveries():
            if isinstance(delivery, Message) and self._broker.drops(self._node, delivery.payload):
                self._broker.dropped += 1
                continue
            if not isinstance(delivery, Gap):
                yield delivery


def is_events(payload: bytes) -> bool:
    return bool(msgspec.msgpack.decode(payload)[0] == "e")


# -- starting --------------------------------------------------------------------------------------


@clockwork
async def test_five_cold_nodes_are_one_load() -> None:
    source = SchoolSource(*students(1_000))
    broker = MemoryBroker()
    async with cluster(*(member(broker, source) for _ in range(5))) as members:
        assert all(one.content == source.rows for one in members)
        assert source.calls == {"load_all": 1}
        assert sorted(loads(members)) == [0, 0, 0, 0, 1]
        assert sorted(snapshots(members)) == [0, 1, 1, 1, 1]
        assert [len(one.node.members) for one in members] == [5] * 5
        await eventually(lambda: all(one.repository.state == "ready" for one in members))
    assert not others()


async def test_a_sibling_is_asked_before_the_source() -> None:
    source = SchoolSource(*students(3_000))
    broker = MemoryBroker()
    async with cluster(member(broker, source)) as (first,):
        await first.repository.delete(1)
        async with cluster(member(broker, source)) as (second,):
            assert second.content == first.content == source.rows
            assert source.calls["load_all"] == 1
            assert (loads([second]), snapshots([second])) == ([0], [1])
            assert (
                second.repository.info().last_source_read
                == first.repository.info().last_source_read
            )


async def test_bootstrap_from_the_source_only() -> None:
    source = SchoolSource(*students(10))
    broker = MemoryBroker()
    async with cluster(member(broker, source)):
        async with cluster(member(broker, source, bootstrap=("source",))) as (second,):
            assert (loads([second]), snapshots([second])) == ([1], [0])


async def test_the_source_is_away_and_a_sibling_has_a_copy() -> None:
    source = SchoolSource(*students(100))
    broker = MemoryBroker()
    async with cluster(member(broker, source)) as (first,):
        source.failure = OSError("away")
        async with cluster(member(broker, source, node={"startup": "raise"})) as (second,):
            assert second.content == first.content == source.rows
            assert loads([second]) == [0]


async def test_a_copy_that_nobody_vouches_for_is_better_than_none() -> None:
    source = SchoolSource(*students(100))
    broker = MemoryBroker()
    async with cluster(member(broker, source)) as (first,):
        source.failure = OSError("away")
        with broker.outage():  # something may be missing, and cannot be compared
            await settled()
        await eventually(lambda: first.node.status()["repositories"]["Student"]["clean"] is False)
        async with cluster(member(broker, source)) as (second,):
            assert second.content == source.rows
            assert await second.repository.get(1) == source.rows[1]


async def test_the_source_is_away_and_there_is_no_sibling() -> None:
    source = SchoolSource(*students(10))
    source.failure = OSError("away")
    broker = MemoryBroker()
    async with cluster(*(member(broker, source) for _ in range(3))) as members:
        for one in members:
            assert one.repository.state in ("cold", "loading")
            for _ in range(5):
                with pytest.raises(NotReadyError, match="away"):
                    await soon(one.repository.get(1))
            with pytest.raises(NotReadyError):
                await soon(one.repository.get_all())
            with pytest.raises(NotReadyError):
                len(one.repository)
        waiting = asyncio.gather(*(one.node.wait_ready() for one in members))
        source.failure = None
        await soon(waiting)
        assert all(one.content == source.rows for one in members)


async def test_a_node_whose_own_source_is_away_does_not_hold_up_the_others() -> None:
    good, bad = SchoolSource(*students(10)), SchoolSource()
    bad.failure = OSError("away")
    broker = MemoryBroker()
    async with cluster(
        member(broker, bad), member(broker, bad), member(broker, good), member(broker, bad)
    ) as members:
        await until_all_hold(members, good)
        assert loads(members)[2] == 1


async def test_what_is_written_while_a_snapshot_is_taken_is_in_it() -> None:
    source = SchoolSource(*students(20_000))
    broker = MemoryBroker()
    calm: dict[str, Any] = {"node": {"heartbeat": 2.0}}  # both are busy, and not to be missed
    async with cluster(member(broker, source, **calm)) as (donor,):
        joiner = member(broker, source, **calm)
        entering = asyncio.create_task(joiner.node.__aenter__())
        chance = random.Random(1)
        written = 0
        while not entering.done() or written < 20:
            key = chance.randrange(1, 25_000)
            held = donor.repository.peek(key)
            if held is None:
                await donor.repository.create(Student(key, "new"))
            elif chance.random() < 0.3:
                await donor.repository.delete(key)
            else:
                await donor.repository.update(dataclasses.replace(held, name="changed"))
            written += 1
        try:
            await soon(entering)
            await until_all_hold([donor, joiner], source)
            assert snapshots([joiner]) == [1]
            assert source.calls["load_all"] == 1
        finally:
            await joiner.node.__aexit__(None, None, None)


async def test_nodes_of_different_namespaces_have_nothing_to_do_with_each_other() -> None:
    source, office = SchoolSource(ADA), SchoolSource(BOB)
    broker = MemoryBroker()
    async with cluster(
        member(broker, source, node={"namespace": "school"}),
        member(broker, office, node={"namespace": "office"}),
    ) as (one, other):
        await one.repository.create(Student(3, "Eve"))
        await other.repository.invalidate(2)
        await one.repository.clear()
        await eventually(lambda: one.content == source.rows)
        assert other.content == {2: BOB}
        assert len(one.node.members) == len(other.node.members) == 1


async def test_several_repositories_of_a_node() -> None:
    source, office = SchoolSource(ADA), SchoolSource(BOB)
    broker = MemoryBroker()

    def build() -> tuple[Node, Any, Any]:
        pupils, clerks = repository(source), repository(office, name="clerks", preload=False)
        return Node(broker, pupils, clerks, heartbeat=0.05, offer_wait=0.05), pupils, clerks

    one, other = build(), build()
    async with one[0], other[0]:
        assert await one[2].get(2) == await other[2].get(2) == BOB
        ada = await one[1].update(ADA)
        bob = await one[2].update(BOB)
        await eventually(lambda: other[1].peek(1) == ada and other[2].peek(2) == bob)


# -- startup= --------------------------------------------------------------------------------------


async def test_startup_raise() -> None:
    source = SchoolSource(ADA)
    broker = MemoryBroker()
    one = member(broker, source, node={"startup": "raise"})
    with broker.outage("the plug was pulled"):
        with pytest.raises(BrokerUnavailableError, match="the plug was pulled"):
            await soon(one.node.__aenter__())
    assert one.repository.state == "closed"
    source.failure = OSError("no database")
    with pytest.raises(NotReadyError, match="no database"):
        await soon(one.node.__aenter__())
    assert one.repository.state == "closed"
    assert not others()
    source.failure = None
    async with one.node:
        assert one.content == source.rows


async def test_startup_wait() -> None:
    source = SchoolSource(ADA)
    source.failure = OSError("no database")
    broker = MemoryBroker()
    one = member(broker, source, node={"startup": "wait"})
    with broker.outage():
        entering = asyncio.create_task(one.node.__aenter__())
        await settled()
        assert not source.calls
    await eventually(lambda: source.calls["load_all"] >= 2)
    assert not entering.done()
    source.failure = None
    await soon(entering)
    assert one.content == source.rows
    await one.node.__aexit__(None, None, None)


async def test_startup_in_the_background() -> None:
    source = SchoolSource(ADA)
    broker = MemoryBroker()
    one, other = member(broker, source), member(broker, source)
    with broker.outage():
        async with cluster(one, other):
            assert one.content == other.content == source.rows  # each from the source
            assert one.repository.state == "degraded"
            ada = await one.repository.update(ADA)
            assert one.repository.peek(1) == ada
            assert one.node.status()["broker"]["up"] is False
            broker_is_back = asyncio.create_task(one.node.flush())
            await settled()
            assert not broker_is_back.done()
            one.node._shutdown_timeout = other.node._shutdown_timeout = 0.01
    broker_is_back.cancel()
    async with cluster(one, other):
        assert len(one.node.members) == 2


async def test_the_broker_comes_after_the_start() -> None:
    source = SchoolSource(ADA)
    broker = MemoryBroker()
    outage = broker.outage()
    outage.__enter__()
    async with cluster(member(broker, source), member(broker, source)) as (one, other):
        ada = await one.repository.update(ADA)
        assert other.repository.peek(1) == ADA
        outage.__exit__(None, None, None)
        await eventually(lambda: other.repository.peek(1) == ada)
        await eventually(lambda: one.repository.state == other.repository.state == "ready")
        await eventually(lambda: len(one.node.members) == len(other.node.members) == 2)


# -- writes ----------------------------------------------------------------------------------------


async def test_a_write_reaches_every_node() -> None:
    source = SchoolSource(ADA, BOB)
    broker = MemoryBroker()
    async with cluster(*(member(broker, source) for _ in range(3))) as members:
        await members[0].repository.update(dataclasses.replace(ADA, name="Ada L."))
        await members[1].repository.create(Student(3, "Eve"))
        await members[2].repository.delete(2)
        await until_all_hold(members, source)
        assert source.calls["load_all"] == 1
        assert [one.repository.stats.events_received for one in members] == [2, 2, 2]
        assert [one.repository.stats.events_sent for one in members] == [1, 1, 1]
        assert [one.repository.stats.gaps + one.repository.stats.doubts for one in members] == [
            0
        ] * 3


async def test_nodes_that_write_at_once_end_equal() -> None:
    source = SchoolSource(*students(20))
    broker = MemoryBroker()
    async with cluster(*(member(broker, source) for _ in range(4))) as members:

        async def write(one: Member, seed: int) -> None:
            chance = random.Random(seed)
            for number in range(60):
                key = chance.randrange(1, 25)
                held = one.repository.peek(key)
                with contextlib.suppress(Exception):
                    if held is None:
                        await one.repository.create(Student(key, f"{seed}.{number}"))
                    elif chance.random() < 0.2:
                        await one.repository.delete(key)
                    else:
                        renamed = dataclasses.replace(held, name=f"{seed}.{number}")
                        await one.repository.update(renamed)

        await asyncio.gather(*(write(one, seed) for seed, one in enumerate(members)))
        await until_all_hold(members, source)
        await eventually(lambda: len({digest(one) for one in members}) == 1)


def digest(one: Member) -> str:
    return str(one.node.status()["repositories"]["Student"]["digest"])


async def test_flush_waits_until_the_broker_has_taken_everything() -> None:
    source = SchoolSource(ADA, BOB)
    broker = MemoryBroker()
    async with cluster(member(broker, source), member(broker, source)) as (one, other):
        await soon(one.node.flush())  # nothing to do
        outage = broker.outage()
        outage.__enter__()
        await one.repository.update(ADA)
        flushing = asyncio.create_task(one.node.flush())
        await settled()
        await one.repository.update(BOB)  # written while it waits
        await settled()
        assert not flushing.done()
        assert one.node.status()["repositories"]["Student"]["unsent"] == 2
        outage.__exit__(None, None, None)
        await soon(flushing)
        assert one.repository.stats.events_sent == 2
        await until_all_hold([one, other], source)


# -- what gets lost --------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [True, False], ids=["the_last", "one_before_others"])
async def test_an_event_that_is_lost_is_noticed_and_repaired(last: bool) -> None:
    source = SchoolSource(ADA, BOB)
    broker = Lossy()
    async with cluster(*(member(broker, source) for _ in range(3))) as members:
        broker.drops = lambda node, payload: is_events(payload)
        await members[0].repository.update(ADA)
        await members[0].node.flush()
        await eventually(lambda: broker.dropped >= 3)
        broker.drops = lambda node, payload: False
        if not last:
            await members[0].repository.update(BOB)
        await until_all_hold(members, source)
        assert members[0].repository.stats.gaps == 0
        assert all(one.repository.stats.gaps >= 1 for one in members[1:])
        await eventually(lambda: all(one.repository.state == "ready" for one in members))


async def test_events_of_several_senders_that_are_lost() -> None:
    source = SchoolSource(*students(50))
    broker = Lossy()
    chance = random.Random(7)
    async with cluster(*(member(broker, source) for _ in range(4))) as members:
        broker.drops = lambda node, payload: is_events(payload) and chance.random() < 0.5
        for round_ in range(30):
            one = members[round_ % 4]
            held = one.repository.peek(chance.randrange(1, 51))
            if held is not None:
                with contextlib.suppress(Exception):
                    await one.repository.update(dataclasses.replace(held, name=f"n{round_}"))
        await eventually(lambda: broker.dropped > 5)
        broker.drops = lambda node, payload: False
        await until_all_hold(members, source)
        await eventually(lambda: all(one.repository.state == "ready" for one in members))


async def test_a_reader_that_was_told_of_a_gap_compares_everything() -> None:
    source = SchoolSource(ADA)
    broker = MemoryBroker()
    async with cluster(member(broker, source), member(broker, source)) as members:
        with broker.outage():
            source.put(BOB)  # behind everybody's back
        await until_all_hold(members, source)


async def test_heartbeats_that_are_lost_make_a_member_gone_and_back() -> None:
    source = SchoolSource(ADA)
    broker = Lossy()
    async with cluster(member(broker, source), member(broker, source)) as (one, other):
        broker.drops = lambda node, payload: True
        await eventually(lambda: len(one.node.members) == 1 and len(other.node.members) == 1)
        ada = await one.repository.update(ADA)
        broker.drops = lambda node, payload: False
        await eventually(lambda: len(one.node.members) == 2 and len(other.node.members) == 2)
        await eventually(lambda: other.repository.peek(1) == ada)


async def test_a_node_that_says_goodbye_is_gone_at_once() -> None:
    source = SchoolSource(ADA)
    broker = MemoryBroker()
    slow = {"heartbeat": 30.0}
    async with cluster(member(broker, source, node=slow)) as (stays,):
        async with cluster(member(broker, source, node={**slow, "name": "guest"})):
            await eventually(lambda: "guest" in stays.node.members)
        await eventually(lambda: "guest" not in stays.node.members)


async def test_what_the_broker_has_not_taken_is_sent_again() -> None:
    source = SchoolSource(ADA)
    broker = Lossy()
    broker.position = "kept"
    patient = {
        "heartbeat": 0.3
    }  # with less a node that is away for two attempts to connect counts as vanished
    async with cluster(
        member(broker, source, node=patient), member(broker, source, node=patient)
    ) as (one, other):
        broker.refuse = 2
        ada = await one.repository.update(ADA)
        assert one.repository.peek(1) == ada
        await soon(one.node.flush())
        assert broker.refuse == 0
        await eventually(lambda: other.repository.peek(1) == ada)
        assert other.repository.stats.gaps == 0
        assert other.repository.stats.applied == 1
        assert source.calls["load_all"] == 1


# -- outages of the broker -------------------------------------------------------------------------


async def test_in_an_outage_reads_and_writes_go_on_and_afterwards_all_are_equal() -> None:
    source = SchoolSource(*students(20))
    broker = MemoryBroker()
    async with cluster(*(member(broker, source) for _ in range(3))) as members:
        with broker.outage():
            await eventually(lambda: all(not status_up(one) for one in members))
            assert all(one.repository.state == "degraded" for one in members)
            for number, one in enumerate(members):
                held = one.repository[number + 1]
                stored = await one.repository.update(dataclasses.replace(held, name="changed"))
                assert one.repository.peek(number + 1) == stored
                assert await one.repository.get(20) == source.rows[20]
            created = await members[0].repository.create(Student(99, "Eve"))
            await members[1].repository.delete(20)
            assert members[1].repository.peek(99) is None
            assert members[0].node.status()["repositories"]["Student"]["unsent"] == 2
        await soon(asyncio.gather(*(one.node.flush() for one in members)))
        await until_all_hold(members, source)
        assert created == members[2].repository.peek(99)
        await eventually(lambda: all(one.repository.state == "ready" for one in members))
        # One of them may have compared with the source for all, and told what it has found.
        assert all(one.repository.stats.events_sent >= 2 for one in members[:2])


def status_up(one: Member) -> bool:
    return bool(one.node.status()["broker"]["up"])


async def test_one_outage_after_another() -> None:
    source = SchoolSource(*students(5))
    broker = MemoryBroker()
    async with cluster(*(member(broker, source) for _ in range(3))) as members:
        for round_ in range(5):
            with broker.outage():
                await settled()
                held = members[round_ % 3].repository[1]
                with contextlib.suppress(Exception):
                    await members[round_ % 3].repository.update(
                        dataclasses.replace(held, name=f"n{round_}")
                    )
        await until_all_hold(members, source)
        await eventually(lambda: all(one.repository.state == "ready" for one in members))


async def test_an_outbox_that_overflows_is_repaired() -> None:
    source = SchoolSource(*students(50))
    broker = Lossy()
    async with cluster(member(broker, source, node={"outbox": 10}), member(broker, source)) as (
        one,
        other,
    ):
        with broker.inner.outage():
            for held in students(50):
                await one.repository.update(held)
            assert one.node.status()["repositories"]["Student"]["unsent"] <= 10
        await until_all_hold([one, other], source)


async def test_a_broker_that_was_handed_in_stays_usable() -> None:
    broker = Lossy()  # which fails when it is closed
    async with cluster(member(broker, SchoolSource(ADA))):
        pass
    async with broker.connect("default", "stranger") as link:
        await link.publish(b"still here")


# -- refreshes, clear, invalidate ------------------------------------------------------------------


async def test_one_node_refreshes_for_all() -> None:
    source = SchoolSource(ADA)
    broker = MemoryBroker()
    async with cluster(
        member(broker, source, ttl=0.1),
        member(broker, source, ttl=60.0),
        member(broker, source, ttl=60.0),
    ) as members:
        before = loads(members)
        source.put(dataclasses.replace(ADA, name="Ada L.", version=2), BOB)
        await until_all_hold(members, source)
        del source.rows[1]
        await until_all_hold(members, source)
        reads = [one.repository.info().last_source_read for one in members]
        await eventually(
            lambda: all(
                (one.repository.info().last_source_read or 0) > (read or 0)
                for one, read in zip(members, reads, strict=True)
            )
        )
        after = loads(members)
        assert after[0] > before[0]
        assert after[1:] == before[1:]


async def test_nodes_with_one_ttl_do_not_all_refresh() -> None:
    """While one loads the others wait for what it will publish."""
    source = SchoolSource(ADA)
    broker = MemoryBroker()
    async with cluster(
        member(broker, source, ttl=0.2, jitter=0.0),
        *(member(broker, source, ttl=1.2, jitter=0.0) for _ in range(3)),
    ) as members:
        start = source.calls["load_all"]
        gate = source.hold("load_all")
        await eventually(lambda: gate.entered == 1)
        await eventually(
            lambda: all((one.repository.info().data_age or 0) > 1.3 for one in members)
        )
        source.gates.clear()
        gate.open()
        await eventually(
            lambda: all((one.repository.info().data_age or 9) < 1.2 for one in members[1:])
        )
        assert loads(members[1:]) == [0, 0, 0] or source.calls["load_all"] <= start + 4
        assert gate.entered == 1


async def test_clear_makes_every_node_load_what_the_source_has_now() -> None:
    source = SchoolSource(ADA, BOB)
    broker = MemoryBroker()
    async with cluster(*(member(broker, source) for _ in range(3))) as members:
        source.rows = {1: dataclasses.replace(ADA, name="Ada L.", version=2)}
        await members[1].repository.clear()
        await until_all_hold(members, source)
        await eventually(lambda: all(one.repository.state == "ready" for one in members))


async def test_invalidate_reaches_every_node() -> None:
    source = SchoolSource(ADA, BOB)
    broker = MemoryBroker()
    async with cluster(*(member(broker, source) for _ in range(3))) as members:
        source.rows = {1: dataclasses.replace(ADA, name="Ada L.", version=2)}
        await members[1].repository.invalidate(1, 2)
        assert members[1].content == source.rows
        await until_all_hold(members, source)
        assert source.calls["load_all"] == 1


# -- on demand -------------------------------------------------------------------------------------


async def test_on_demand_an_event_changes_what_is_held_and_nothing_else() -> None:
    source = SchoolSource(ADA, BOB)
    broker = MemoryBroker()
    async with cluster(*(member(broker, source, preload=False) for _ in range(2))) as (one, other):
        await other.repository.get(1)
        ada = await one.repository.update(ADA)
        bob = await one.repository.update(BOB)
        await eventually(lambda: other.repository.peek(1) == ada)
        await eventually(lambda: other.repository.stats.events_received == 2)
        assert 2 not in other.repository
        assert await other.repository.get(2) == bob
        await one.repository.delete(1)
        await eventually(lambda: 1 not in other.repository)
        assert await other.repository.get(1) is None


async def test_on_demand_a_row_that_was_created_elsewhere_is_not_absent_for_long() -> None:
    source = SchoolSource()
    broker = MemoryBroker()
    async with cluster(
        *(member(broker, source, preload=False, missing_ttl=60.0) for _ in range(2))
    ) as (one, other):
        assert await other.repository.get(1) is None
        ada = await one.repository.create(Student(1, "Ada"))
        await eventually(lambda: other.repository.stats.events_received == 1)

        async def look() -> None:
            while await other.repository.get(1) != ada:
                await asyncio.sleep(0.001)

        await soon(look())


async def test_on_demand_invalidate_and_clear_reach_every_node() -> None:
    source = SchoolSource(ADA, BOB)
    broker = MemoryBroker()
    async with cluster(*(member(broker, source, preload=False) for _ in range(3))) as members:
        for one in members:
            await one.repository.get_many([1, 2])
        newer = dataclasses.replace(ADA, name="Ada L.", version=2)
        source.put(newer)
        await members[0].repository.invalidate(1)
        await eventually(lambda: all(1 not in one.repository for one in members))
        assert all(2 in one.repository for one in members)
        assert [await one.repository.get(1) for one in members] == [newer] * 3
        await members[0].repository.clear()
        await eventually(lambda: all(len(one.repository) == 0 for one in members))
        assert [await one.repository.get(1) for one in members] == [newer] * 3


async def test_on_demand_what_is_lost_makes_rows_stale_not_wrong_for_ever() -> None:
    source = SchoolSource(ADA)
    broker = Lossy()
    async with cluster(*(member(broker, source, preload=False, ttl=60.0) for _ in range(2))) as (
        one,
        other,
    ):
        await one.repository.get(1)
        await other.repository.get(1)
        broker.drops = lambda node, payload: is_events(payload)
        ada = await one.repository.update(ADA)
        await one.node.flush()
        await eventually(lambda: broker.dropped >= 2)
        broker.drops = lambda node, payload: False

        async def look() -> None:
            while await other.repository.get(1) != ada:
                await asyncio.sleep(0.001)

        await soon(look())


# -- what is said ----------------------------------------------------------------------------------


async def test_the_status_is_plain() -> None:
    source = SchoolSource(ADA)
    broker = MemoryBroker()
    one = member(broker, source, node={"name": "one"})
    assert json.loads(json.dumps(one.node.status()))["open"] is False
    async with cluster(one, member(broker, source, node={"name": "two"})):
        await eventually(lambda: one.node.members == ("one", "two"))
        await one.repository.get(1)
        status = json.loads(json.dumps(one.node.status(), allow_nan=False))
        assert status["node"] == "one"
        assert status["namespace"] == "default"
        assert status["broker"] == {"up": True, "failure": None}
        students = status["repositories"]["Student"]
        assert students["state"] == "ready"
        assert students["info"]["entities"] == 1
        assert students["stats"]["hits"] == 1
        (sibling,) = status["members"]
        assert sibling["node"] == "two"
        await eventually(
            lambda: (
                one.node.status()["members"][0]["repositories"]["Student"]["digest"]
                == students["digest"]
            )
        )
        with broker.outage("cut"):
            await eventually(
                lambda: one.node.status()["broker"]["failure"] == "the memory broker: cut"
            )
            json.dumps(one.node.status(), allow_nan=False)
    with pytest.raises(ClosedError):
        await one.node.flush()


@dataclasses.dataclass(frozen=True, slots=True)
class Pupil:
    """A student as the next version of an application knows it."""

    id: int
    name: str
    city: str = "Paris"
    version: int = 0
    nickname: str = ""


async def test_that_a_sibling_has_another_class_is_said_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker = MemoryBroker()
    old = member(broker, SchoolSource(ADA))
    new: Repository[int, Pupil] = Repository(
        Pupil,
        source=FunctionSource(load_all=load_pupils, load=load_pupil),
        name="Student",
        read_only=True,
    )
    async with cluster(old), Node(broker, new, heartbeat=0.05, name="new"):
        await eventually(lambda: len(old.node.members) == 2)
        await eventually(lambda: old.node.status()["members"][0]["repositories"])
        await settled()
    told = [each.getMessage() for each in caplog.records if "another shape" in each.message]
    assert len(told) == 2  # on either node
    assert any("new has another shape of Student" in one for one in told)


async def load_pupils() -> list[Pupil]:
    return [Pupil(1, "Ada")]


async def load_pupil(key: int) -> Pupil | None:
    return Pupil(1, "Ada") if key == 1 else None


# -- garbage ---------------------------------------------------------------------------------------


def garbage(origin: str, fingerprint: str, row: bytes) -> list[bytes]:
    """What a stranger may send: noise, and messages that are well-formed as far as that goes."""
    chance = random.Random(3)
    far = Stamp(2, at(4e9), "stranger")
    event = Event(Kind.UPDATE, b"\x01", row, far, ABSENT)
    state = RepositoryState(
        repository="Student",
        fingerprint="0" * 16,
        phase=Phase.READY,
        whole=True,
        clean=True,
        sequence=0,
        progress=1,
        digest=1,
        entities=1,
        confirmed=1,
        failures=0,
        kept=1,
    )
    beat = Heartbeat("stranger", "x", 1, 1, False, 1.0, [state])
    good = encode(Events("stranger", "Student", fingerprint, 1, [event]))
    unlimited = msgspec.msgpack.encode
    return [
        b"",
        b"\x00",
        b"\xc1",
        b"\xff" * 1_000,
        b"\x91" * 100_000,
        bytes(MAX_MESSAGE + 1),
        *(chance.randbytes(chance.randrange(1, 200)) for _ in range(200)),
        *(good[:cut] for cut in range(len(good))),
        *(bytes([*good[:at_], good[at_] ^ 0xFF, *good[at_ + 1 :]]) for at_ in range(20)),
        unlimited(["e", "stranger", "Student", fingerprint, 2**63, []]),
        unlimited(["e", "x" * 10_000, "Student", fingerprint, 1, []]),
        unlimited(["z", 1, 2, 3]),
        unlimited({"e": 1}),
        unlimited(["h", "stranger", "x", -1, 1, False, 1.0, []]),
        good,  # from beyond the drift bound
        encode(Events("stranger", "Student", "another schema", 2, [event])),
        encode(Events("stranger", "Nobody", fingerprint, 1, [event])),
        encode(Events("stranger", "Student", fingerprint, 3, [dataclass_event(event)])),
        encode(Events(origin, "Student", fingerprint, 1, [event])),  # in our own name
        encode(beat),
        encode(Take("stranger", origin, "Student", "another schema", "nowhere", [0])),
        encode(Take("stranger", origin, "Student", fingerprint, "nowhere", [0, 2**62])),
        encode(Take("stranger", origin, "Nobody", fingerprint, "nowhere", [])),
        encode(Refuse("stranger", "nowhere", "no")),
    ]


def dataclass_event(event: Event) -> Event:
    return msgspec.structs.replace(event, content=b"\x00")


async def test_what_a_stranger_publishes_changes_nothing_and_raises_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = SchoolSource(ADA, BOB)
    broker = MemoryBroker()
    async with cluster(member(broker, source), member(broker, source)) as members:
        origin = members[0].node.status()["origin"]
        codec = EntityCodec(Student, key="id", version="version")
        forged = codec.encode(Student(1, "Mallory", version=2))
        async with broker.connect("default", "stranger") as link:
            for payload in garbage(origin, codec.fingerprint, forged):
                await link.publish(payload)
                await asyncio.sleep(0)
                assert all(one.content == source.rows for one in members), payload[:100]
            await settled()
        assert all(one.node.status()["rejected_messages"] > 200 for one in members)
        eve = await members[0].repository.create(Student(3, "Eve"))
        await eventually(lambda: members[1].repository.peek(3) == eve)
        await eventually(lambda: all(one.repository.state == "ready" for one in members))
        assert all(one.content == source.rows for one in members)
    errors = [one for one in caplog.records if one.levelno >= logging.ERROR]
    assert not errors, [one.getMessage() for one in errors]
