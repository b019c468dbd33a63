"""Programs that are started here, or are found running, and the ports on which they listen."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import socket
import subprocess
import sys
from collections.abc import Awaitable, Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

__all__ = [
    "CONNECT_SECONDS",
    "LOOPBACK",
    "NotFoundError",
    "Port",
    "Process",
    "ProcessError",
    "opens",
]

LOOPBACK: Final = "127.0.0.1"

STOP_SECONDS: Final = 10.0
"""For a program to end as it would like to, before it is killed."""


PAUSE: Final = 0.05

CONNECT_SECONDS: Final = 5.0


class NotFoundError(LookupError):
    """There is no broker, or no database. The message says what to do."""


class ProcessError(RuntimeError):
    """A program has ended, or does not answer; the message closes with the last that it said."""


class Port:
    """A port of the loopback interface that nobody else is given, also while the program that it is for is dead.

    A socket that is bound and never listens holds it. Linux lets the program listen there all the same, as both say
    SO_REUSEADDR; elsewhere it is only a port that was free a moment ago.
    """

    def __init__(self) -> None:
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind((LOOPBACK, 0))
        self.number: Final[int] = self._holder.getsockname()[1]
        if sys.platform != "linux":
            self._holder.close()

    def close(self) -> None:
        """Let others have it."""
        self._holder.close()


class Process:
    """A program that can be started more than once. What it says goes to a file."""

    def __init__(
        self,
        name: str,
        command: Sequence[str],
        environment: Mapping[str, str],
        *,
        log: Path,
        folder: Path,
    ) -> None:
        self.name = name
        self.log = log
        self._command = command
        self._environment = environment
        self._folder = folder
        self._process: asyncio.subprocess.Process | None = None

    @property
    def running(self) -> bool:
        """Whether it has been started and has not ended."""
        return self._process is not None and self._process.returncode is None

    async def start(self) -> None:
        """Start it, and do not wait for anything."""
        with self.log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command,
                env=self._environment,
                cwd=self._folder,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is for who has started it, and ends it
            )

    async def kill(self) -> None:
        """End it with SIGKILL, and return when it is gone."""
        await self._end(signal.SIGKILL)

    async def stop(self) -> None:
        """End it with SIGTERM, or with SIGKILL if that takes too long, and return when it is gone."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(STOP_SECONDS):
                await self._end(signal.SIGTERM)
        await self.kill()

    async def _end(self, given: signal.Signals) -> None:
        if self._process is not None:
            if self._process.returncode is None:
                with contextlib.suppress(ProcessLookupError):  # it ends at this moment
                    self._process.send_signal(given)
            await self._process.wait()

    async def until(self, ready: Callable[[], Awaitable[bool]], seconds: float) -> None:
        """Look whether it is `ready` until it is. Raises `ProcessError` if it ends instead, or takes too long."""
        loop = asyncio.get_running_loop()
        until = loop.time() + seconds
        while not await ready():
            if not self.running:
                raise self.failed("has ended")
            if loop.time() > until:
                raise self.failed(f"was not ready within {seconds:g} s")
            await asyncio.sleep(PAUSE)

    async def ended(self) -> None:
        """Wait for its end."""
        assert self._process is not None
        await self._process.wait()

    def said(self, lines: int = 15) -> str:
        """The last that it has said."""
        return "\n".join(self.log.read_text(errors="replace").splitlines()[-lines:])

    def failed(self, what: str) -> ProcessError:
        """An error that tells what it has said."""
        return ProcessError(f"{self.name} {what}; the last it said:\n{self.said()}")


async def opens(port: int) -> bool:
    """Whether somebody listens on this port of this machine."""
    try:
        async with asyncio.timeout(CONNECT_SECONDS):
            _, writer = await asyncio.open_connection(LOOPBACK, port)
    except OSError:  # a timeout is one
        return False
    writer.transport.abort()
    return True
