"""How long a write takes until another process shows it, beside the bare driver's message.

Two processes and a server. Ours: `await repository.update(row)` begins in one, the row is visible in the other. Bare:
a message of the same size is handed to the driver in one, the other has it. Rounds of both alternate; writes
are alone, each a pause after the one before. The source is a function that stores nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import dataclasses
import multiprocessing
import os
import secrets
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

from imperfect_dollop import FunctionSource, Node, Repository

from .arrivals import ROWS, Row, after, bare_payload, receive
from .drivers import publisher, server
from .figures import Comparison, Mistake, machine, p50, p99

__all__ = ["add_arguments", "run"]

URLS: Final = {
    "redis": ("DOLLOP_REDIS_URL", "redis://127.0.0.1:6379"),
    "rabbitmq": ("DOLLOP_RABBITMQ_URL", "amqp://guest:guest@127.0.0.1:5672/"),
}
"""Where a broker is looked for: the variable, and what holds without it."""

WARM_UP: Final = 100
"""Writes of each side before the first round."""

START_SECONDS: Final = 30.0
"""For the other process to start and to have its copy."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    for kind, (variable, usual) in URLS.items():
        parser.add_argument(
            f"--{kind}",
            metavar="URL",
            default=os.environ.get(variable, usual),
            help=f"the server (${variable}, else {usual})",
        )
    numbers = {
        "--rounds": (20, "rounds of each side"),
        "--writes": (100, "writes in a round"),
        "--pause": (2, "milliseconds between two writes"),
    }
    for option, (number, text) in numbers.items():
        parser.add_argument(
            option, type=int, metavar="N", default=number, help=f"{text} (%(default)s)"
        )


