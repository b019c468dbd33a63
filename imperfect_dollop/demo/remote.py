"""A member in a process of its own."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import signal
import sys
from collections.abc import Mapping
from typing import Any, Final

import anyio
import msgspec

from .database import Student
from .member import Answers, Figures, Kind, Setup, Written
from .pipe import CALLS, MemberFailedError, Reply, Request, receive, send

__all__ = ["MemberDiedError", "RemoteMember"]

COMMAND: Final = (sys.executable, "-m", "imperfect_dollop.demo.child")

ANSWER_SECONDS: Final = 60
"""For an answer, besides the patience that was asked for: more than the library gives any call."""

LEAVE_SECONDS: Final = 10
"""For leaving in order, before the process is killed after all."""

TAIL: Final = 4_000
"""Characters kept of what a process says on standard error."""


class MemberDiedError(RuntimeError):
    """A member's process has ended, or does not answer."""


class RemoteMember:
    """A `Member` whose node is a process, driven over its standard input and output."""

    def __init__(self, setup: Setup) -> None:
        self.name: str = setup.name
        self.figures: Figures = Figures()
        self._setup = setup
        self._process: asyncio.subprocess.Process | None = None
        self._following: asyncio.Task[None] | None = None
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Reply]] = {}
        self._said = ""
        self._fate: str | None = None
        """How the process ended."""

    # -- the process -----------------------------------------------------------------------------

    async def open(self) -> None:
        """Start the process, and wait until it answers."""
        self._process = process = await asyncio.create_subprocess_exec(
            *COMMAND,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            start_new_session=True,  # Ctrl-C is for the demo alone, which then ends its processes
        )
        self._following = asyncio.create_task(self._follow(process), name=f"replies of {self.name}")
        with contextlib.suppress(ConnectionError):  # it has ended: the call below tells how
            await send(_input(process), self._setup)
        await self.look()

    async def leave(self) -> None:
        """Leave the cluster, then end the process."""
        with anyio.move_on_after(LEAVE_SECONDS):
            with contextlib.suppress(MemberDiedError, MemberFailedError):  # all that is wanted
                await self.look()
                await self._call("leave")
            if self._process is not None and self._following is not None:
                _input(self._process).close()
                await asyncio.wait([self._following])
        await self._kill()

    async def crash(self) -> None:
        """SIGKILL: no goodbye, the others have to notice by themselves."""
        with contextlib.suppress(MemberDiedError, MemberFailedError):
            await self.look()
        await self._kill()

    async def _kill(self) -> None:
        if self._process is None or self._following is None:
            return
        if self._process.returncode is None:
            self._process.kill()
        await asyncio.wait([self._following])
        _input(self._process).close()

    async def _follow(self, process: asyncio.subprocess.Process) -> None:
        """Hand out replies until the process has ended."""
        try:
            async with anyio.create_task_group() as streams:
                streams.start_soon(self._read_errors, process)
                await self._read_replies(process)
            code = await process.wait()
            self._fate = self._fate or _ending(code)
        finally:
            self._fate = self._fate or "is not listened to any more"
            self.figures = msgspec.structs.replace(self.figures, state="dead")
            for waiting in self._waiting.values():
                if not waiting.done():
                    waiting.set_exception(self._death())

    async def _read_replies(self, process: asyncio.subprocess.Process) -> None:
        assert process.stdout is not None
        while (frame := await receive(process.stdout)) is not None:
            try:
                reply = msgspec.msgpack.decode(frame, type=Reply)
            except msgspec.MsgspecError as error:
                self._fate = f"has sent what is no reply ({error})"
                process.kill()
                return
            waiting = self._waiting.get(reply.number)
            if waiting is not None and not waiting.done():  # else nobody waits for it any more
                waiting.set_result(reply)

    async def _read_errors(self, process: asyncio.subprocess.Process) -> None:
        assert process.stderr is not None
        while some := await process.stderr.read(TAIL):
            said = some.decode(errors="replace")
            if self._setup.log is not None:
                sys.stderr.write(said)
            self._said = (self._said + said)[-TAIL:]

    def _death(self) -> MemberDiedError:
        said = self._said.strip()
        tail = f"; the last it said:\n{said}" if said else ", without a word"
        return MemberDiedError(f"the process of {self.name} {self._fate}{tail}")

    async def _call(self, method: str, *arguments: Any, patience: float = 0.0) -> Any:
        """Have a method called there. Raises what it raises, and `MemberDiedError`."""
        if self._process is None:
            raise MemberDiedError(f"{self.name} has no process yet")
        if self._fate is not None:
            raise self._death()
        number = next(self._numbers)
        replied = self._waiting[number] = asyncio.get_running_loop().create_future()
        seconds = patience + ANSWER_SECONDS
        try:
            with anyio.fail_after(seconds):
                raw = msgspec.Raw(msgspec.msgpack.encode(arguments))
                with contextlib.suppress(ConnectionError):  # it has ended: the next line tells how
                    await send(_input(self._process), Request(number, method, raw))
                reply = await replied
        except TimeoutError:
            raise MemberDiedError(
                f"the process of {self.name} has not answered {method!r} for {seconds:g} s"
            ) from None
        finally:
            del self._waiting[number]
        return CALLS[method].result(reply)

    # -- the member in it ------------------------------------------------------------------------

    async def start(self) -> None:
        """See `Member`, as for all of the following."""
        await self._call("start")

    async def write(self, kind: Kind, student: Student) -> Written:
        """Write there."""
        written: Written = await self._call("write", kind, student)
        return written

    async def refresh(self) -> None:
        """Refresh there."""
        await self._call("refresh")

    async def shows(self, key: int, wanted: Student | None, patience: float) -> float | None:
        """Wait there."""
        shown: float | None = await self._call("shows", key, wanted, patience, patience=patience)
        return shown

    async def differs(self, wanted: Mapping[int, Student], patience: float) -> list[int]:
        """Compare there."""
        keys: list[int] = await self._call("differs", wanted, patience, patience=patience)
        return keys

    async def answers(self, wanted: Mapping[int, Student]) -> Answers:
        """Read there."""
        answers: Answers = await self._call("answers", wanted)
        return answers

    async def look(self) -> Figures:
        """Ask for the figures there."""
        figures: Figures = await self._call("look")
        self.figures = figures
        return self.figures


def _input(process: asyncio.subprocess.Process) -> asyncio.StreamWriter:
    assert process.stdin is not None
    return process.stdin


def _ending(code: int) -> str:
    if code < 0:
        return f"was ended by {signal.Signals(-code).name}"
    return f"has ended with exit code {code}"
