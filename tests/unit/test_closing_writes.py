"""Nodes and repositories that are closed while writes are under way, and sources that hang meanwhile."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest

from imperfect_dollop import ClosedError, FunctionSource, Node, Repository
from imperfect_dollop.brokers.memory import MemoryBroker

from .clockwork import ClockworkLoop, clockwork
from .school import SchoolSource, Student, no_complaints, repository, settled

ADA = Student(1, "Ada", version=1)
NEWER = dataclasses.replace(ADA, name="Ada L.")


def of(source: SchoolSource, name: str) -> Repository[int, Student]:
    return Repository(Student, source=source, version="version", name=name, hard_timeout=None)


@clockwork
async def test_a_source_that_hangs_keeps_no_other_repository_open() -> None:
    one, two = SchoolSource(ADA), SchoolSource(ADA)
    hanging, slow = one.hold("update"), two.hold("update")
    first, second = of(one, "first"), of(two, "second")
    with no_complaints():
        async with Node(MemoryBroker(), first, second):
            writes = [asyncio.create_task(repo.update(NEWER)) for repo in (first, second, second)]
            await settled()
            assert hanging.entered == slow.entered == 1
        outcomes = await asyncio.gather(*writes, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ClosedError] * 3
    hanging.open()
    slow.open()
    await settled()
    assert two.calls["update"] == 1  # the one that was in line has not begun


@clockwork
async def test_a_delete_that_reads_its_version_ends_with_the_repository() -> None:
    source = SchoolSource(ADA)
    gate = source.hold("load")
    with no_complaints():
        async with repository(source, preload=False, hard_timeout=None) as repo:
            deletes = [asyncio.create_task(repo.delete(1)) for _ in range(2)]
            await settled()
            assert gate.entered == 1
        outcomes = await asyncio.gather(*deletes, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ClosedError] * 2
    gate.open()
    await settled()
    assert not source.calls["delete"]


@clockwork
async def test_a_write_whose_caller_is_cancelled_after_the_close() -> None:
    source = SchoolSource(ADA)
    source.hold("update", stubborn=True)
    with no_complaints():
        async with repository(source, hard_timeout=None) as repo:
            write = asyncio.create_task(repo.update(NEWER))
            await settled()
            write.cancel()  # a task of ours waits in its place
            await asyncio.wait([write])
        assert write.cancelled()


@clockwork
async def test_progress_that_was_made_while_the_process_stood_still_counts() -> None:
    loop = asyncio.get_running_loop()
    assert isinstance(loop, ClockworkLoop)
    arrived = asyncio.Event()

    async def load_all() -> AsyncIterator[list[Student]]:
        yield [ADA]
        await arrived.wait()
        yield [Student(2, "Bob", version=1)]
        await asyncio.sleep(0.3)
        yield [Student(3, "Cleo", version=1)]

    def stand_still() -> None:
        loop.call_soon(arrived.set)  # what is in the socket is looked at first, then the clock
        loop.stand_still(0.7)

    loop.call_later(0.1, stand_still)
    source: FunctionSource[int, Student] = FunctionSource(load_all=load_all)
    async with Repository(
        Student, source=source, version="version", read_only=True, hard_timeout=0.5
    ) as repo:
        assert len(repo) == 3
        assert repo.stats.full_loads == 1


async def test_a_row_that_cannot_be_copied_is_looked_for() -> None:
    # It was committed: nobody may go on showing the one before.
    source = SchoolSource(ADA)
    async with repository(source, copy=True) as repo:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("copy.deepcopy", _refuse)
            with pytest.raises(RecursionError):
                await repo.update(NEWER)
        await settled()
        assert repo.stats.doubts == 1
        assert (await repo.get(1)) == source.rows[1]
        assert source.rows[1].name == NEWER.name


def _refuse(entity: object) -> object:
    raise RecursionError("it is too deep")


async def test_a_write_that_is_to_be_settled_when_everything_has_just_stopped(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async with repository(SchoolSource(ADA)) as repo:
        session = repo._session
        assert session is not None
        writer = session.writer

        def stopped(*_: object, **__: object) -> None:
            raise RuntimeError("is not running")

        async def settle() -> None:
            raise AssertionError("nobody is there to do so")

        with monkeypatch.context() as patch:
            patch.setattr(writer._supervisor, "spawn", stopped)
            with pytest.raises(ClosedError, match="closed during a write"):
                await writer._in_background(settle)
        assert writer._under_way == 0  # or the close would wait for it
