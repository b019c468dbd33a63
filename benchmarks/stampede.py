"""Ten thousand callers who miss the same key at once, beside as many tasks that await one future."""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from typing import Final

from imperfect_dollop import FunctionSource, Repository

from .figures import Mistake, Rounds
from .rows import Row, row
from .servers import add_numbers

__all__ = ["add_arguments", "run"]

CALLERS: Final = 10_000


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_numbers(parser, {"--rounds": (15, "rounds of each side")})


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure, print, and return the figures. Raises `Mistake`."""
    loads: list[int] = []

    async def load(key: int) -> Row:
        loads.append(key)
        await asyncio.sleep(0)
        return row(key)

    source: FunctionSource[int, Row] = FunctionSource(load=load)
    rounds = Rounds()
    async with Repository(
        Row, source=source, version="version", preload=False, read_only=True
    ) as repository:
        for key in range(arguments.rounds):
            for side in ("floor", "ours"):
                gc.collect()
                gc.disable()
                try:
                    began = time.perf_counter()
                    if side == "ours":
                        found: list[Row | None] = await asyncio.gather(
                            *[asyncio.create_task(repository.get(key)) for _ in range(CALLERS)]
                        )
                    else:
                        found = await _one_future(row(key))
                    rounds.add(side, 1e3 * (time.perf_counter() - began))
                finally:
                    gc.enable()
                if found != [row(key)] * CALLERS:
                    raise Mistake(f"{side}: a caller did not get the row")
    ratio = rounds.ratio("ours", "floor")
    most = max(map(loads.count, range(arguments.rounds)))
    print(
        f"  {CALLERS:,} callers: ours {rounds.median('ours'):.0f} ms, floor {rounds.median('floor'):.0f} ms\n"
        f"  loads: {most}\n  floor_ratio: {ratio}"
    )
    return {
        "loads": most,
        **ratio.figures("floor_ratio"),
        "ours_ms": round(rounds.median("ours"), 1),
        "floor_ms": round(rounds.median("floor"), 1),
    }


async def _one_future(result: Row) -> list[Row | None]:
    loop = asyncio.get_running_loop()
    future: asyncio.Future[Row | None] = loop.create_future()

    async def caller() -> Row | None:
        return await future

    async def load() -> None:
        await asyncio.sleep(0)
        future.set_result(result)

    tasks = [asyncio.create_task(caller()) for _ in range(CALLERS)]
    loading = asyncio.create_task(load())
    found = await asyncio.gather(*tasks)
    await loading
    return found
