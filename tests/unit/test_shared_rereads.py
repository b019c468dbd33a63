"""How often a fleet reads a row of the source that is in doubt on every node: once, unless something goes wrong."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
from collections.abc import Awaitable, Callable, Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from imperfect_dollop import ConflictError, FunctionSource, Node, Repository
from imperfect_dollop import doubts as doubts_module
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.doubts import Doubts
from imperfect_dollop.replica.disputes import Disputes
from imperfect_dollop.session import Session

from .clockwork import Post, clockwork, now, until
from .school import Member, SchoolSource, Student, cluster, member

NODES = 8
READ_SECONDS = 0.001
LONG = 3600.0
ADA = Student(1, "Ada")


class Table:
    """Rows that all nodes share, and who has read some of them again: each time, in order."""

    def __init__(self) -> None:
        self.rows = {1: ADA, 2: Student(2, "Bob")}
        self.readers: list[str] = []
        self.desks: dict[str, Desk] = {}
        self.seconds: dict[
            int, float
        ] = {}  # what the n-th read takes, where it is not the usual time


class Desk(SchoolSource):
    """The way of one node to the table. Writes compare versions only if told to."""

    def __init__(self, table: Table, node: str, *, versioned: bool) -> None:
        super().__init__(versioned=versioned)
        self.rows = table.rows
        table.desks[node] = self
        self._table = table
        self._node = node

    async def load(self, key: int, /) -> Student | None:
        return next(iter(await self.load_many([key])), None)

    async def load_many(self, keys: Sequence[int], /) -> list[Student]:
        table = self._table
        table.readers.append(self._node)
        rows = [self.rows[key] for key in keys if key in self.rows]
        await asyncio.sleep(table.seconds.get(len(table.readers), READ_SECONDS))
        return rows


def fleet(table: Table, broker: MemoryBroker, *, versioned: bool = False) -> list[Member]:
    return [
        member(
            broker,
            Desk(table, f"n{number}", versioned=versioned),
            node={"name": f"n{number}", "heartbeat": 1.0},
            version="version" if versioned else None,
        )
        for number in range(NODES)
    ]


def session_of(one: Member) -> Session[int, Student]:
    session = one.repository._session
    assert session is not None
    return session


def drawing(monkeypatch: pytest.MonkeyPatch, *draws: float, seconds: float | None = None) -> None:
    """What is drawn for the waits, over and over."""
    draw = itertools.cycle(draws)
    monkeypatch.setattr(doubts_module, "random", SimpleNamespace(random=lambda: next(draw)))
    if seconds is not None:
        monkeypatch.setattr(doubts_module, "LEAD_SECONDS", seconds)


APART = tuple((2 * place + 1) / (2 * NODES) for place in (3, 6, 1, 0, 7, 4, 2, 5))
"""Draws of as many nodes, some milliseconds apart."""


async def met(members: Sequence[Member]) -> None:
    await until(lambda: all(len(one.node.members) == len(members) for one in members))


async def raced(members: Sequence[Member]) -> None:
    """Two of them update the same row at once, whatever it is."""
    await met(members)
    one, other = members[:2]
    await asyncio.gather(
        one.repository.update(dataclasses.replace(ADA, name="of one")),
        other.repository.update(dataclasses.replace(ADA, name="of the other")),
    )


def agreed(members: Sequence[Member], table: Table) -> bool:
    return all(one.content == table.rows and session_of(one).upkeep.clean for one in members)


def stamps(members: Sequence[Member]) -> set[Any]:
    return {session_of(one).replica.table.stamp(1) for one in members}


def shared(members: Sequence[Member]) -> int:
    return sum(one.repository.stats.shared for one in members)


@clockwork
async def test_of_all_who_hear_of_a_race_one_asks_the_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawing(monkeypatch, *APART)
    table = Table()
    async with cluster(*fleet(table, MemoryBroker())) as members:
        await raced(members)
        await until(lambda: table.readers)
        await until(lambda: agreed(members, table))
        await asyncio.sleep(5)
        assert len(table.readers) == 1
        assert shared(members) == NODES - 1
        assert sum(one.repository.stats.doubts for one in members) == NODES
        assert len(stamps(members)) == 1  # so the next write is in doubt nowhere
        await members[5].repository.update(Student(1, "next"))
        await until(lambda: agreed(members, table))
        assert len(table.readers) == 1
        assert [one.repository.stats.full_loads for one in members].count(1) == 1


@clockwork
async def test_without_that_each_of_them_does(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Disputes, "shared", lambda self, key: False)
    table = Table()
    async with cluster(*fleet(table, MemoryBroker())) as members:
        await raced(members)
        await until(lambda: len(set(table.readers)) == NODES)


@clockwork
async def test_with_draws_as_they_come_few_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    table = Table()
    async with cluster(*fleet(table, MemoryBroker())) as members:
        for _ in range(10):
            await raced(members)
            await until(lambda: agreed(members, table))
            await asyncio.sleep(1)
        # Each race has at least one reader, and one more for each who has drawn a moment less than a read later.
        assert 10 <= len(table.readers) <= 30
        assert len(stamps(members)) == 1


@clockwork
async def test_readers_at_the_same_moment_end_equal(monkeypatch: pytest.MonkeyPatch) -> None:
    drawing(monkeypatch, 0.5)
    table = Table()
    async with cluster(*fleet(table, MemoryBroker())) as members:
        await raced(members)
        await until(lambda: len(table.readers) > 1)
        await until(lambda: agreed(members, table))
        await asyncio.sleep(5)
        assert len(table.readers) <= NODES
        assert len(stamps(members)) == 1


@clockwork
async def test_if_the_first_reader_gets_no_answer_the_next_one_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawing(monkeypatch, *APART)
    table = Table()
    table.seconds[1] = LONG
    async with cluster(*fleet(table, MemoryBroker())) as members:
        await raced(members)
        began = now()
        await until(lambda: agreed(members, table))
        # Who hangs is told as well.
        assert now() - began < doubts_module.LEAD_SECONDS + 0.01
        assert len(table.readers) == len(set(table.readers)) == 2
        assert shared(members) == NODES - 1


@clockwork
async def test_if_the_first_readers_answer_is_lost_the_next_one_asks(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawing(monkeypatch, *APART)
    table, broker = Table(), Post()
    async with cluster(*fleet(table, broker)) as members:
        await raced(members)
        await until(lambda: table.readers)
        first = next(one for one in members if one.node.name == table.readers[0])
        origin = session_of(first).replica.origin
        broker.towards = next(
            place.node
            for place in broker.connections
            if any(beat.origin == origin for beat in place.beats)
        )
        with broker.behaving("mute"):
            others = [one for one in members if one is not first]
            await until(lambda: agreed(others, table))
            assert len(table.readers) == len(set(table.readers)) == 2
            assert len(stamps(others)) == 1
        await until(lambda: agreed(members, table))
        await until(lambda: len(stamps(members)) == 1)


@clockwork
async def test_a_writer_who_waits_asks_at_once_and_answers_all(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawing(monkeypatch, 1.0, seconds=LONG)
    table = Table()
    members = fleet(table, MemoryBroker())
    async with cluster(*members):
        await met(members)
        await began_before(members, table.desks["n0"])
        assert table.readers == ["n0"]
        await until(lambda: agreed(members, table))
        assert table.readers == ["n0"]
        assert shared(members) == NODES - 1


async def began_before(members: Sequence[Member], desk: Desk) -> None:
    """The first writes, and before it is answered hears of the second's write."""
    update: Callable[[Student], Awaitable[Student]] = desk.update

    async def slowly(entity: Student, /) -> Student:
        stored = await update(entity)
        await members[1].repository.update(dataclasses.replace(ADA, name="of the other"))
        await until(lambda: session_of(members[0]).stats.events_received)
        return stored

    desk.update = slowly  # type: ignore[method-assign]
    began = now()
    await members[0].repository.update(dataclasses.replace(ADA, name="of one"))
    assert now() - began < 1


