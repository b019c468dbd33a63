"""What somebody who set out to break it has found: clear() in the way, closing, floods, and clocks that are set."""

from __future__ import annotations

import asyncio
import dataclasses
import datetime as dt
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from imperfect_dollop import (
    ClosedError,
    ConfigurationError,
    ConflictError,
    DollopError,
    Node,
    NotReadyError,
    Repository,
    SourceUnavailableError,
    State,
)
from imperfect_dollop import exchange as exchange_module
from imperfect_dollop import outbox as outbox_module
from imperfect_dollop import waiters as waiters_module
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.codecs import EntityCodec
from imperfect_dollop.errors import ProtocolError
from imperfect_dollop.outbox import Outbox
from imperfect_dollop.replica import buffer as buffer_module
from imperfect_dollop.replica.comparison import Comparison
from imperfect_dollop.replica.messages import (
    MAX_REPOSITORIES,
    Chunk,
    Event,
    Header,
    Kind,
    Run,
    Take,
    encode,
)
from imperfect_dollop.replica.replica import Replica
from imperfect_dollop.replica.snapshot import Donor, Joiner
from imperfect_dollop.replica.stamp import ABSENT
from imperfect_dollop.seat import Seat
from imperfect_dollop.source import FunctionSource

from .builders import (
    KEYS,
    NOW,
    ROWS,
    Row,
    batch,
    doubts,
    holds,
    load_all,
    make,
    resyncs,
    stamp,
    update,
)
from .school import (
    NEW,
    Gate,
    Member,
    SchoolSource,
    Student,
    cluster,
    eventually,
    member,
    repository,
    settled,
    soon,
    students,
    until_all_hold,
)

BEATS = 20
"""Heartbeats in which what goes on for ever would have shown."""


class HookedBroker(MemoryBroker):
    """Calls `before_publish`, once there is one, before it takes a message."""

    before_publish: Callable[[], Awaitable[object]] | None = None

    @asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[Any]:
        async with super().connect(namespace, node, after=after) as link:
            publish = link.publish
            in_order = asyncio.Lock()

            async def hooked(payload: bytes) -> None:
                async with in_order:
                    if self.before_publish is not None:
                        await self.before_publish()
                    await publish(payload)

            link.publish = hooked  # type: ignore[method-assign]
            yield link


def beats_of(other: Member, seen_by: Member) -> int:
    """The number of the last heartbeat of one node that another has heard."""
    membership = seen_by.node._membership
    assert membership is not None
    known = [one for one in membership.members.alive.values() if one.beat.name == other.node.name]
    return known[0].beat.number if known else 0


async def entered(gate: Gate) -> None:
    await eventually(lambda: gate.entered)


# -- clear() in the way of a read ------------------------------------------------------------------


async def test_a_read_again_of_everything_that_clear_overtakes_finds_the_row() -> None:
    gate: Gate | None = None

    async def load_rows() -> list[Student]:
        if gate is not None:
            await gate.pass_through()
        return students(1)

    source: FunctionSource[int, Student] = FunctionSource(load_all=load_rows)
    async with Repository(Student, source=source, ttl=None, read_only=True) as repo:
        gate = Gate()
        reading = asyncio.create_task(repo.get(1, max_staleness=0.0))
        await eventually(lambda: gate.entered)
        await repo.clear()
        await settled()
        assert not reading.done()
        gate.open()
        assert await soon(reading) == students(1)[0]
        assert await soon(repo.get(1)) == students(1)[0]


async def test_a_read_again_of_one_row_that_clear_overtakes_finds_it() -> None:
    source = SchoolSource(*students(3))
    async with repository(source) as repo:
        for turns in range(30):  # clear() comes at every point of the read
            gate = source.hold("load_all")
            reading = asyncio.create_task(repo.get(1, max_staleness=0.0))
            await settled(turns)
            await repo.clear()
            await entered(gate)
            await settled()
            source.gates.clear()
            gate.open()
            assert await soon(reading) == source.rows[1]
            assert await soon(repo.get(1)) == source.rows[1]


async def test_a_refresh_ends_with_an_error_when_the_fill_after_a_clear_fails() -> None:
    source = SchoolSource(*students(3))
    async with repository(source) as repo:
        gate = source.hold("load_all")
        loading = asyncio.create_task(repo.refresh())
        await eventually(lambda: gate.entered)
        queued = asyncio.create_task(repo.refresh())
        await settled()
        source.failure = ConnectionError("down")
        await repo.clear()
        gate.open()
        with pytest.raises(DollopError, match="down"):
            await soon(loading)
        with pytest.raises(NotReadyError, match="down"):
            await soon(queued)


