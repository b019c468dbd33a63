"""Sources that hang, fail, or do not let themselves be cancelled, and what a reader gets meanwhile."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from imperfect_dollop import (
    DollopError,
    LoadTimeoutError,
    NotReadyError,
    SourceUnavailableError,
)

from .school import (
    Gate,
    SchoolSource,
    Student,
    eventually,
    others,
    repository,
    settled,
    soon,
)

ADA = Student(1, "Ada", version=1)
BOB = Student(2, "Bob", "Rome", version=1)

stubborn = pytest.mark.parametrize("stubborn", [False, True], ids=["obedient", "stubborn"])


@stubborn
async def test_a_hung_load_frees_its_key_at_the_deadline(stubborn: bool) -> None:
    source = SchoolSource(ADA, BOB)
    async with repository(source, preload=False, hard_timeout=0.05) as repo:
        gate = source.hold("load", stubborn=stubborn)
        first = asyncio.create_task(repo.get(1))
        await eventually(lambda: gate.entered == 1)
        with pytest.raises(LoadTimeoutError, match="key 1"):
            await soon(first)
        again = asyncio.create_task(repo.get(1))
        await eventually(lambda: gate.entered == 2)  # the key is free, so it is asked for again
        with pytest.raises(LoadTimeoutError):
            await soon(again)
        assert repo.state == "degraded"
        assert repo.stats.load_failures >= 1
        source.gates.clear()
        assert await soon(repo.get(1)) == ADA
        gate.open()
        await settled()
        assert await soon(repo.get(1)) == ADA
        assert repo.state == "ready"
    await eventually(lambda: not others())


async def test_a_load_that_comes_after_its_deadline_does_not_undo_what_came_since() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False, hard_timeout=0.05) as repo:
        gate = Gate()
        gate.stubborn = True

        async def load(key: int) -> Student | None:
            row = source.rows.get(key)
            with contextlib.suppress(asyncio.CancelledError):
                await gate.pass_through()
            return row

        honest = source.load
        source.load = load  # type: ignore[method-assign]
        with pytest.raises(LoadTimeoutError):
            await soon(repo.get(1))
        source.load = honest  # type: ignore[method-assign]
        newer = dataclasses.replace(ADA, name="Ada L.", version=2)
        source.put(newer)
        assert await soon(repo.get(1)) == newer
        gate.open()
        await settled()
        assert repo.peek(1) == newer


@stubborn
async def test_a_hung_first_load_is_given_up_and_made_again(stubborn: bool) -> None:
    source = SchoolSource(ADA)
    gate = source.hold("load_all", stubborn=stubborn)
    repo = repository(source, hard_timeout=0.05)
    entering = asyncio.create_task(repo.__aenter__())
    await eventually(lambda: gate.entered)
    reading = asyncio.create_task(repo.get(1))
    try:
        with pytest.raises(NotReadyError, match="no progress in the load of all rows"):
            await soon(reading)
        await soon(entering)
        source.gates.clear()
        await eventually(lambda: repo.state == "ready")
        assert await repo.get(1) == ADA
    finally:
        gate.open()
        await soon(entering)
        await soon(repo.__aexit__(None, None, None))


@stubborn
async def test_a_hung_refresh_is_given_up_and_what_is_held_stays(stubborn: bool) -> None:
    source = SchoolSource(ADA)
    async with repository(source, hard_timeout=0.05) as repo:
        gate = source.hold("load_all", stubborn=stubborn)
        try:
            with pytest.raises(LoadTimeoutError, match="no progress in the load of all rows"):
                await soon(repo.refresh())
            assert await repo.get(1) == ADA
            assert repo.state == "degraded"
            source.gates.clear()
            source.put(BOB)
            await soon(repo.refresh())
            assert await repo.get(2) == BOB
        finally:
            gate.open()


async def test_a_load_of_all_that_hangs_midway() -> None:
    source = SchoolSource(ADA, BOB)
    source.chunk = 1
    async with repository(source, hard_timeout=0.05) as repo:
        endless = asyncio.Event()
        closed: list[bool] = []

        async def load_all() -> AsyncIterator[list[Student]]:
            try:
                yield [dataclasses.replace(ADA, name="Ada L.", version=2)]
                await endless.wait()
                yield []
            finally:
                closed.append(True)

        source.load_all = load_all  # type: ignore[method-assign]
        with pytest.raises(LoadTimeoutError):
            await soon(repo.refresh())
        assert dict(repo.items()) == {1: ADA, 2: BOB}  # nothing is half done
        assert closed == [True]


async def test_a_slow_load_of_all_that_makes_progress_is_not_given_up() -> None:
    source = SchoolSource()
    rows = [Student(number, "x", version=1) for number in range(1, 31)]

    async def load_all() -> AsyncIterator[list[Student]]:
        for row in rows:
            await asyncio.sleep(0.005)
            yield [row]

    source.load_all = load_all  # type: ignore[method-assign]
    async with repository(source, hard_timeout=0.1) as repo:
        assert len(repo) == 30
        assert repo.stats.full_loads == 1


async def test_a_hung_fallback_is_given_up() -> None:
    async def fallback(repo: Any) -> AsyncIterator[Student]:
        await asyncio.Event().wait()
        yield ADA

    source = SchoolSource(ADA)
    source.failure = OSError("away")
    repo = repository(source, hard_timeout=0.05, bootstrap=("source", fallback))
    entering = asyncio.create_task(repo.__aenter__())
    try:
        await soon(entering)
        with pytest.raises(NotReadyError):
            await soon(repo.get(1))
        source.failure = None
        await eventually(lambda: repo.state == "ready")
    finally:
        entering.cancel()
        await asyncio.wait([entering])
        await repo.__aexit__(None, None, None)


@stubborn
async def test_a_hung_write_does_not_keep_the_others_of_its_key_waiting_for_ever(
    stubborn: bool,
) -> None:
    source = SchoolSource(ADA)
    async with repository(source, hard_timeout=0.05) as repo:
        gate = source.hold("update", stubborn=stubborn)
        try:
            with pytest.raises(LoadTimeoutError, match="update of key 1"):
                await soon(repo.update(ADA))
            source.gates.clear()
            assert (await soon(repo.update(ADA))).version == 2
        finally:
            gate.open()


# -- stale data ------------------------------------------------------------------------------------


async def test_the_whole_set_is_served_stale_while_the_source_fails() -> None:
    source = SchoolSource(ADA)
    async with repository(source, ttl=0.03) as repo:
        source.failure = OSError("away")
        source.put(BOB)
        await eventually(lambda: repo.info().stale_since is not None)
        await eventually(lambda: repo.stats.load_failures >= 2)  # it keeps trying
        info = repo.info()
        assert repo.state == "degraded"
        assert await repo.get(1) == ADA
        assert await repo.get(2) is None
        assert info.source_alive_since is None
        assert info.data_age is not None
        assert info.data_age > 0.03
        assert info.last_source_read is not None
        source.failure = None
        await eventually(lambda: 2 in repo and repo.state == "ready")
        after = repo.info()
        assert after.source_alive_since is not None
        assert after.last_source_read is not None
        assert after.last_source_read > info.last_source_read
        assert after.entities == 2


async def test_a_row_on_demand_is_served_stale_while_the_source_fails() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False, ttl=0.01) as repo:
        await repo.get(1)
        source.failure = OSError("away")
        newer = dataclasses.replace(ADA, name="Ada L.", version=2)
        source.put(newer)

        async def read_until_it_has_failed() -> None:
            while repo.stats.load_failures < 2:
                assert await repo.get(1) == ADA
                await asyncio.sleep(0.001)

        await soon(read_until_it_has_failed())
        assert repo.state == "degraded"
        assert repo.stats.stale_served >= 2
        assert repo.info().source_alive_since is None
        with pytest.raises(SourceUnavailableError):
            await repo.get(2)
        source.failure = None

        async def read_until_it_is_fresh() -> None:
            while await repo.get(1) != newer:
                await asyncio.sleep(0.001)

        await soon(read_until_it_is_fresh())
        assert repo.state == "ready"
        assert repo.info().source_alive_since is not None


async def test_a_failing_source_is_not_asked_at_every_stale_read() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False, ttl=0.01, retry_after=60) as repo:
        await repo.get(1)
        source.failure = OSError("away")

        async def read_until_it_has_failed() -> None:
            while not repo.stats.load_failures:
                await repo.get(1)
                await asyncio.sleep(0.001)

        await soon(read_until_it_has_failed())
        before = source.calls["load"]
        for _ in range(100):
            assert await repo.get(1) == ADA
            await asyncio.sleep(0)
        assert source.calls["load"] == before


async def test_a_source_that_stays_away_is_said_once_and_asked_ever_more_rarely(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    source = SchoolSource(ADA)
    source.failure = OSError("away")
    async with repository(source, retry_after=0.005) as repo:
        await eventually(lambda: source.calls["load_all"] >= 5)
        warnings = [one for one in caplog.records if one.levelno >= logging.WARNING]
        assert len(warnings) == 1, [one.getMessage() for one in warnings]
        source.failure = None
        await eventually(lambda: repo.state == "ready")
        assert "filled by the source" in caplog.text
    assert "Traceback" not in caplog.text


async def test_the_figures_of_a_source_that_never_answered() -> None:
    source = SchoolSource(ADA)
    source.failure = OSError("away")
    async with repository(source, retry_after=60) as repo:
        info = repo.info()
        assert (info.entities, info.last_source_read, info.data_age) == (0, None, None)
        assert info.source_alive_since is None
        assert repo.stats.load_failures == 1
        assert repo.state == "cold"


@pytest.mark.parametrize("failure", [KeyError(1), TimeoutError(), StopIteration(), ValueError("x")])
async def test_whatever_a_source_raises_is_a_cause(failure: Exception) -> None:
    source = SchoolSource(ADA)
    source.failure = failure
    async with repository(source, preload=False) as repo:
        with pytest.raises(SourceUnavailableError, match="load of key 1 failed") as raised:
            await repo.get(1)
        assert raised.value.__cause__ is not None
    async with repository(source, retry_after=60) as repo:
        with pytest.raises(NotReadyError, match="load of all rows failed"):
            await repo.get(1)


class Panic(BaseException):
    """As pyo3's, which tells of a panic in Rust: no `Exception`, so that nobody catches it by accident."""


