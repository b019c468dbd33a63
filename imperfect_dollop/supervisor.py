"""One task that hosts all background tasks of a node, or of a repository that is used alone.

An anyio task group has to be left by the task that entered it, while a node may be entered in one task and left
in another (pytest-asyncio fixtures and aiohttp's ``cleanup_ctx`` do that). So the group lives in a task of its own.
"""

from __future__ import annotations

import asyncio
import contextvars
import logging
from collections.abc import Awaitable, Callable
from typing import Final, TypeVarTuple

import anyio
from anyio.abc import TaskGroup

__all__ = ["Supervisor"]

Args = TypeVarTuple("Args")

logger: Final = logging.getLogger(__name__)

FIRST_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 10.0
"""Seconds before a loop that crashed is started again, doubling from the first to the longest."""


async def _nothing() -> None:
    """What is to be done at the end where nothing is."""


class Supervisor:
    """Runs functions in the background until `stop`; a crash ends only the one that crashed.

    Stopping happens in the hosting task, so that it is carried through whatever becomes of the one
    who asked for it: first `closing` while everything still runs, then all is cancelled, then `closed`.
    """

    def __init__(
        self,
        name: str,
        *,
        closing: Callable[[], Awaitable[None]] = _nothing,
        closed: Callable[[], Awaitable[None]] = _nothing,
    ) -> None:
        self.name: str = name
        self.crashes: int = 0
        self._closing = closing
        self._closed = closed
        self._host: asyncio.Task[None] | None = None
        self._group: TaskGroup | None = None
        self._asked_to_stop = asyncio.Event()
        self._context = contextvars.copy_context()

    async def start(self) -> None:
        """Start the hosting task; returns when it is there. After an error `stop` all the same.

        What runs in the background sees the context variables of this moment, and not those of a request that has it
        begin: the request may be over by then.
        """
        self._context = contextvars.copy_context()
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._host = asyncio.create_task(self._run(started), name=self.name)
        await started

    async def stop(self) -> None:
        """End everything in order. Harmless when nothing runs.

        A caller that is cancelled meanwhile is so when all has ended; one that is cancelled twice no longer waits.
        """
        host = self._host
        if host is None:
            return
        self._asked_to_stop.set()
        try:
            await asyncio.wait([host])
        except asyncio.CancelledError:
            await asyncio.wait([host])
            raise

    def spawn(
        self, function: Callable[[*Args], Awaitable[object]], *args: *Args, name: str = ""
    ) -> None:
        """Run a function once. What it raises is logged and counted."""
        group = self._running_group()
        self._start(lambda: group.start_soon(self._once, function, args, name=name or self.name))

    def keep(self, loop: Callable[[], Awaitable[object]], *, name: str) -> None:
        """Run a loop, and run it again after a pause when it crashes."""
        group = self._running_group()
        self._start(lambda: group.start_soon(self._again_and_again, loop, name, name=name))

    def _start(self, start: Callable[[], object]) -> None:
        self._context.copy().run(start)

    def _running_group(self) -> TaskGroup:
        if self._group is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._group

    async def _run(self, started: asyncio.Future[None]) -> None:
        try:
            async with anyio.create_task_group() as self._group:
                if not started.done():  # cancelled while it waited
                    started.set_result(None)
                await self._asked_to_stop.wait()
                try:
                    await self._closing()
                except Exception:
                    logger.exception("%s: closing failed, and goes on", self.name)
                self._group.cancel_scope.cancel("the supervisor is stopped")
        finally:
            self._group = None
            await self._closed()

    async def _once(
        self, function: Callable[..., Awaitable[object]], args: tuple[object, ...]
    ) -> None:
        try:
            await function(*args)
        except (Exception, asyncio.CancelledError) as error:
            if _cancelled(error):
                raise
            self.crashes += 1
            logger.exception("%s: a background task crashed", self.name)

    async def _again_and_again(self, loop: Callable[[], Awaitable[object]], name: str) -> None:
        pause = FIRST_PAUSE
        while True:
            began = anyio.current_time()
            try:
                await loop()
                return
            except (Exception, asyncio.CancelledError) as error:
                if _cancelled(error):
                    raise
                self.crashes += 1
                logger.exception("%s crashed, and is started again", name)
            if anyio.current_time() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)


def _cancelled(error: BaseException) -> bool:
    """Whether the task was cancelled, and did not just run into somebody else's cancellation."""
    task = asyncio.current_task()
    return isinstance(error, asyncio.CancelledError) and task is not None and task.cancelling() > 0