# -- writes ----------------------------------------------------------------------------------------


class AnswerLost(SchoolSource):
    """Creates commit, and the answer does not arrive."""

    async def create(self, entity: Student, /) -> Student:
        await super().create(entity)
        raise ConnectionError("the answer was lost after the commit")


async def test_a_write_that_may_have_been_done_is_told_of_though_a_sibling_has_everything_dropped() -> (
    None
):
    # The sibling may have read the row again before that write.
    source, theirs, broker = SchoolSource(*students(3)), SchoolSource(*students(3)), MemoryBroker()
    writer, sibling = member(broker, source, preload=False), member(broker, theirs, preload=False)
    async with cluster(writer, sibling):
        held = source.rows[1]
        assert await writer.repository.get(1) == held
        source.failure = OSError("away")
        with pytest.raises(SourceUnavailableError):
            await writer.repository.update(dataclasses.replace(held, name="next"))
        assert sibling.repository.stats.events_received == 0
        await sibling.repository.clear()
        await eventually(lambda: sibling.repository.stats.events_received == 1)
        assert 1 not in writer.repository


async def test_a_row_that_was_created_under_a_key_nobody_has_heard_of_is_found() -> None:
    source, broker = AnswerLost(*students(3)), MemoryBroker()
    one, two = member(broker, source), member(broker, source)
    async with cluster(one, two):
        await until_all_hold([one, two], source)
        with pytest.raises(SourceUnavailableError, match="answer was lost"):
            await soon(one.repository.create(Student(NEW, "new")))
        assert len(source.rows) == 4
        await until_all_hold([one, two], source)


class VersionsSeen(SchoolSource):
    """Notes which versions deletes name."""

    def __init__(self, *students: Student) -> None:
        super().__init__(*students)
        self.versions: list[int | None] = []

    async def delete(self, key: int, version: int | None, /) -> None:
        self.versions.append(version)
        await super().delete(key, version)


async def test_a_delete_that_queued_while_everything_was_dropped_names_its_version() -> None:
    source = VersionsSeen(*students(3))
    async with repository(source) as repo:
        at_update, at_load = source.hold("update"), source.hold("load_all")
        updating = asyncio.create_task(repo.update(repo[1]))
        await eventually(lambda: at_update.entered)
        deleting = asyncio.create_task(repo.delete(1))
        await settled()
        await repo.clear()
        await eventually(lambda: at_load.entered)
        source.put(Student(1, "a rival's", version=9))
        at_update.open()
        with pytest.raises(ConflictError):
            await soon(updating)
        await settled()
        assert source.versions == []  # its turn has come, and it waits for the rows
        at_load.open()
        await soon(asyncio.gather(deleting, return_exceptions=True))
        assert None not in source.versions


async def test_a_delete_that_queued_before_a_clear_does_not_delete_a_later_version() -> None:
    source = VersionsSeen(*students(3))
    async with repository(source) as repo:
        at_update, at_load = source.hold("update"), source.hold("load_all")
        at_read = source.hold("load", "load_many")
        updating = asyncio.create_task(repo.update(repo[1]))
        await eventually(lambda: at_update.entered)
        deleting = asyncio.create_task(repo.delete(1))
        await settled()
        await repo.clear()
        await eventually(lambda: at_load.entered)
        at_load.open()
        await eventually(lambda: repo.state == State.READY)
        rival = Student(1, "a rival's", version=9)
        source.put(rival)
        at_update.open()
        await eventually(lambda: source.versions)
        at_read.open()  # only now, so that the delete was of the version that was held
        with pytest.raises(ConflictError):
            await soon(updating)
        with pytest.raises(ConflictError):
            await soon(deleting)
        assert source.versions == [1]
        assert source.rows[1] == rival


async def test_a_write_that_waited_for_the_rows_while_the_node_left_is_refused() -> None:
    source, broker = SchoolSource(*students(3)), HookedBroker()
    one = member(broker, source, bootstrap=("source",), node={"shutdown_timeout": 30.0})
    async with cluster(one):
        at_load = source.hold("load_all")
        await one.repository.clear()
        await eventually(lambda: at_load.entered)
        await soon(one.node.flush())
        writing = asyncio.create_task(one.repository.create(Student(9, "late")))
        await settled()
        goodbye = Gate()
        broker.before_publish = goodbye.pass_through
        leaving = asyncio.create_task(one.node.__aexit__(None, None, None))
        await eventually(lambda: goodbye.entered and one.repository.state == State.CLOSED)
        at_load.open()  # the rows are there while it says goodbye
        with pytest.raises(ClosedError):
            await soon(writing)
        assert not leaving.done()
        goodbye.open()
        await soon(leaving)
    assert source.calls["create"] == 0
    assert sorted(source.rows) == [1, 2, 3]


