"""Entering and leaving, of nodes and of repositories alone: in other tasks and loops, again, in the midst of work."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
from collections.abc import AsyncIterator, Callable
from typing import Any, Protocol

import pytest
import uvloop

from imperfect_dollop import ClosedError, ConfigurationError, Node, Repository
from imperfect_dollop.brokers.memory import MemoryBroker

from .school import (
    SchoolSource,
    Student,
    cluster,
    eventually,
    member,
    no_complaints,
    others,
    repository,
    settled,
    soon,
)

ADA = Student(1, "Ada", version=1)
BOB = Student(2, "Bob", "Rome", version=1)


class Opener(Protocol):
    """Makes a repository and what is to be entered to open it: itself, or a node."""

    def __call__(
        self, source: Any, **settings: Any
    ) -> tuple[contextlib.AbstractAsyncContextManager[Any], Repository[int, Student]]: ...


def alone(source: Any, **settings: Any) -> Any:
    repo = repository(source, **settings)
    return repo, repo


def in_a_node(source: Any, **settings: Any) -> Any:
    one = member(MemoryBroker(), source, **settings)
    return one.node, one.repository


both = pytest.mark.parametrize("make", [alone, in_a_node])


async def in_a_task(call: Any) -> Any:
    async def run() -> Any:
        return await call

    return await soon(asyncio.create_task(run()))


@both
async def test_nothing_is_left_running(make: Opener) -> None:
    opener, repo = make(SchoolSource(ADA))
    async with opener:
        assert others()
        assert await repo.get(1) == ADA
    assert not others()
    assert repo.state == "closed"


@both
async def test_entered_in_one_task_and_left_in_another(make: Opener) -> None:
    opener, repo = make(SchoolSource(ADA))
    await in_a_task(opener.__aenter__())
    assert await repo.get(1) == ADA
    await in_a_task(opener.__aexit__(None, None, None))
    assert repo.state == "closed"
    assert not others()


@pytest.fixture(params=[alone, in_a_node])
async def fixture_repository(
    request: pytest.FixtureRequest,
) -> AsyncIterator[Repository[int, Student]]:
    opener, repo = request.param(SchoolSource(ADA))
    async with opener:
        yield repo


async def test_in_a_fixture(fixture_repository: Repository[int, Student]) -> None:
    assert await fixture_repository.get(1) == ADA


@both
async def test_in_an_exit_stack(make: Opener) -> None:
    one, first = make(SchoolSource(ADA))
    two, second = make(SchoolSource(BOB))
    async with contextlib.AsyncExitStack() as stack:
        await stack.enter_async_context(one)
        await stack.enter_async_context(two)
        assert await first.get(1) == ADA
        assert await second.get(2) == BOB
    assert first.state == second.state == "closed"
    assert not others()


@both
async def test_left_with_an_exception(make: Opener) -> None:
    opener, repo = make(SchoolSource(ADA))
    with pytest.raises(ZeroDivisionError):
        async with opener:
            raise ZeroDivisionError
    assert repo.state == "closed"
    assert not others()


@both
async def test_left_by_cancellation(make: Opener) -> None:
    opener, repo = make(SchoolSource(ADA))
    inside = asyncio.Event()

    async def session() -> None:
        async with opener:
            inside.set()
            await asyncio.Event().wait()

    task = asyncio.create_task(session())
    await soon(inside.wait())
    task.cancel()
    await asyncio.wait([task], timeout=5)
    assert task.cancelled()
    assert repo.state == "closed"
    assert not others()


@both
async def test_entered_again_it_starts_cold(make: Opener) -> None:
    source = SchoolSource(ADA)
    opener, repo = make(source)
    for round_ in range(1, 4):
        async with opener:
            assert source.calls["load_all"] == round_
            assert repo.stats.full_loads == 1
            assert dict(repo.items()) == source.rows
        source.rows = {round_ + 1: Student(round_ + 1, "Eve", version=1)}
    assert not others()


@both
async def test_entered_twice(make: Opener) -> None:
    opener, repo = make(SchoolSource(ADA))
    async with opener:
        with pytest.raises(ConfigurationError, match="is open already"):
            await opener.__aenter__()
        assert await repo.get(1) == ADA
        assert repo.state == "ready"


@both
async def test_leaving_what_was_not_entered(make: Opener) -> None:
    opener, repo = make(SchoolSource(ADA))
    await opener.__aexit__(None, None, None)
    async with opener:
        assert await repo.get(1) == ADA
    await opener.__aexit__(None, None, None)


LOOPS: list[Callable[[], asyncio.AbstractEventLoop]] = [
    asyncio.new_event_loop,
    uvloop.new_event_loop,
]


@both
@pytest.mark.parametrize("loop_factory", LOOPS, ids=["asyncio", "uvloop"])
def test_in_one_event_loop_after_the_other(
    make: Opener, loop_factory: Callable[[], asyncio.AbstractEventLoop]
) -> None:
    source = SchoolSource(ADA)
    opener, repo = make(source)

    async def session(version: int) -> None:
        async with opener:
            ada = await repo.get(1)
            assert ada is not None
            assert ada.version == version
            await asyncio.gather(repo.update(ada), repo.get(2), repo.get_all())
        assert not others()

    for version in (1, 2, 3):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(session(version))
    assert source.rows[1].version == 4


@pytest.mark.parametrize("loop_factory", LOOPS, ids=["asyncio", "uvloop"])
def test_two_nodes_and_a_url(loop_factory: Callable[[], asyncio.AbstractEventLoop]) -> None:
    source = SchoolSource(ADA)
    members = [member("memory://school", source) for _ in range(2)]

    async def session() -> None:
        async with cluster(*members):
            ada = await members[0].repository.update(source.rows[1])
            await eventually(lambda: members[1].repository.peek(1) == ada)
        assert not others()

    for _ in range(2):
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(session())


# -- in the midst of work --------------------------------------------------------------------------


@both
async def test_leaving_with_a_load_of_a_key_under_way(make: Opener) -> None:
    source = SchoolSource(ADA, BOB)
    opener, repo = make(source, preload=False)
    with no_complaints():
        async with opener:
            gate = source.hold("load", "load_many")
            waiting = [
                asyncio.create_task(repo.get(1)),
                asyncio.create_task(repo.get(1)),
                asyncio.create_task(repo.get_many([1, 2])),
            ]
            await eventually(lambda: gate.entered == 2)
        results = await soon(asyncio.gather(*waiting, return_exceptions=True))
        assert [type(result) for result in results] == [ClosedError] * 3
    assert not others()


@both
async def test_leaving_while_it_is_cold(make: Opener) -> None:
    source = SchoolSource(ADA)
    gate = source.hold("load_all")
    source.failure = OSError("away")
    opener, repo = make(source)
    with no_complaints():
        entering = asyncio.create_task(opener.__aenter__())
        await eventually(lambda: gate.entered)
        gate.open()
        await soon(entering)
        gate = source.hold("load_all")
        await eventually(lambda: gate.entered)
        waiting = [asyncio.create_task(call) for call in (repo.get(1), repo.get_all())]
        waiting.append(asyncio.create_task(repo.update(ADA)))
        await settled()
        assert not any(task.done() for task in waiting)
        await soon(opener.__aexit__(None, None, None))
        results = await soon(asyncio.gather(*waiting, return_exceptions=True))
        assert [type(result) for result in results] == [ClosedError] * 3
    assert not source.calls["update"]
    assert not others()


@both
async def test_leaving_with_a_refresh_under_way(make: Opener) -> None:
    source = SchoolSource(ADA)
    opener, repo = make(source)
    with no_complaints():
        async with opener:
            gate = source.hold("load_all")
            first = asyncio.create_task(repo.refresh())
            await eventually(lambda: gate.entered)
            second = asyncio.create_task(repo.refresh())  # waits for the load after that one
            await settled()
        results = await soon(asyncio.gather(first, second, return_exceptions=True))
        assert [type(result) for result in results] == [ClosedError] * 2
    assert not others()


@both
@pytest.mark.parametrize("preload", [True, False])
async def test_leaving_with_a_write_under_way_carries_it_through(
    make: Opener, preload: bool
) -> None:
    source = SchoolSource(ADA)
    opener, repo = make(source, preload=preload)
    await opener.__aenter__()
    gate = source.hold("update")
    writing = asyncio.create_task(repo.update(dataclasses.replace(ADA, name="Ada L.")))
    queued = asyncio.create_task(repo.update(dataclasses.replace(ADA, name="Ada M.", version=2)))
    await eventually(lambda: gate.entered)
    leaving = asyncio.create_task(opener.__aexit__(None, None, None))
    await settled()
    assert not leaving.done()
    with pytest.raises(ClosedError):  # no new work
        await repo.update(ADA)
    gate.open()
    assert (await soon(writing)).name == "Ada L."
    assert (await soon(queued)).name == "Ada M."
    await soon(leaving)
    assert source.rows[1] == Student(1, "Ada M.", version=3)
    assert not others()


async def test_what_was_written_last_reaches_the_siblings() -> None:
    source = SchoolSource(ADA)
    broker = MemoryBroker()
    async with cluster(member(broker, source)) as (stays,):
        async with cluster(member(broker, source)) as (leaves,):
            gate = source.hold("update")
            writing = asyncio.create_task(leaves.repository.update(ADA))
            await eventually(lambda: gate.entered)
            asyncio.get_running_loop().call_soon(gate.open)
        ada = await soon(writing)
        await eventually(lambda: stays.repository.peek(1) == ada)
        assert stays.repository.stats.full_loads == 1
        assert stays.repository.stats.gaps == 0


async def test_wait_ready_and_flush_of_a_node_that_is_left() -> None:
    source = SchoolSource(ADA)
    broker = MemoryBroker()
    cold = member(broker, source, node={"shutdown_timeout": 0.05})
    source.failure = OSError("away")
    async with cluster(cold):
        waiting = asyncio.create_task(cold.node.wait_ready())
        await settled()
    with pytest.raises(ClosedError):
        await soon(waiting)
    with pytest.raises(ClosedError, match="async with"):
        await cold.node.wait_ready()
    with pytest.raises(ClosedError, match="async with"):
        await cold.node.flush()
    source.failure = None
    async with cluster(cold):
        with broker.outage():
            await cold.repository.update(ADA)
            flushing = asyncio.create_task(cold.node.flush())
            await settled()
            assert not flushing.done()
            await soon(cold.node.__aexit__(None, None, None))
            with pytest.raises(ClosedError):
                await soon(flushing)
    assert not others()


# -- owners ----------------------------------------------------------------------------------------


async def test_a_repository_belongs_to_one_node() -> None:
    repo = repository(SchoolSource(ADA))
    spare = repository(SchoolSource(BOB), name="spare")
    one, other = Node(MemoryBroker(), repo), Node(MemoryBroker(), spare, repo)
    async with one:
        with pytest.raises(ConfigurationError, match=r"Student is open already.*one owner"):
            await other.__aenter__()
        assert await repo.get(1) == ADA
        assert spare.state == "closed"  # and what was opened before it is closed again
        with pytest.raises(ConfigurationError, match="one owner"):
            await repo.__aenter__()
    async with other:
        assert await repo.get(1) == ADA
        assert await spare.get(2) == BOB
    async with repo, spare:
        with pytest.raises(ConfigurationError, match="one owner"):
            await one.__aenter__()
        assert await repo.get(1) == ADA
    assert not others()
