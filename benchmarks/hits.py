"""What a hit costs, beside an awaited dict lookup, other caches and Redis.

One process. Every side is awaited in the same loop over the same keys, in rounds of some hundredths of a second in
which the sides take turns.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import time
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AsyncExitStack
from typing import Any, Final, TypeAlias

import msgspec

from imperfect_dollop import FunctionSource, Repository

from .figures import Mistake, Rounds, Skipped
from .peers import PEERS, Getter, over_redis, peer
from .rows import Row, chunks, row
from .servers import add_numbers, add_server, server

__all__ = ["add_arguments", "run"]

ROWS: Final = 1_000
"""Held by each side, and asked for in turn."""

TTL: Final = 3_600.0
"""Seconds. On demand a hit looks whether it is over, unless one of the same row has done so in the last second."""

ROUND_SECONDS: Final = 0.02

Side: TypeAlias = Callable[[int], Awaitable[float]]
"""Goes over all keys so many times; seconds that a single hit took."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_server(parser, "redis")
    add_numbers(parser, {"--rounds": (31, "rounds of each side")})
    parser.add_argument(
        "--no-peers", action="store_true", help="neither other caches nor Redis: only the floors"
    )


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure, print, and return the figures. Raises `Mistake`."""
    rows = {number: row(number) for number in range(ROWS)}
    figures: dict[str, object] = {}
    async with AsyncExitStack() as stack:
        preload = await stack.enter_async_context(_repository(preload=True))
        on_demand = await stack.enter_async_context(_repository(preload=False))
        for number, expected in rows.items():
            if await preload.get(number) != expected or await on_demand.get(number) != expected:
                raise Mistake(f"row {number} is not what the source has")

        async def floor(key: int) -> Row | None:
            return rows.get(key)

        ours: dict[str, Getter] = {
            "floor": floor,
            "preload": preload.get,
            "on_demand": on_demand.get,
        }
        sides = {name: _awaited(get) for name, get in ours.items()}
        sides |= {"peek": _called(preload.peek), "dict.get": _called(rows.get)}
        peers: dict[str, list[str]] = {}
        if not arguments.no_peers:
            for name in PEERS:
                try:
                    figures[f"{name}_version"], ways = await peer(name, rows)
                except Exception as error:
                    figures[f"{name}_error"] = f"{type(error).__name__}: {error}"
                    print(f"  {name} has failed: {type(error).__name__}: {error}")
                    continue
                peers[name] = [f"{name} {way}" for way in ways]
                sides |= {f"{name} {way}": _awaited(get) for way, get in ways.items()}
            try:
                url = await stack.enter_async_context(server("redis", arguments))
                encoded = {key: msgspec.msgpack.encode(each) for key, each in rows.items()}
                get = await stack.enter_async_context(over_redis(url, encoded))
                sides["redis"] = _awaited(get)
            except Skipped as skipped:
                print(f"  redis is left out: {skipped}")
        before = preload.stats.hits, on_demand.stats.hits
        rounds = await _measured(sides, arguments.rounds)
        if preload.stats.hits == before[0] or on_demand.stats.hits == before[1]:
            raise Mistake("hits were not counted")
        if on_demand.stats.loads != ROWS:
            raise Mistake(f"{on_demand.stats.loads} loads for {ROWS} rows")
    figures |= _figures(rounds, peers, redis="redis" in sides)
    return figures


def _repository(*, preload: bool) -> Repository[int, Row]:
    async def load_many(keys: Sequence[int]) -> list[Row]:
        return [row(key) for key in keys]

    source: FunctionSource[int, Row] = FunctionSource(
        load_all=lambda: chunks(ROWS), load_many=load_many
    )
    return Repository(
        Row, source=source, version="version", preload=preload, ttl=TTL, read_only=True
    )


def _awaited(get: Getter) -> Side:
    async def side(times: int) -> float:
        keys = range(ROWS)
        began = time.perf_counter()
        for _ in range(times):
            for key in keys:
                await get(key)
        return (time.perf_counter() - began) / (times * ROWS)

    return side


def _called(get: Callable[[int], Any]) -> Side:
    async def side(times: int) -> float:
        keys = range(ROWS)
        began = time.perf_counter()
        for _ in range(times):
            for key in keys:
                get(key)
        return (time.perf_counter() - began) / (times * ROWS)

    return side


async def _measured(sides: dict[str, Side], count: int) -> Rounds:
    """Nanoseconds a hit. Without collections of garbage, which would meet whose turn it is."""
    times = {}
    for name, side in sides.items():
        await side(1)
        times[name] = max(1, round(ROUND_SECONDS / (await side(1) * ROWS)))
    rounds = Rounds()
    gc.collect()
    gc.disable()
    try:
        for _ in range(count):
            for name, side in sides.items():
                rounds.add(name, 1e9 * await side(times[name]))
                await asyncio.sleep(0)
    finally:
        gc.enable()
    return rounds


def _figures(rounds: Rounds, peers: dict[str, list[str]], *, redis: bool) -> dict[str, object]:
    figures: dict[str, object] = {}
    comparisons = [
        ("floor_ratio", "preload", "floor"),
        ("on_demand_floor_ratio", "on_demand", "floor"),
        ("peek_ratio", "peek", "dict.get"),
    ]
    ways = [way for each in peers.values() for way in each]
    if ways:
        best = rounds.least(ways)
        figures["best_peer"] = best
        comparisons.append(("best_peer_speedup", best, "preload"))
        for name, each in peers.items():
            figures[f"{name}_ns"] = round(rounds.median(rounds.least(each)))
    if redis:
        comparisons.append(("redis_speedup", "redis", "preload"))
    print("  ns a hit:")
    for name in ["floor", "preload", "on_demand", "dict.get", "peek", *ways, *["redis"] * redis]:
        figures.setdefault(f"{name.replace('.', '_')}_ns", round(rounds.median(name)))
        print(f"    {rounds.median(name):>9,.0f}  {name}")
    for key, side, other in comparisons:
        ratio = rounds.ratio(side, other)
        figures |= ratio.figures(key)
        print(f"  {key}: {ratio}")
    return figures