# -- several nodes ---------------------------------------------------------------------------------


async def test_an_on_demand_node_beside_whole_ones_causes_no_full_loads() -> None:
    source, broker = SchoolSource(*students(3)), MemoryBroker()
    one, two = member(broker, source), member(broker, source)
    asking = member(broker, source, preload=False)
    async with cluster(one, two, asking):
        await until_all_hold([one, two], source)
        await eventually(lambda: len(one.node.members) == len(two.node.members) == 3)
        assert await soon(asking.repository.get(1)) == source.rows[1]
        await one.repository.update(one.repository[1])
        loads = source.calls["load_all"]
        pairs = [(two, one), (asking, one), (one, two), (asking, two)]
        goals = [beats_of(*pair) + BEATS for pair in pairs]
        await eventually(
            lambda: all(beats_of(*pair) >= goal for pair, goal in zip(pairs, goals, strict=True))
        )
        assert source.calls["load_all"] == loads
        assert [whole.repository.stats.gaps for whole in (one, two)] == [0, 0]
        assert [whole.repository.state for whole in (one, two)] == [State.READY] * 2


async def test_a_donor_that_leaves_lets_its_joiner_go_on_elsewhere(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    gate = Gate()

    async def asked_and_silent(self: Seat, take: Take) -> None:
        await gate.pass_through()

    monkeypatch.setattr(Seat, "_give", asked_and_silent)
    monkeypatch.setattr(exchange_module, "TRANSFER_TIMEOUT", 600.0)  # that is not what ends it
    source, broker = SchoolSource(*students(3)), MemoryBroker()
    donor, joiner = member(broker, source), member(broker, source)
    async with cluster(donor):
        await until_all_hold([donor], source)
        joining = asyncio.create_task(joiner.node.__aenter__())
        await eventually(lambda: gate.entered)
        assert joiner.repository.state == State.LOADING
    await soon(joining)
    try:
        await until_all_hold([joiner], source)
        stats = joiner.repository.stats
        assert (stats.snapshots, stats.full_loads) == (0, 1)
    finally:
        await joiner.node.__aexit__(None, None, None)


async def test_flush_and_a_snapshot_come_to_an_end_while_writes_go_on() -> None:
    source, broker = SchoolSource(*students(50), versioned=False), HookedBroker()
    one, two = (member(broker, source, version=None) for _ in range(2))
    writes = 0

    async def write_one_more() -> None:
        nonlocal writes
        writes += 1
        key = writes % 50 + 1
        await one.repository.update(Student(key, f"write {writes}"))

    async with cluster(one):
        await until_all_hold([one], source)
        broker.before_publish = write_one_more  # so that something is unsent at all times
        await write_one_more()
        await soon(one.node.flush())
        assert writes > 1
        async with cluster(two):
            await eventually(lambda: two.repository.state == State.READY)
            written = writes
            await eventually(lambda: writes > written)
            broker.before_publish = None
            await until_all_hold([one, two], source)
            stats = two.repository.stats
            assert (stats.snapshots, stats.full_loads) == (1, 0)


# -- the core: copies that are made while rows change ----------------------------------------------


def frames(donor: Replica[int, Row], buckets: list[int]) -> Donor[int, Row]:
    return Donor(donor, Take("a", "b", "rows", ROWS.fingerprint, "x", buckets), lambda: True)


def test_a_row_made_again_after_the_donor_has_begun_arrives(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("imperfect_dollop.replica.snapshot.CHUNK_BYTES", 1)
    one, two = make("a"), make("b")
    load_all(two, *[Row(key) for key in range(1, 6)])
    write = two.begin_write(4)
    two.wrote(write, Kind.DELETE, 4, None, NOW + 1)
    two.end_write(write)
    one.go_cold()
    joiner = Joiner(one)
    coming = frames(two, joiner.begin("x")).frames()
    arrived = [next(coming)]
    write = two.begin_write(4)
    event, _ = two.wrote(write, Kind.CREATE, 4, Row(4), NOW + 2)
    two.end_write(write)
    one.receive(two.pack("rows", [event]), NOW + 2)
    arrived += coming
    for frame in filter(None, arrived):
        joiner.take(frame)
    assert joiner.arrived
    assert joiner.finish(NOW + 3) == []
    assert holds(one, *two.table.live.values())
    assert Row(4) in one.table.live.values()


def test_a_copy_from_before_a_write_that_was_acknowledged_is_not_believed() -> None:
    one, two = make("a"), make("b")
    for replica in (one, two):
        load_all(replica, Row(1, 1, "old"))
    write = one.begin_write(1)  # under way at the source
    one.cleared()
    two.cleared()
    load_all(two, Row(1, 1, "old"), second=1)  # read before the commit
    two.replay()
    two.go_warm()
    joiner = Joiner(one)
    copy = list(frames(two, joiner.begin("x")).frames())
    one.wrote(write, Kind.UPDATE, 1, Row(1, 2, "mine"), NOW + 2)  # committed and acknowledged
    one.end_write(write)
    for frame in filter(None, copy):
        joiner.take(frame)
    assert joiner.finish(NOW + 3) is None
    assert one.cold


# -- the core: bytes that can be read, and are not those of the entity that they make ----------------


@dataclasses.dataclass(frozen=True)
class Dated:
    id: int
    when: dt.datetime


DATED = EntityCodec(Dated)
NOT_CANONICAL = msgspec.msgpack.encode([1, "20270101T000000"])
GOOD = Dated(1, dt.datetime(2026, 1, 1, tzinfo=dt.UTC))


def dated(origin: str) -> Replica[int, Dated]:
    replica: Replica[int, Dated] = Replica(
        origin, KEYS, DATED, key_of=lambda row: row.id, version_of=lambda row: 0, whole=True
    )
    replica.table.put(1, GOOD, stamp(0, 1))
    return replica


def test_an_event_of_such_bytes_is_ignored_and_doubted() -> None:
    replica, first = dated("a"), stamp(0, 1)
    for number, one in enumerate(
        (
            Event(Kind.UPDATE, KEYS.encode(1), NOT_CANONICAL, stamp(0, 2), first),  # a successor
            Event(Kind.UPDATE, KEYS.encode(1), NOT_CANONICAL, stamp(0, 3), ABSENT),
            Event(  # an answer
                Kind.FOUND,
                KEYS.encode(1),
                NOT_CANONICAL,
                stamp(0, 4),
                ABSENT,
                (first, stamp(0, 2), stamp(0, 3)),
            ),
        ),
        1,
    ):
        effects = replica.receive(batch(one, first=number, fingerprint=DATED.fingerprint), NOW + 9)
        assert doubts(effects) == {1}
        assert replica.table.live == {1: GOOD}
        assert replica.progress.last("b") == number
    assert 1 in replica.disputes
    assert replica.counts.rejections["malformed"]


def test_a_copy_with_such_bytes_is_not_taken() -> None:
    replica = dated("a")
    replica.go_cold()
    joiner = Joiner(replica)
    buckets = joiner.begin("x")
    runs = [Run(1, stamp(0, 2).time, 0)]
    chunk = Chunk(buckets, False, {}, ["b"], [NOT_CANONICAL], runs, [])
    joiner.take(encode(Header("x", DATED.fingerprint, {}, 0, buckets)))
    with pytest.raises(ProtocolError, match="not the canonical bytes"):
        joiner.take(encode(chunk))


def test_a_comparison_with_such_bytes_takes_nothing() -> None:
    replica = dated("a")
    comparison = Comparison(replica, "x", NOW + 9)
    bucket = replica.table.bucket(1)
    runs = [Run(1, stamp(0, 2).time, 0)]
    chunk = Chunk([bucket], False, {}, ["b"], [NOT_CANONICAL], runs, [])
    comparison.take(encode(Header("x", DATED.fingerprint, {}, 0, [bucket])))
    with pytest.raises(ProtocolError, match="not the canonical bytes"):
        comparison.take(encode(chunk))
    assert replica.table.live == {1: GOOD}


# -- bounds ----------------------------------------------------------------------------------------


def test_a_node_says_so_when_its_heartbeat_would_have_no_room_for_its_repositories() -> None:
    source = SchoolSource(*students(1))
    many = [repository(source, name=f"r{number}") for number in range(MAX_REPOSITORIES + 1)]
    Node("memory://", *many[1:])
    with pytest.raises(ConfigurationError, match="1001 repositories"):
        Node("memory://", *many)


@pytest.mark.parametrize("what", ["name", "namespace"])
def test_a_name_that_does_not_fit_on_the_wire_is_refused(what: str) -> None:
    names: dict[str, Any] = {what: "n" * 300}
    with pytest.raises(ConfigurationError, match=f"{what} must be 1 to 256 characters"):
        Node("memory://", repository(SchoolSource()), **names)


def test_events_that_wait_are_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "MAX_BYTES", 10_000)
    outbox = Outbox(10_000)
    for key in range(100):
        outbox.add(update(Row(key, 2, "x" * 1_000), 2, stamp(1, 1)))
    events, skipped = outbox.batch()
    assert 0 < sum(len(one.content or b"") for one in events) <= 10_000
    assert len(events) + skipped == 100  # nothing is given up in silence
    assert outbox.merged == 0
    assert ROWS.decode(events[-1].content or b"").id == 99


def test_one_row_written_over_and_over_takes_no_more_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(outbox_module, "MAX_BYTES", 10_000)
    outbox = Outbox(10_000)
    for version in range(2, 102):
        outbox.add(update(Row(1, version, "x" * 1_000), version, stamp(version - 1, version - 1)))
        assert len(outbox) <= 10
    events, skipped = outbox.batch()
    assert skipped == 0
    assert events[0].base == stamp(1, 1)
    assert ROWS.decode(events[-1].content or b"").version == 101


def test_what_a_cold_replica_keeps_is_bounded_in_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(buffer_module, "MAX_BUFFERED", 10_000)
    replica = make()
    replica.go_cold()
    load = replica.begin_cold_load(NOW)
    for number in range(1, 101):
        event = update(Row(1, number + 1, "x" * 1_000), number, stamp(number, number - 1))
        replica.receive(batch(event, first=number), NOW)
    assert replica._buffer is not None
    kept = [event for _, events in replica._buffer.events for event in events.events]
    assert 0 < sum(len(event.content or b"") for event in kept) <= 10_000
    list(replica.replace(load, {}))
    replica.end_load(load)
    assert resyncs([*replica.replay(), *replica.go_warm()])  # the rest is known to be lost


async def test_callers_that_have_gone_do_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiters_module, "MAX_CANCELLED", 10)
    source = SchoolSource(*students(3))
    repo = repository(source)
    gate = source.hold("load_all")
    entering = asyncio.create_task(repo.__aenter__())
    await eventually(lambda: gate.entered)
    session = repo._session
    assert session is not None
    patient = asyncio.create_task(repo.get(1))
    for _ in range(20):
        callers = [asyncio.create_task(repo.get(1)) for _ in range(10)]
        await settled(3)
        assert sum(not waiting.done() for waiting in session.filling._waiting._queue) == 11
        for caller in callers:
            caller.cancel()
        await asyncio.wait(callers)
        assert len(session.filling._waiting) <= 1 + 2 * 10
    gate.open()
    assert await soon(patient) == source.rows[1]
    await soon(entering)
    await repo.__aexit__(None, None, None)