@pytest.mark.parametrize("preload", [False, True], ids=["on demand", "whole"])
@pytest.mark.parametrize("failure", [Panic("in a driver"), GeneratorExit()], ids=repr)
async def test_what_is_no_exception_ends_the_call_and_not_the_repository(
    failure: BaseException, preload: bool
) -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=preload) as repo:
        await soon(repo.get(1))
        source.failure = failure
        with pytest.raises(DollopError) as raised:
            await soon(repo.get(1, max_staleness=0))
        assert "failed" in str(raised.value)
        with pytest.raises(SourceUnavailableError, match="update of key 1 failed"):
            await soon(repo.update(ADA))
        if preload:
            with pytest.raises(SourceUnavailableError, match="load of all rows failed"):
                await soon(repo.refresh())
        source.failure = None
        source.put(dataclasses.replace(ADA, name="Ada L.", version=2))
        await soon(repo.refresh())
        assert await soon(repo.get(1)) == source.rows[1]


async def test_a_source_that_is_cancelled_from_within() -> None:
    """CancelledError out of a driver, with nobody having cancelled anything, is a failure like any other."""
    source = SchoolSource(ADA)
    async with repository(source, preload=False) as repo:

        async def load(key: int) -> Student | None:
            raise asyncio.CancelledError

        honest = source.load
        source.load = load  # type: ignore[method-assign]
        failing = asyncio.create_task(repo.get(1))
        await asyncio.wait([failing], timeout=5)
        assert failing.done()
        source.load = honest  # type: ignore[method-assign]
        assert await soon(repo.get(1)) == ADA
        assert repo.state == "ready"


async def test_a_load_of_all_that_is_cancelled_from_within() -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:

        async def load_all() -> AsyncIterator[list[Student]]:
            raise asyncio.CancelledError
            yield []

        honest = source.load_all
        source.load_all = load_all  # type: ignore[method-assign]
        failing = asyncio.create_task(repo.refresh())
        await asyncio.wait([failing], timeout=5)
        assert failing.done()
        source.load_all = honest  # type: ignore[method-assign]
        source.put(BOB)
        await soon(repo.refresh())
        assert await repo.get(2) == BOB