def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure, print a table, and return all figures. Raises `Mistake`."""
    figures: dict[str, object] = {"benchmark": "propagation", **machine()}
    print(
        f"{figures['cores']} cores, Python {figures['python']}, load average {figures['load']};"
        f" {arguments.rounds} rounds of {arguments.writes} writes, {arguments.pause} ms apart"
    )
    compared = 0
    for kind in URLS:
        url: str = getattr(arguments, kind)
        try:
            versions = asyncio.run(server(kind, url))
        except Exception as error:
            print(f"{kind}: skipped, there is no server ({type(error).__name__}: {error})")
            continue
        comparison, size = asyncio.run(_compare(kind, url, arguments))
        found = _figures(comparison)
        print(
            f"{kind} {versions['server']}, {versions['driver']}, messages of {size} bytes:"
            f" ratio {found['ratio']} ({found['ratio_lowest']} to {found['ratio_highest']})\n"
            f"    ours  p50 {found['p50_us']:>7} us   p99 {found['p99_us']:>7} us\n"
            f"    bare  p50 {found['bare_p50_us']:>7} us   p99 {found['bare_p99_us']:>7} us"
        )
        figures |= {f"{kind}_{name}": value for name, value in (found | versions).items()}
        figures[f"{kind}_bytes"] = size
        compared += 1
    if not compared:
        raise Mistake("no broker was there")
    return figures


def _figures(comparison: Comparison) -> dict[str, float]:
    return {
        "ratio": round(comparison.ratio, 2),
        "ratio_lowest": round(min(comparison.ratios), 2),
        "ratio_highest": round(max(comparison.ratios), 2),
        "p50_us": round(p50(comparison.ours), 1),
        "p99_us": round(p99(comparison.ours), 1),
        "bare_p50_us": round(p50(comparison.bare), 1),
        "bare_p99_us": round(p99(comparison.bare), 1),
    }


async def _compare(kind: str, url: str, arguments: argparse.Namespace) -> tuple[Comparison, int]:
    """Both sides in turn; and the size of a message."""
    name = f"bench-{secrets.token_hex(4)}"
    source = Source()
    repository: Repository[int, Row] = Repository(
        Row, source=source.functions(), version="version", ttl=None
    )
    pause = arguments.pause / 1_000
    ours: list[list[float]] = []
    bare: list[list[float]] = []
    async with (
        Node(url, repository, namespace=name, startup="raise"),
        publisher(kind, url, name) as publish,
        _other_process(kind, url, name) as arrivals,
    ):
        updates = Side("ours", lambda write: repository.update(_before(write)), pause, arrivals)
        await updates.samples(WARM_UP)
        size = updates.size
        messages = Side("bare", lambda write: publish(bare_payload(write, size)), pause, arrivals)
        await messages.samples(WARM_UP)
        for _ in range(arguments.rounds):
            ours.append(await updates.samples(arguments.writes))
            bare.append(await messages.samples(arguments.writes))
        if source.loads != 1 or source.updates != updates.begun or messages.size != size:
            raise Mistake(
                f"{kind}: {source.loads} loads and {source.updates} updates of the source for"
                f" {updates.begun} writes; messages of {size} and {messages.size} bytes"
            )
        if repository.stats.events_sent != updates.begun:
            raise Mistake(
                f"{kind}: {repository.stats.events_sent} events for {updates.begun} writes"
            )
    return Comparison(ours, bare), size


def _before(write: int) -> Row:
    """What the application hands over: the new row with the version that it has read."""
    row = after(write)
    return dataclasses.replace(row, version=row.version - 1)


class Source:
    """Answers at once and stores nothing; counts what it was asked."""

    def __init__(self) -> None:
        self.loads = 0
        self.updates = 0

    def functions(self) -> FunctionSource[int, Row]:
        """As a repository takes it."""
        return FunctionSource(
            load_all=self._load_all, create=_never, update=self._update, delete=_never
        )

    async def _load_all(self) -> list[Row]:
        self.loads += 1
        return [Row(number, f"Student {number}", "Berlin") for number in range(ROWS)]

    async def _update(self, row: Row) -> Row:
        self.updates += 1
        return dataclasses.replace(row, version=row.version + 1)


async def _never(given: object) -> None:
    raise AssertionError(f"nothing is created or deleted here, and {given!r} was")


class Side:
    """One of the two ways from process to process."""

    def __init__(
        self,
        name: str,
        write: Callable[[int], Awaitable[object]],
        pause: float,
        arrivals: Callable[[str, int], Awaitable[tuple[list[int], int]]],
    ) -> None:
        self.begun = 0
        self.size = 0
        """Bytes of the last message that arrived."""
        self._name = name
        self._write = write
        self._pause = pause
        self._arrivals = arrivals

    async def samples(self, count: int) -> list[float]:
        """Microseconds from the beginning of each of `count` writes to its arrival."""
        began: list[int] = []
        for _ in range(count):
            await asyncio.sleep(self._pause)
            began.append(time.monotonic_ns())  # the same clock in all processes of a machine
            await self._write(self.begun)
            self.begun += 1
        arrived, self.size = await self._arrivals(self._name, count)
        samples = [(end - start) / 1_000 for start, end in zip(began, arrived, strict=True)]
        if min(samples) <= 0:
            raise Mistake(f"{self._name}: a write arrived before it began: no common clock")
        return samples


@asynccontextmanager
async def _other_process(
    kind: str, url: str, name: str
) -> AsyncIterator[Callable[[str, int], Awaitable[tuple[list[int], int]]]]:
    """The receiving process; to be asked when the next writes of a side arrived, and how large they were."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=receive, args=(kind, url, name, there))
    process.start()
    there.close()  # so that its end is noticed here

    async def answer(seconds: float) -> Any:
        if not await asyncio.to_thread(here.poll, seconds):
            raise TimeoutError(f"no answer in {seconds:g} s")
        return here.recv()

    async def arrivals(side: str, count: int) -> tuple[list[int], int]:
        here.send((side, count))
        found: tuple[list[int], int] | None = await answer(START_SECONDS)
        if found is None:
            raise Mistake(f"{kind}, {side}: not every write arrived, in order and as it was sent")
        return found

    try:
        rows = await answer(START_SECONDS)
        if rows != ROWS:
            raise Mistake(f"{kind}: the other process has {rows} of {ROWS} rows")
        yield arrivals
        here.send(None)
        await asyncio.to_thread(process.join, START_SECONDS)
    except (EOFError, OSError, TimeoutError) as error:
        raise Mistake(f"{kind}: the other process has failed, see above ({error!r})") from error
    finally:
        process.kill()
        process.join()
        here.close()
