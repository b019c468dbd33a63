"""The receiving process of `propagation`: a node and a bare consumer, and when what reached each of them."""

from __future__ import annotations

import asyncio
import dataclasses
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any, Final

from imperfect_dollop import FunctionSource, Node, Repository
from imperfect_dollop.replica.messages import Events, encode
from imperfect_dollop.session import Session

from .drivers import listen

__all__ = ["ROWS", "Row", "after", "bare_payload", "receive"]

ROWS: Final = 1_000

PATIENCE: Final = 10.0
"""Seconds for what was sent to arrive."""


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    """A small row, as there are many."""

    id: int
    name: str
    city: str
    version: int = 0


def after(write: int) -> Row:
    """The row that the write with this number leaves, counted from 0; each writes the next row."""
    return Row(write % ROWS, f"Student {write}", "Madrid", write // ROWS + 1)


def bare_payload(write: int, size: int) -> bytes:
    """What the bare driver carries for a write: as long as our message."""
    return b"%d " % write + b"x" * (size - len(b"%d " % write))


class Arrivals:
    """When each write arrived, in order. `right(number)` is asked after the time was taken."""

    def __init__(self, right: Callable[[int], bool]) -> None:
        self.times: list[int] = []
        self._right = right
        self._reported = 0
        self._news = asyncio.Event()

    def note(self, now: int) -> None:
        """Something has arrived; it counts if it is what was due next."""
        while self._right(len(self.times)):
            self.times.append(now)
        self._news.set()

    async def report(self, count: int) -> list[int]:
        """The times of the next `count` writes."""
        begin, self._reported = self._reported, self._reported + count
        async with asyncio.timeout(PATIENCE):
            while len(self.times) < self._reported:
                self._news.clear()
                await self._news.wait()
        return self.times[begin:]


class Observed(Repository[int, Row]):
    """Says after each message with events that they were applied: no polling, and nothing in between."""

    applied: Callable[[Events], None]

    def attach(self, *arguments: Any, **named: Any) -> Session[int, Row]:
        """See `Repository.attach`."""
        session = super().attach(*arguments, **named)
        receive = session.receive

        def observed(events: Events) -> None:
            receive(events)
            self.applied(events)

        session.receive = observed  # type: ignore[method-assign]
        return session


def receive(kind: str, url: str, name: str, parent: Connection) -> None:
    """The process's work: answers the number of writes of a side with their times, until told to stop."""
    asyncio.run(_receive(kind, url, name, parent))


async def _receive(kind: str, url: str, name: str, parent: Connection) -> None:
    sizes = {"ours": 0, "bare": 0}
    payload = b""

    def shown(write: int) -> bool:
        row = after(write)
        return repository.peek(row.id) == row

    def applied(events: Events) -> None:
        ours.note(time.monotonic_ns())
        sizes["ours"] = len(encode(events))

    def arrived(message: bytes) -> None:
        nonlocal payload
        now = time.monotonic_ns()
        payload = message
        bare.note(now)
        sizes["bare"] = len(message)

    ours = Arrivals(shown)
    bare = Arrivals(lambda write: payload == bare_payload(write, len(payload)))
    sides = {"ours": ours, "bare": bare}
    repository = Observed(
        Row,
        source=FunctionSource(load_all=_no_source),
        version="version",
        ttl=None,
        bootstrap=("sibling",),
        read_only=True,
    )
    repository.applied = applied
    async with (
        Node(url, repository, namespace=name, startup="wait"),
        listen(kind, url, name, arrived),
    ):
        parent.send(len(repository))
        while (asked := await asyncio.to_thread(parent.recv)) is not None:
            side, count = asked
            try:
                parent.send((await sides[side].report(count), sizes[side]))
            except TimeoutError:
                parent.send(None)


async def _no_source() -> list[Row]:
    raise RuntimeError("this process has no source: it is to copy its sibling and to miss nothing")
