"""How long a write takes until another process shows it, beside the bare driver's message.

Two processes and a server. Ours: `await repository.update(row)` begins in one, the row is visible in the other. Bare:
a message of the same size is handed to the driver in one, the other has it. Rounds of both alternate; writes
are alone, each a pause after the one before. The source is a function that stores nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import statistics
import time
from collections.abc import Awaitable, Callable
from typing import Final

from imperfect_dollop.replica.messages import Events, encode

from .children import Child, Parent, child
from .drivers import listen, payload, publisher, versions
from .figures import Mistake, Rounds, Skipped, percentile
from .pairs import ROWS, Source, after, before, receiving, writing
from .servers import BROKERS, add_numbers, add_server, server

__all__ = ["add_arguments", "run"]

WARM_UP: Final = 100
"""Writes of each side before the first round."""

PATIENCE: Final = 10.0
"""Seconds for what was sent to arrive."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_server(parser, *BROKERS)
    add_numbers(
        parser,
        {
            "--rounds": (20, "rounds of each side"),
            "--writes": (100, "writes in a round"),
            "--pause": (2, "milliseconds between two writes"),
        },
    )


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure, print, and return the figures. Raises `Mistake`."""
    figures: dict[str, object] = {}
    for kind in BROKERS:
        try:
            async with server(kind, arguments) as url:
                figures |= await _compare(kind, url, arguments)
        except Skipped as skipped:
            print(f"  {kind} is left out: {skipped}")
    if not figures:
        raise Mistake("no broker was there")
    return figures


async def _compare(kind: str, url: str, arguments: argparse.Namespace) -> dict[str, object]:
    """Both sides in turn."""
    name = f"bench-{secrets.token_hex(4)}"
    source = Source()
    rounds = Rounds()
    found = await versions(kind, url)
    async with (
        writing(url, name, source) as repository,
        publisher(kind, url, name) as publish,
        child("receiver", _receive, kind, url, name) as receiver,
    ):
        if (rows := await receiver.told()) != ROWS:
            raise Mistake(f"{kind}: the other process has {rows} of {ROWS} rows")
        pause = arguments.pause / 1_000
        ours = Side("ours", lambda write: repository.update(before(write)), pause, receiver)
        await ours.samples(WARM_UP)
        size = ours.size
        bare = Side("bare", lambda write: publish(payload(write, size)), pause, receiver)
        await bare.samples(WARM_UP)
        for side in (ours, bare):
            side.taken.clear()
        for _ in range(arguments.rounds):
            for side in (ours, bare):
                rounds.add(side.name, statistics.median(await side.samples(arguments.writes)))
        if source.loads != 1 or source.updates != ours.begun or bare.size != size:
            raise Mistake(
                f"{kind}: {source.loads} loads and {source.updates} updates of the source for"
                f" {ours.begun} writes; messages of {size} and {bare.size} bytes"
            )
        if repository.stats.events_sent != ours.begun:
            raise Mistake(f"{kind}: {repository.stats.events_sent} events for {ours.begun} writes")
    ratio = rounds.ratio("ours", "bare")
    print(f"  {kind} {found['server']}, {found['driver']}, messages of {size} bytes")
    figures: dict[str, object] = {**ratio.figures(f"{kind}_ratio"), f"{kind}_bytes": size}
    for side in (ours, bare):
        p50, p99 = rounds.median(side.name), percentile(side.taken, 99)
        figures |= {
            f"{kind}_{side.name}_p50_us": round(p50),
            f"{kind}_{side.name}_p99_us": round(p99),
        }
        print(f"    {side.name}  p50 {p50:>7,.0f} us   p99 {p99:>7,.0f} us")
    print(f"  {kind}_ratio: {ratio}")
    return figures | {f"{kind}_{what}": text for what, text in found.items()}


class Side:
    """One of the two ways from process to process."""

    def __init__(
        self, name: str, write: Callable[[int], Awaitable[object]], pause: float, receiver: Child
    ) -> None:
        self.name = name
        self.begun = 0
        self.size = 0
        """Bytes of the last message that arrived."""
        self.taken: list[float] = []
        """All samples so far."""
        self._write = write
        self._pause = pause
        self._receiver = receiver

    async def samples(self, count: int) -> list[float]:
        """Microseconds from the beginning of each of `count` writes to its arrival."""
        began: list[int] = []
        for _ in range(count):
            await asyncio.sleep(self._pause)
            began.append(time.monotonic_ns())  # the same clock in all processes of a machine
            await self._write(self.begun)
            self.begun += 1
        answer: tuple[list[int], int] | None = await self._receiver.ask((self.name, count))
        if answer is None:
            raise Mistake(f"{self.name}: not every write arrived, in order and as it was sent")
        arrived, self.size = answer
        samples = [(end - start) / 1_000 for start, end in zip(began, arrived, strict=True)]
        if min(samples) <= 0:
            raise Mistake(f"{self.name}: a write arrived before it began: no common clock")
        self.taken += samples
        return samples


class Arrivals:
    """When each write arrived, in order. `right(number)` is asked after the time was taken."""

    def __init__(self, right: Callable[[int], bool]) -> None:
        self.times: list[int] = []
        self.size = 0
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


async def _receive(parent: Parent, kind: str, url: str, name: str) -> None:
    """Answers the number of writes of a side with their times."""
    last = b""

    def shown(write: int) -> bool:
        written = after(write)
        return repository.peek(written.id) == written

    def applied(events: Events) -> None:
        ours.note(time.monotonic_ns())
        ours.size = len(encode(events))

    def arrived(message: bytes) -> None:
        nonlocal last
        now = time.monotonic_ns()
        last = message
        bare.note(now)
        bare.size = len(message)

    ours = Arrivals(shown)
    bare = Arrivals(lambda write: last == payload(write, len(last)))
    sides = {"ours": ours, "bare": bare}
    async with receiving(url, name, applied) as repository, listen(kind, url, name, arrived):
        parent.tell(len(repository))
        while (asked := await parent.asked()) is not None:
            side, count = asked
            try:
                parent.tell((await sides[side].report(count), sides[side].size))
            except TimeoutError:
                parent.tell(None)