# -- clocks ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ttl", [None, 120.0])
async def test_a_clock_that_was_set_back_does_not_make_old_rows_fresh(
    ttl: float | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, right = SchoolSource(*students(3)), time.time
    async with repository(source, ttl=ttl) as repo:
        await eventually(lambda: (repo.info().data_age or 0) > 0.02)
        monkeypatch.setattr(time, "time", lambda: right() - 3600)
        changed = Student(1, "changed", version=2)
        source.put(changed)
        assert await soon(repo.get(1, max_staleness=0.01)) == changed
        age = repo.info().data_age
        assert age is not None
        assert 0.02 < age < 60


async def test_a_row_whose_write_fails_while_all_is_loaded_anew_is_not_missing() -> None:
    ada = Student(1, "Ada", version=1)
    source = SchoolSource(ada)
    async with repository(source, ttl=None) as repo:
        update, load = source.hold("update"), source.hold("load_all")
        writing = asyncio.create_task(repo.update(dataclasses.replace(ada, name="Ada L.")))
        await eventually(lambda: update.entered)
        await repo.clear()
        await eventually(lambda: load.entered)
        source.put(dataclasses.replace(ada, name="a rival's", version=9))
        update.open()
        with pytest.raises(ConflictError):
            await soon(writing)
        load.open()
        assert await soon(repo.get(1)) is not None
        await eventually(lambda: repo.peek(1) == source.rows[1])
