"""Other processes that take part in a benchmark: started afresh, asked over a pipe, ended with it."""

from __future__ import annotations

import asyncio
import multiprocessing
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from multiprocessing.connection import Connection
from typing import Any, Concatenate, Final, ParamSpec, TypeAlias

from .figures import Mistake

__all__ = ["Child", "Work", "child"]

P = ParamSpec("P")

PATIENCE: Final = 60.0
"""Seconds for an answer, unless the one who asks says more."""

END_SECONDS: Final = 10.0
"""For a process that was told to end."""


class Parent:
    """The other end of a `Child`."""

    def __init__(self, pipe: Connection) -> None:
        self._pipe = pipe

    def tell(self, answer: object) -> None:
        """The answer to what was asked last, or that the child has begun."""
        self._pipe.send(answer)

    async def asked(self) -> Any:
        """What is asked next; ``None``: to end."""
        return await asyncio.to_thread(self._pipe.recv)


Work: TypeAlias = Callable[Concatenate[Parent, P], Awaitable[None]]
"""What a child does; the function of a module, with arguments that can be pickled."""


class Child:
    """A process that answers one question after the other."""

    def __init__(self, name: str, pipe: Connection) -> None:
        self._name = name
        self._pipe = pipe

    async def told(self, seconds: float = PATIENCE) -> Any:
        """What it says next. Raises `Mistake` if it ends instead, or is silent for so long."""
        try:
            if not await asyncio.to_thread(self._pipe.poll, seconds):
                raise Mistake(f"{self._name}: no answer in {seconds:g} s")
            return self._pipe.recv()
        except (EOFError, OSError) as error:
            raise Mistake(f"{self._name}: the process has failed, see above") from error

    async def ask(self, question: object, seconds: float = PATIENCE) -> Any:
        """Its answer. Raises as `told`."""
        try:
            self._pipe.send(question)
        except OSError as error:
            raise Mistake(f"{self._name}: the process has failed, see above") from error
        return await self.told(seconds)


def _run(work: Work[...], pipe: Connection, arguments: tuple[Any, ...]) -> None:
    async def main() -> None:
        await work(Parent(pipe), *arguments)

    asyncio.run(main())


@asynccontextmanager
async def child(
    name: str, work: Work[P], *arguments: P.args, **_: P.kwargs
) -> AsyncIterator[Child]:
    """A process of its own that does this work, with a fresh interpreter."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_run, args=(work, there, arguments), name=name)
    process.start()
    there.close()  # so that its end is noticed here
    try:
        yield Child(name, here)
        here.send(None)
        await asyncio.to_thread(process.join, END_SECONDS)
    finally:
        process.kill()
        process.join()
        process.close()
        here.close()