@clockwork
async def test_a_write_that_was_refused_is_looked_into_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawing(monkeypatch, 1.0, seconds=LONG)
    table = Table()
    async with cluster(*fleet(table, MemoryBroker(), versioned=True)) as members:
        await met(members)
        table.rows[1] = Student(1, "changed by hand", version=7)
        with pytest.raises(ConflictError):
            await members[0].repository.update(ADA)
        await until(lambda: agreed(members, table), seconds=1)
        assert table.readers == ["n0"]


# -- two versions ----------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Before:
    id: int
    name: str


@dataclasses.dataclass(frozen=True)
class After:
    id: int
    name: str
    city: str = "Paris"


def versions(table: dict[int, str], entity: type[Any], reads: list[str]) -> Repository[Any, Any]:
    async def load_many(keys: Sequence[int]) -> list[Any]:
        reads.append(entity.__name__)
        await asyncio.sleep(READ_SECONDS)
        return [entity(key, table[key]) for key in keys if key in table]

    async def load_all() -> Any:
        yield [entity(key, name) for key, name in table.items()]

    async def put(row: Any) -> None:
        table[row.id] = row.name

    async def delete(key: int) -> None:
        del table[key]

    source = FunctionSource(
        load_many=load_many, load_all=load_all, create=put, update=put, delete=delete
    )
    return Repository(entity, source=source, name="people", retry_after=0.02)


