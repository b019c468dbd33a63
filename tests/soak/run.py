"""A run from its beginning to its verdict."""

from __future__ import annotations

import asyncio
import contextlib
import random
import secrets
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ..integration.rows import rows_of_a_test
from .faults import Harm
from .fleet import END_SECONDS, Fleet, Life, fleet_of
from .judge import Verdict, judge_life, settled
from .memory import SAMPLE_EVERY
from .outside import Outside
from .plan import Fault, plan
from .services import Broker
from .settings import Settings
from .workload import FILLER

TELL_EVERY: Final = 10.0
"""Seconds between two lines of progress."""

START_SECONDS: Final = 60.0
"""For all to start, load and join, on a machine that is busy."""


@dataclass(frozen=True)
class Result:
    """What is left of a run."""

    settings: Settings
    verdict: Verdict
    lives: list[list[Life]]
    """By node."""
    faults: list[Fault]
    changes: int
    """By SQL."""
    spoiled: int
    """Of these, the ones that made a row that no node can hold."""
    disk: int
    """Bytes of records."""


async def soak(
    settings: Settings, broker: Broker, database: str, folder: Path, say: Callable[[str], None]
) -> Result:
    """Run it. Everything that was started has ended when this returns or raises."""
    async with (
        rows_of_a_test(database) as whole,
        rows_of_a_test(database) as lookup,
        fleet_of(
            settings,
            broker=broker.url,
            database=database,
            tables=(whole.name, lookup.name),
            namespace=f"soak-{secrets.token_hex(6)}",
            folder=folder,
        ) as fleet,
    ):
        verdict = Verdict()
        for rows in (whole, lookup):
            await rows.seed(settings.keys, filler=len(FILLER))
        await fleet.start_all()
        for life in fleet:
            async with asyncio.timeout(START_SECONDS):
                await life.wait_joined()
        outside = Outside([whole, lookup], settings.keys, random.Random(f"sql {settings.seed}"))
        harm = Harm(fleet, broker.server, whole.engine, say)
        faults = plan(settings, own_broker=broker.server is not None)
        say(
            f"{len(faults)} faults are planned; {settings.nodes} nodes are there, on the tables"
            f" {whole.name} and {lookup.name}"
        )
        async with _beside(_sample(fleet), _ask(fleet), _tell(fleet, say)):
            began = time.monotonic()
            async with _beside(outside.run()):
                await harm.run(faults)
                await asyncio.sleep(max(0.0, began + settings.seconds - time.monotonic()))
            await outside.mend()
            say("the last fault is over, and nobody writes any more")
            verdict.faults += [f"run: {told}" for told in fleet.ended_by_themselves()]
            await asyncio.gather(*(_rest(life, verdict) for life in fleet))
            await settled(fleet, whole, lookup, settings.ttl, verdict)
            fleet.sample()
        await asyncio.gather(*(fleet.leave(life) for life in fleet))
        say("all have left; what they have served is judged")
        histories = {"whole": await whole.history(), "lookup": await lookup.history()}
        verdict.commits = sum(history.commits for history in histories.values())
        disk = 0
        for life in fleet.lives:
            disk += sum(path.stat().st_size for path in life.records.values() if path.exists())
            await asyncio.to_thread(judge_life, life, settings, histories, verdict)
        lives = [slot.lives for slot in fleet.slots]
        return Result(settings, verdict, lives, harm.done, outside.changes, outside.spoiled, disk)


async def _rest(life: Life, verdict: Verdict) -> None:
    try:
        await life.process.ask("rest", END_SECONDS)
    except Exception as error:  # whatever it is, it is told
        verdict.add("run", f"{life.name} did not finish its writes: {error!r}")


async def _sample(fleet: Fleet) -> None:
    while True:
        fleet.sample()
        await asyncio.sleep(SAMPLE_EVERY)


async def _ask(fleet: Fleet) -> None:
    while True:
        await fleet.ask()  # which waits for who is frozen
        await asyncio.sleep(SAMPLE_EVERY)


async def _tell(fleet: Fleet, say: Callable[[str], None]) -> None:
    while True:
        await asyncio.sleep(TELL_EVERY)
        counted: Counter[str] = Counter()
        for life in fleet.lives:
            counted.update(life.counted())
        sizes = [life.memory.last for life in fleet]
        say(
            f"{len(sizes)} nodes, {counted['reads']:,} reads, {counted['writes']:,} writes,"
            f" {counted['conflicts']:,} conflicts, {counted['gaps']:,} gaps, {counted['repairs']:,} repairs,"
            f" {counted['doubts']:,} doubts, up to {max(sizes, default=0) / 1024:.0f} MiB"
        )


@contextlib.asynccontextmanager
async def _beside(*works: Coroutine[Any, Any, None]) -> AsyncIterator[None]:
    """All of these run while the block does; one that fails ends it."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(work) for work in works]
        try:
            yield
        finally:
            for task in tasks:
                task.cancel()
