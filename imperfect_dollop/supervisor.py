"""One task that hosts all background tasks of a node, or of a repository that is used alone.

An anyio task group has to be left by the task that entered it, while a node may be entered in one task and left
in another (pytest-asyncio fixtures and aiohttp's ``cleanup_ctx`` do that). So the group lives in a task of its own,
the only one that is not itself in a task group.
"""

from __future__ import annotations

import asyncio
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


class Supervisor:
    """Runs functions in the background until `stop`; a crash ends only the one that crashed."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.crashes: int = 0
        self._host: asyncio.Task[None] | None = None
        self._group: TaskGroup | None = None

    @property
    def running(self) -> bool:
        """Whether functions can be spawned."""
        return self._group is not None

    async def start(self) -> None:
        """Start the hosting task; returns when it is there."""
        started = asyncio.get_running_loop().create_future()
        self._host = asyncio.create_task(self._run(started), name=self.name)
        await asyncio.shield(started)

    async def stop(self) -> None:
        """Cancel everything and wait until it has ended. Harmless when nothing runs.

        The caller's cancellation ends the waiting, not the stopping.
        """
        host, group = self._host, self._group
        self._host = self._group = None
        if group is not None:
            group.cancel_scope.cancel("the supervisor is stopped")
        if host is not None:
            await asyncio.shield(host)

    def spawn(
        self, function: Callable[[*Args], Awaitable[object]], *args: *Args, name: str = ""
    ) -> None:
        """Run a function once. What it raises is logged and counted."""
        self._running_group().start_soon(self._once, function, args, name=name or self.name)

    def keep(self, loop: Callable[[], Awaitable[object]], *, name: str) -> None:
        """Run a loop, and run it again after a pause when it crashes."""
        self._running_group().start_soon(self._again_and_again, loop, name, name=name)

    def _running_group(self) -> TaskGroup:
        if self._group is None:
            raise RuntimeError(f"{self.name} is not running")
        return self._group

    async def _run(self, started: asyncio.Future[None]) -> None:
        async with anyio.create_task_group() as self._group:
            started.set_result(None)
            await anyio.sleep_forever()

    async def _once(
        self, function: Callable[..., Awaitable[object]], args: tuple[object, ...]
    ) -> None:
        try:
            await function(*args)
        except Exception:
            self.crashes += 1
            logger.exception("%s: a background task crashed", self.name)

    async def _again_and_again(self, loop: Callable[[], Awaitable[object]], name: str) -> None:
        pause = FIRST_PAUSE
        while True:
            began = anyio.current_time()
            try:
                await loop()
                return
            except Exception:
                self.crashes += 1
                logger.exception("%s crashed, and is started again", name)
            if anyio.current_time() - began > LONGEST_PAUSE:
                pause = FIRST_PAUSE
            await anyio.sleep(pause)
            pause = min(2 * pause, LONGEST_PAUSE)
