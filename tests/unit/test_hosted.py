"""A task beside a block: it ends with the block, and the block's errors come out as they are."""

from __future__ import annotations

import asyncio
from typing import NoReturn

import pytest

from imperfect_dollop.hosted import hosted

from .school import others, settled, soon


class Loop:
    """Runs until it is cancelled, or crashes when it is told to."""

    def __init__(self) -> None:
        self.began = self.ended = 0
        self.crash = asyncio.Event()
        self.error: BaseException | None = None

    async def run(self) -> None:
        self.began += 1
        try:
            await self.crash.wait()
        finally:
            self.ended += 1
        if self.error is not None:
            raise self.error


async def test_it_runs_beside_the_block_and_is_cancelled_at_its_end() -> None:
    loop = Loop()
    async with hosted(loop.run):
        await settled()
        assert (loop.began, loop.ended) == (1, 0)
    assert (loop.began, loop.ended) == (1, 1)
    assert not others()


@pytest.mark.parametrize(
    "error",
    [
        ZeroDivisionError("a plain one"),
        asyncio.CancelledError("nobody has cancelled the task"),
        KeyboardInterrupt("of the base"),
        ExceptionGroup("one", [ZeroDivisionError()]),
        ExceptionGroup("many", [ZeroDivisionError(), ExceptionGroup("inner", [KeyError()])]),
        BaseExceptionGroup("of the base", [KeyboardInterrupt()]),
    ],
    ids=str,
)
async def test_what_the_block_raises_comes_out_as_it_is(error: BaseException) -> None:
    loop = Loop()
    with pytest.raises(type(error)) as raised:  # noqa: PT012 - leaving the block raises
        async with hosted(loop.run):
            await settled()
            raise error
    assert raised.value is error
    assert loop.ended == 1
    assert not others()


async def test_what_the_block_raises_keeps_its_cause_and_its_context() -> None:
    def fail(*, with_cause: bool) -> NoReturn:
        try:
            raise KeyError("first")
        except KeyError as first:
            if with_cause:
                raise ZeroDivisionError from first
            raise ZeroDivisionError  # noqa: B904 - as code does that nobody has looked at

    for with_cause in (True, False):
        with pytest.raises(ZeroDivisionError) as raised:
            async with hosted(Loop().run):
                fail(with_cause=with_cause)
        error = raised.value
        assert isinstance(error.__context__, KeyError)
        assert error.__suppress_context__ is with_cause
        assert isinstance(error.__cause__, KeyError) is with_cause


async def test_a_block_that_is_cancelled_is_cancelled() -> None:
    loop = Loop()

    async def block() -> None:
        async with hosted(loop.run):
            await asyncio.Event().wait()

    task = asyncio.create_task(block())
    await settled()
    task.cancel("enough")
    with pytest.raises(asyncio.CancelledError):
        await soon(task)
    assert task.cancelled()
    assert loop.ended == 1
    assert not others()


@pytest.mark.parametrize("error", [ZeroDivisionError("crash"), ExceptionGroup("g", [KeyError()])])
async def test_a_crash_of_the_loop_ends_the_block_and_comes_out(error: Exception) -> None:
    loop = Loop()
    loop.error = error
    with pytest.raises(type(error)) as raised:  # noqa: PT012 - leaving the block raises
        async with hosted(loop.run):
            await settled()
            loop.crash.set()
            await asyncio.Event().wait()
    assert raised.value is error
    assert not others()


async def test_a_loop_that_ends_leaves_the_block_alone() -> None:
    loop = Loop()
    async with hosted(loop.run):
        loop.crash.set()
        await settled()
        assert loop.ended == 1
        await settled()


async def test_a_crash_of_the_loop_does_not_hide_what_the_block_raises() -> None:
    loop = Loop()
    loop.error = KeyError("the loop's")
    with pytest.RaisesGroup(KeyError, ZeroDivisionError):
        async with hosted(loop.run):
            loop.crash.set()
            try:
                await asyncio.Event().wait()
            finally:
                raise ZeroDivisionError
