"""Cancellation at every await: of a read it is felt by nobody else, a write is wholly done or not begun."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import Awaitable, Callable, Coroutine
from typing import Any

import pytest

from imperfect_dollop import Repository, SourceUnavailableError
from imperfect_dollop.brokers.memory import MemoryBroker

from .school import (
    CancelAt,
    SchoolSource,
    Student,
    cancelled_at,
    cluster,
    eventually,
    member,
    no_complaints,
    others,
    repository,
    settled,
    soon,
    until_all_hold,
)

ADA = Student(1, "Ada", version=1)
BOB = Student(2, "Bob", "Rome", version=1)

MOST = 50
"""Suspensions after which a call that still has not ended would never do so."""

Read = Callable[[Repository[int, Student]], Coroutine[Any, Any, object]]

late = pytest.mark.parametrize("late", [False, True], ids=["early", "late"])


async def at_every_await(attempt: Callable[[int], Awaitable[bool]]) -> int:
    """Make an attempt with n = 0, 1, 2, ... until its call ends before it is cancelled; how many were."""
    for n in range(MOST):
        if not await attempt(n):
            return n
    raise AssertionError(f"not at its end after {MOST} suspensions")


# -- the tool itself -------------------------------------------------------------------------------


@late
async def test_the_tool_reaches_every_suspension(late: bool) -> None:
    trace: list[int] = []

    async def three() -> None:
        for step in range(3):
            await (asyncio.sleep(0) if step == 1 else asyncio.sleep(0.001))
            trace.append(step)

    async def attempt(n: int) -> bool:
        trace.clear()
        hit = await cancelled_at(three(), n, late=late)
        assert trace == list(range(n))
        return hit

    assert await at_every_await(attempt) == 3


# -- reads -----------------------------------------------------------------------------------------

READS: dict[str, Read] = {
    "get": lambda repo: repo.get(1),
    "get_absent": lambda repo: repo.get(9),
    "get_fresh": lambda repo: repo.get(1, max_staleness=0),
    "get_many": lambda repo: repo.get_many([1, 2, 9]),
}
WHOLE_READS: dict[str, Read] = {
    **READS,
    "get_all": lambda repo: repo.get_all(),
    "refresh": lambda repo: repo.refresh(),
    "invalidate": lambda repo: repo.invalidate(1),
}


@late
@pytest.mark.parametrize("read", WHOLE_READS.values(), ids=WHOLE_READS)
async def test_of_a_read_while_it_is_cold(read: Read, late: bool) -> None:
    async def attempt(n: int) -> bool:
        source = SchoolSource(ADA, BOB)
        gate = source.hold("load_all")
        repo = repository(source)
        entering = asyncio.create_task(repo.__aenter__())
        await eventually(lambda: gate.entered)
        before = asyncio.create_task(repo.get(1))
        await settled(2)
        steps = CancelAt(read(repo), n, late=late)

        async def run() -> None:
            await steps

        reading = asyncio.create_task(run())
        after = asyncio.create_task(repo.get(2))
        await settled()
        gate.open()
        assert await soon(before) == ADA
        assert await soon(after) == BOB
        await asyncio.wait([reading], timeout=5)
        assert reading.done()
        assert reading.cancelled() == steps.hit
        await soon(entering)
        assert await soon(repo.get(1)) == ADA
        await repo.__aexit__(None, None, None)
        assert not others()
        return steps.hit

    with no_complaints():
        assert await at_every_await(attempt) >= 1


@late
@pytest.mark.parametrize("read", READS.values(), ids=READS)
async def test_of_a_miss_on_demand(read: Read, late: bool) -> None:
    async def attempt(n: int) -> bool:
        source = SchoolSource(ADA, BOB)
        async with repository(source, preload=False) as repo:
            gate = source.hold("load", "load_many")
            steps = CancelAt(read(repo), n, late=late)

            async def run() -> None:
                await steps

            reading = asyncio.create_task(run())  # the first, so the load is its own
            await settled(2)
            joined = asyncio.create_task(repo.get(1))
            await settled()
            gate.open()
            assert await soon(joined) == ADA
            await asyncio.wait([reading], timeout=5)
            assert reading.done()
            assert reading.cancelled() == steps.hit
            loads = sum(source.calls.values())
            assert loads <= 2  # of two keys at most
            assert await soon(repo.get_many([1, 2])) == source.rows
        assert not others()
        return steps.hit

    with no_complaints():
        assert await at_every_await(attempt) >= 1


@late
async def test_of_a_miss_whose_load_fails(late: bool) -> None:
    async def attempt(n: int) -> bool:
        source = SchoolSource(ADA)
        async with repository(source, preload=False) as repo:
            source.failure = OSError("away")
            hit = False
            with contextlib.suppress(SourceUnavailableError):
                hit = await cancelled_at(repo.get_many([1, 2, 3]), n, late=late)
            await settled()  # a load that goes on would still fail whoever joins it
            source.failure = None
            assert await soon(repo.get(1)) == ADA
        return hit

    with no_complaints():
        assert await at_every_await(attempt) >= 1


async def test_all_waiters_are_cancelled_and_the_load_goes_on() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False) as repo:
        gate = source.hold("load")
        waiting = [asyncio.create_task(repo.get(1)) for _ in range(3)]
        await eventually(lambda: gate.entered)
        for task in waiting:
            task.cancel()
        await asyncio.wait(waiting)
        assert all(task.cancelled() for task in waiting)
        gate.open()
        await eventually(lambda: repo.peek(1) == ADA)
        assert source.calls == {"load": 1}


# -- writes ----------------------------------------------------------------------------------------

WRITES: dict[str, Read] = {
    "create": lambda repo: repo.create(Student(3, "Eve")),
    "update": lambda repo: repo.update(dataclasses.replace(ADA, name="Ada L.")),
    "delete": lambda repo: repo.delete(1),
}
NEW = Student(3, "Eve", version=1)
WRITTEN = {
    "create": {1: ADA, 2: BOB, 3: NEW},
    "update": {1: dataclasses.replace(ADA, name="Ada L.", version=2), 2: BOB},
    "delete": {2: BOB},
}


@late
@pytest.mark.parametrize("verb", WRITES)
async def test_of_a_write(verb: str, late: bool) -> None:
    """Once begun it reaches the source, this node and its sibling, whatever became of the caller."""
    done: list[bool] = []

    async def attempt(n: int) -> bool:
        source = SchoolSource(ADA, BOB)
        broker = MemoryBroker()
        async with cluster(member(broker, source), member(broker, source)) as members:
            writer = members[0]
            hit = await cancelled_at(WRITES[verb](writer.repository), n, late=late)
            await settled()
            begun = bool(source.calls[verb])
            done.append(begun)
            if begun:
                await eventually(lambda: source.rows == WRITTEN[verb])
            assert source.rows == (WRITTEN[verb] if begun else {1: ADA, 2: BOB})
            await until_all_hold(members, source)
            assert all(one.repository.stats.gaps == 0 for one in members)
            assert source.calls["load_all"] == 1  # it was the event that brought it
        assert not others()
        return hit

    with no_complaints():
        assert await at_every_await(attempt) >= 1
    assert done[-1]


@late
@pytest.mark.parametrize("verb", WRITES)
async def test_of_a_write_while_it_is_cold(verb: str, late: bool) -> None:
    done: list[bool] = []

    async def attempt(n: int) -> bool:
        source = SchoolSource(ADA, BOB)
        gate = source.hold("load_all")
        repo = repository(source)
        entering = asyncio.create_task(repo.__aenter__())
        await eventually(lambda: gate.entered)
        steps = CancelAt(WRITES[verb](repo), n, late=late)

        async def run() -> None:
            await steps

        writing = asyncio.create_task(run())
        await settled()
        gate.open()
        await asyncio.wait([writing], timeout=5)
        assert writing.done()
        await soon(entering)
        await settled()
        begun = bool(source.calls[verb])
        done.append(begun)
        if begun:
            await eventually(lambda: source.rows == WRITTEN[verb])
        await eventually(lambda: dict(repo.items()) == source.rows)
        await repo.__aexit__(None, None, None)
        assert source.rows == (WRITTEN[verb] if begun else {1: ADA, 2: BOB})
        return steps.hit

    with no_complaints():
        assert await at_every_await(attempt) >= 2
    assert not done[0]
    assert done[-1]


@late
async def test_of_a_write_that_waits_for_its_turn(late: bool) -> None:
    """Writes of one key go one after the other: one that is cancelled must not stop the queue.

    It is not made if it was cancelled before its turn came.
    """
    made = []

    async def attempt(n: int) -> bool:
        source = SchoolSource(dataclasses.replace(ADA, version=0), versioned=False)
        async with repository(source, version=None) as repo:
            gate = source.hold("update")
            first = asyncio.create_task(repo.update(dataclasses.replace(ADA, name="1", version=0)))
            await eventually(lambda: gate.entered)
            second = CancelAt(
                repo.update(dataclasses.replace(ADA, name="2", version=0)), n, late=late
            )

            async def run() -> None:
                await second

            waiting = asyncio.create_task(run())
            await settled()
            third = asyncio.create_task(repo.update(dataclasses.replace(ADA, name="3", version=0)))
            await settled()
            gate.open()
            await soon(first)
            await soon(third)
            await asyncio.wait([waiting], timeout=5)
            assert waiting.done()
            assert repo[1] == source.rows[1]
            assert repo[1].name == "3"
            made.append(source.calls["update"])
        return second.hit

    with no_complaints():
        assert await at_every_await(attempt) >= 1
    assert (made[0], made[-1]) == (2, 3)


# -- entering and leaving --------------------------------------------------------------------------


@late
async def test_of_entering_a_repository(late: bool) -> None:
    async def attempt(n: int) -> bool:
        repo = repository(SchoolSource(ADA))
        hit = await cancelled_at(repo.__aenter__(), n, late=late)
        if hit:
            await eventually(lambda: not others(), f"nothing runs on, cancelled at {n}")
            assert repo.state == "closed"
            await soon(repo.__aenter__())
        assert await repo.get(1) == ADA
        await repo.__aexit__(None, None, None)
        return hit

    with no_complaints():
        assert await at_every_await(attempt) >= 2


@late
async def test_of_leaving_a_repository(late: bool) -> None:
    async def attempt(n: int) -> bool:
        source = SchoolSource(ADA)
        repo = repository(source)
        await repo.__aenter__()
        gate = source.hold("update")
        writing = asyncio.create_task(repo.update(ADA))
        await eventually(lambda: gate.entered)
        steps = CancelAt(repo.__aexit__(None, None, None), n, late=late)

        async def run() -> None:
            await steps

        leaving = asyncio.create_task(run())
        await settled()
        gate.open()
        await asyncio.wait([leaving], timeout=5)
        assert leaving.done()
        assert (await soon(writing)).version == 2
        await eventually(lambda: not others(), f"nothing runs on, cancelled at {n}")
        assert repo.state == "closed"
        async with repo:
            assert (await soon(repo.get(1))) == source.rows[1]
        return steps.hit

    with no_complaints():
        assert await at_every_await(attempt) >= 1  # the closing itself runs elsewhere


@late
async def test_of_entering_a_node(late: bool) -> None:
    async def attempt(n: int) -> bool:
        broker = MemoryBroker()
        one = member(broker, SchoolSource(ADA), node={"offer_wait": 0.0})
        hit = await cancelled_at(one.node.__aenter__(), n, late=late)
        if hit:
            await eventually(lambda: not others(), f"nothing runs on, cancelled at {n}")
            assert one.repository.state == "closed"
            assert one.node.members == ()
            await soon(one.node.__aenter__())
        assert await one.repository.get(1) == ADA
        await one.node.__aexit__(None, None, None)
        return hit

    with no_complaints():
        assert await at_every_await(attempt) >= 3


@late
async def test_of_leaving_a_node(late: bool) -> None:
    async def attempt(n: int) -> bool:
        source = SchoolSource(ADA)
        broker = MemoryBroker()
        async with cluster(member(broker, source)) as (sibling,):
            one = member(broker, source)
            await one.node.__aenter__()
            gate = source.hold("update")
            writing = asyncio.create_task(one.repository.update(ADA))
            await eventually(lambda: gate.entered)
            before = others()
            steps = CancelAt(one.node.__aexit__(None, None, None), n, late=late)

            async def run() -> None:
                await steps

            leaving = asyncio.create_task(run())
            await settled()
            gate.open()
            await asyncio.wait([leaving], timeout=5)
            assert leaving.done()
            assert (await soon(writing)).version == 2
            await eventually(lambda: one.repository.state == "closed", f"closed, cancelled at {n}")
            await eventually(lambda: len(others()) < len(before), f"nothing runs on, at {n}")
            assert one.node.members == ()
            async with one.node:
                assert (await soon(one.repository.get(1))) == source.rows[1]
            await until_all_hold([sibling], source)
        await eventually(lambda: not others(), f"nothing runs on, cancelled at {n}")
        return steps.hit

    with no_complaints():
        assert await at_every_await(attempt) >= 1  # the closing itself runs elsewhere


@late
@pytest.mark.parametrize("call", ["wait_ready", "flush"])
async def test_of_what_waits_at_a_node(call: str, late: bool) -> None:
    async def attempt(n: int) -> bool:
        source = SchoolSource(ADA)
        gate = source.hold("load_all")
        broker = MemoryBroker()
        one = member(broker, source)
        entering = asyncio.create_task(one.node.__aenter__())
        await eventually(lambda: gate.entered)
        outage = broker.outage()
        if call == "flush":
            gate.open()
            await soon(entering)
            outage.__enter__()
            await one.repository.update(ADA)
        steps = CancelAt(getattr(one.node, call)(), n, late=late)

        async def run() -> None:
            await steps

        waiting = asyncio.create_task(run())
        second = asyncio.create_task(getattr(one.node, call)())
        await settled()
        gate.open()
        if call == "flush":
            outage.__exit__(None, None, None)
        await soon(second)
        await asyncio.wait([waiting], timeout=5)
        assert waiting.done()
        await soon(entering)
        await one.node.__aexit__(None, None, None)
        assert not others()
        return steps.hit

    with no_complaints():
        assert await at_every_await(attempt) >= 1
