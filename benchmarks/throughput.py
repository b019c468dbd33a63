"""Events a second, from a process that writes as fast as it can to one that applies them.

Ours: many tasks of the writer await `repository.update` at once, the receiver shows every row. Bare: a message for each
event, as the driver's documentation shows, the next when the server has taken the last. Both from the first write to
the last arrival.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import time
from collections.abc import Awaitable, Callable
from typing import Final

from imperfect_dollop.replica.messages import Events

from .children import Child, Parent, child
from .drivers import listen, payload, publisher
from .figures import Mistake, Rounds, Skipped
from .pairs import ROWS, Source, after, before, receiving, writing
from .servers import BROKERS, add_numbers, add_server, server

__all__ = ["add_arguments", "run"]

WRITERS: Final = 200
"""Tasks that write at once, each its own rows."""

BYTES: Final = 100
"""Of a bare message: about what one of our events takes of a message with many."""

PATIENCE: Final = 60.0
"""Seconds for what was sent to arrive."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_server(parser, *BROKERS)
    add_numbers(
        parser,
        {
            "--rounds": (7, "rounds of each side"),
            "--writes": (20_000, "writes of ours in a round"),
            "--messages": (2_000, "messages of the bare driver in a round"),
        },
        writes=ROWS,
    )


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure, print, and return the figures. Raises `Mistake`."""
    figures: dict[str, object] = {}
    for kind in BROKERS:
        try:
            async with server(kind, arguments) as url:
                rounds = await _compare(kind, url, arguments)
        except Skipped as skipped:
            print(f"  {kind} is left out: {skipped}")
            continue
        ratio = rounds.ratio("bare", "ours")
        speeds = {side: 1e6 / rounds.median(side) for side in ("ours", "bare")}
        print(
            f"  {kind}: ours {speeds['ours']:,.0f} events/s, bare {speeds['bare']:,.0f} messages/s\n"
            f"  {kind}_speedup: {ratio}"
        )
        figures |= ratio.figures(f"{kind}_speedup")
        figures |= {f"{kind}_{side}_per_s": round(speed) for side, speed in speeds.items()}
    if not figures:
        raise Mistake("no broker was there")
    return figures


async def _compare(kind: str, url: str, arguments: argparse.Namespace) -> Rounds:
    """Microseconds an event, of both sides in turn."""
    name = f"bench-{secrets.token_hex(4)}"
    source = Source()
    rounds = Rounds()
    written = sent = 0
    async with (
        writing(url, name, source) as repository,
        publisher(kind, url, name) as publish,
        child("receiver", _receive, kind, url, name) as receiver,
    ):
        await receiver.told()

        async def ours(count: int) -> None:
            nonlocal written
            begin, written = written, written + count

            async def writer(first: int) -> None:
                for write in range(first, begin + count, WRITERS):
                    await repository.update(before(write))

            async with asyncio.TaskGroup() as group:
                for place in range(WRITERS):
                    group.create_task(writer(begin + place))

        async def bare(count: int) -> None:
            nonlocal sent
            begin, sent = sent, sent + count
            for number in range(begin, sent):
                await publish(payload(number, BYTES))

        for number in range(arguments.rounds + 1):
            for side, work, count in (
                ("ours", ours, arguments.writes),
                ("bare", bare, arguments.messages),
            ):
                seconds = await _timed(side, work, count, receiver)
                if number:  # the first is to warm up
                    rounds.add(side, 1e6 * seconds / count)
        last = sorted(map(after, range(written - ROWS, written)), key=lambda each: each.id)
        if await receiver.ask(("rows", 0)) != last:
            raise Mistake(f"{kind}: the receiver does not have the rows that were written")
        stats = repository.stats
        if source.loads != 1 or source.updates != written or stats.events_sent != written:
            raise Mistake(
                f"{kind}: {source.loads} loads, {source.updates} updates and {stats.events_sent} events"
                f" for {written} writes"
            )
    return rounds


async def _timed(
    side: str, work: Callable[[int], Awaitable[None]], count: int, receiver: Child
) -> float:
    """Seconds from the first of `count` writes until the last has arrived."""
    began = time.monotonic_ns()
    # It says itself what is missing after that time.
    arriving = asyncio.ensure_future(receiver.ask((side, count), PATIENCE + 5.0))
    await work(count)
    ended: int | None = await arriving
    if ended is None:
        raise Mistake(f"{side}: not every write has arrived, or not in order")
    return (ended - began) / 1e9


class Count:
    """How much has arrived, and when a number of it was reached."""

    def __init__(self) -> None:
        self._arrived = 0
        self._goal = 0
        self._reached: asyncio.Future[int] | None = None

    def add(self, count: int) -> None:
        """So much more has arrived."""
        self._arrived += count
        reached = self._reached
        if reached is not None and self._arrived >= self._goal and not reached.done():
            reached.set_result(time.monotonic_ns())

    async def reach(self, count: int) -> int:
        """When so much more than at the last call had arrived."""
        self._goal += count
        self._reached = asyncio.get_running_loop().create_future()
        self.add(0)
        async with asyncio.timeout(PATIENCE):
            return await self._reached


async def _receive(parent: Parent, kind: str, url: str, name: str) -> None:
    """Answers a side and a number with when so many more had arrived of it; and with the rows."""
    ours, bare = Count(), Count()
    expected = 0

    def applied(events: Events) -> None:
        ours.add(len(events.events))

    def arrived(message: bytes) -> None:
        nonlocal expected
        if message != payload(expected, BYTES):
            raise Mistake(f"message {expected} is missing, or wrong")
        expected += 1
        bare.add(1)

    async with receiving(url, name, applied) as repository, listen(kind, url, name, arrived):
        parent.tell(len(repository))
        while (asked := await parent.asked()) is not None:
            side, count = asked
            if side == "rows":
                parent.tell([repository.peek(number) for number in range(ROWS)])
                continue
            try:
                parent.tell(await (ours if side == "ours" else bare).reach(count))
            except TimeoutError:
                parent.tell(None)
