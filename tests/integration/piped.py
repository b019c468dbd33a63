"""The test's end of the pipes: a process that is given orders, killed and frozen."""

from __future__ import annotations

import asyncio
import itertools
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, Final

import msgspec

from .history import Record
from .orders import READY, Order, Reply, Report, Seen, line

ROOT: Final = Path(__file__).parents[2]

PATIENCE: Final = 20.0
"""Seconds for what is sure to come, on a machine that is busy."""

LINE: Final = 16 << 20
"""Bytes of the longest line: all rows of a dump."""


class WorkerError(Exception):
    """An order failed in the worker: `kind` is the class of what it raised there."""

    def __init__(self, worker: str, verb: str, kind: str, message: str) -> None:
        super().__init__(f"{worker}: {verb}: {kind}: {message}")
        self.kind = kind


class WorkerGoneError(Exception):
    """The process ended before it answered."""


async def until(
    condition: Callable[[], Awaitable[bool]],
    what: Callable[[], str] | str,
    patience: float = PATIENCE,
) -> None:
    """Ask again and again until it holds."""
    deadline = time.monotonic() + patience
    while not await condition():
        if time.monotonic() > deadline:
            raise AssertionError(
                f"not within {patience:g} s: {what if isinstance(what, str) else what()}"
            )
        await asyncio.sleep(0.02)


async def piped(program: str, log: Path, setup: msgspec.Struct) -> asyncio.subprocess.Process:
    """Start this module as a process and tell it who it is. What it says on standard error goes to `log`."""
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", program),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            limit=LINE,
            cwd=ROOT,
        )
    assert process.stdin is not None
    process.stdin.write(line(setup))
    return process


class Piped:
    """A process that carries out orders, see ``obey.py``."""

    def __init__(self, name: str, process: asyncio.subprocess.Process) -> None:
        self.name = name
        self.running = True
        self._process = process
        self._numbers = itertools.count(READY + 1)
        self._joined: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._waiting = {READY: self._joined}
        self._listening = asyncio.create_task(self._listen(), name=f"listening to {self.name}")

    async def _listen(self) -> None:
        decode = msgspec.json.Decoder(Report).decode
        assert self._process.stdout is not None
        while text := await self._process.stdout.readline():
            try:
                report = decode(text)
            except msgspec.DecodeError:
                break  # killed in the middle of a line
            if isinstance(report, Seen):
                self.seen(report.records)
            else:
                waiting = self._waiting.pop(report.number, None)
                if waiting is not None and not waiting.done():
                    waiting.set_result(report)
        await self._process.wait()
        self.running = False
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(WorkerGoneError(self.name))
                waiting.exception()  # nobody need be waiting any more
        self._waiting.clear()

    def seen(self, records: list[Record]) -> None:
        """What its reads have returned."""

    # -- orders ----------------------------------------------------------------------------------

    async def joined(self, patience: float | None = PATIENCE) -> None:
        """Wait until its node has been entered."""
        await self._answer(self._joined, "join", patience)

    async def ask(self, verb: str, patience: float = PATIENCE, /, **arguments: Any) -> Any:
        return await self._answer(self._send(verb, arguments), verb, patience)

    def tell(self, verb: str, /, **arguments: Any) -> None:
        """Give an order whose answer nobody waits for."""
        self._send(verb, arguments).add_done_callback(asyncio.Future.exception)

    def _send(self, verb: str, arguments: dict[str, Any]) -> asyncio.Future[Reply]:
        if not self.running:
            raise WorkerGoneError(self.name)
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        assert self._process.stdin is not None
        self._process.stdin.write(line(Order(number, verb, arguments)))
        return answer

    async def _answer(
        self, answer: asyncio.Future[Reply], verb: str, patience: float | None
    ) -> Any:
        async with asyncio.timeout(patience):
            reply = await asyncio.shield(answer)
        if reply.error is not None:
            raise WorkerError(self.name, verb, reply.error, reply.message)
        return reply.result

    # -- violence --------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        return self._process.pid

    def freeze(self) -> None:
        self._process.send_signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._process.send_signal(signal.SIGCONT)

    async def kill(self) -> None:
        if self.running:
            self._process.kill()
        await self._listening

    async def gone(self, patience: float = PATIENCE) -> None:
        """Wait until it has ended."""
        async with asyncio.timeout(patience):
            await asyncio.shield(self._listening)

    async def died(self) -> None:
        """Wait until it has killed itself."""
        await self.gone()
        assert self._process.returncode == -signal.SIGKILL

    async def end(self) -> None:
        """Close its standard input, upon which it ends."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        await self.gone()