@clockwork
async def test_a_write_of_another_version_is_read_once_and_makes_no_echo(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawing(monkeypatch, *APART)
    table, broker = {1: "Ada"}, MemoryBroker()
    reads: list[str] = []
    shapes = [Before, After] * (NODES // 2)
    people = [versions(table, shape, reads) for shape in shapes]
    nodes = [Node(broker, one, name=f"n{place}") for place, one in enumerate(people)]
    await asyncio.gather(*(node.__aenter__() for node in nodes))
    await until(lambda: all(len(node.members) == NODES for node in nodes))
    await people[0].update(Before(1, "Ada L."))
    await until(lambda: all(one[1].name == "Ada L." for one in people))
    await asyncio.sleep(5)
    assert reads == ["After"]
    await people[1].update(After(1, "Ada"))
    await until(lambda: all(one[1].name == "Ada" for one in people))
    await asyncio.sleep(5)
    assert reads == ["After", "Before"]
    for node in nodes:
        await node.__aexit__(None, None, None)


# -- the queue -------------------------------------------------------------------------------------


@clockwork
async def test_what_waits_is_read_together_when_the_moment_is_over(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawing(monkeypatch, 0.5, seconds=1.0)
    queue: Doubts[int] = Doubts()
    queue.add(1, wait=True)
    await asyncio.sleep(0.2)
    queue.add(2, wait=True)
    assert queue.due == pytest.approx(0.3)
    assert queue.batch() == []
    queue.add(3)
    assert (queue.due, queue.batch()) == (0.0, [3])
    queue.add(2)  # for another reason, which can not wait
    assert queue.batch() == [3, 2]
    await asyncio.sleep(0.4)
    assert queue.batch() == [3, 2, 1]
    queue.add(1, wait=True)  # no later for that
    assert 1 in queue.batch()
    queue.discard(2)
    assert len(queue) == 2
    queue.postpone([3])
    assert queue.batch() == [1, 3]


async def test_what_is_being_read_is_not_read_twice_at_once() -> None:
    queue: Doubts[int] = Doubts()
    queue.add(1)
    with queue.reading([1]):
        assert queue.due is None
        assert not queue.batch()
        assert len(queue) == 1
        queue.add(2)
        with queue.reading([1]):
            assert queue.batch() == [2]
        assert queue.batch() == [2]
    assert queue.batch() == [1, 2]


async def test_a_batch_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(doubts_module, "REREAD_BATCH", 3)
    queue: Doubts[int] = Doubts()
    for key in range(7):
        queue.add(key)
    assert queue.batch() == [0, 1, 2]
    queue.clear()
    assert queue.batch() == []
