"""What an event and a heartbeat cost, against nodes, rows and repositories; and what that comes to beyond this machine.

All nodes share this process and a broker in memory, so what is measured is the library's own work: processor time while
nothing is written, and beyond that while one node writes. What a broker carries is counted in bytes. A fleet that is
too large for this machine is computed from both, as `docs/operating.md` says ("Many nodes").
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import secrets
import time
from contextlib import AsyncExitStack
from typing import Final, cast

from imperfect_dollop import FunctionSource, Node, Repository
from imperfect_dollop.broker import Broker
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.replica.members import interval

from .counting import Counting
from .figures import Mistake
from .rows import Row, chunks
from .servers import add_numbers

__all__ = ["add_arguments", "run"]

NODES: Final = (2, 5, 10, 20, 50)
ROWS: Final = (1_000, 10_000, 100_000, 1_000_000)
REPOSITORIES: Final = (1, 5, 20)

FEW_ROWS: Final = 1_000
FEW_NODES: Final = 2

BEAT_SECONDS: Final = 1.0
"""Between two heartbeats of a node where there are few."""

IDLE_SECONDS: Final = 5.0
"""In which heartbeats are counted. With few nodes most of what is done then is something else, and counted in."""

PATIENCE: Final = 60.0
"""Seconds for the last event to come."""

WRITES: Final = 1_000

ON_PAPER: Final = (100, 300, 1_000)
"""Nodes that are computed."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_numbers(parser, {"--most-rows": (ROWS[-1], "rows at most")}, most_rows=ROWS[0])


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure, print, and return the figures. Raises `Mistake`."""
    found: dict[str, list[dict[str, float]]] = {}
    for what, fleets in (
        ("nodes", [(nodes, FEW_ROWS, 1) for nodes in NODES]),
        ("rows", [(FEW_NODES, rows, 1) for rows in ROWS if rows <= arguments.most_rows]),
        ("repositories", [(FEW_NODES, FEW_ROWS, count) for count in REPOSITORIES]),
    ):
        print(f"  {what:>12}  heartbeat us  bytes   event us  bytes of a lone event")
        found[what] = []
        for fleet in fleets:
            figures = await _measured(*fleet)
            found[what].append(figures)
            print(
                f"  {figures[what]:>12,.0f}  {figures['heartbeat_us']:>12.1f}  {figures['heartbeat_bytes']:>5.0f}"
                f"  {figures['event_us']:>9.1f}  {figures['event_bytes']:>9.0f}"
            )
    last = found["nodes"][-1]
    paper = [_computed(last, nodes) for nodes in ON_PAPER]
    print(
        "  computed: nodes, seconds between heartbeats, of a core of each idle, messages/s and MB/s of the broker"
    )
    for each in paper:
        print(
            f"  {each['nodes']:>12,.0f}  {each['heartbeat_seconds']:>6.1f}  {each['idle_core']:>9.1%}"
            f"  {each['broker_messages_per_s']:>12,.0f}  {each['broker_megabytes_per_s']:>8.1f}"
        )
    return {**found, "computed": paper}


def _computed(measured: dict[str, float], nodes: int) -> dict[str, float]:
    """Each node hears each: the work of one grows with their number, that of the broker with its square."""
    beat = interval(nodes, BEAT_SECONDS)
    return {
        "nodes": nodes,
        "heartbeat_seconds": beat,
        "idle_core": nodes / beat * measured["heartbeat_us"] / 1e6,
        "broker_messages_per_s": nodes * nodes / beat,
        "broker_megabytes_per_s": nodes * nodes / beat * measured["heartbeat_bytes"] / 1e6,
    }


async def _measured(nodes: int, rows: int, repositories: int) -> dict[str, float]:
    broker = Counting(MemoryBroker())
    fleet = [[_repository(f"rows{n}", rows) for n in range(repositories)] for _ in range(nodes)]
    async with AsyncExitStack() as stack:
        for each in fleet:
            node = Node(
                cast(Broker, broker),
                *each,
                namespace="bench",
                heartbeat=BEAT_SECONDS,
                startup="wait",
            )
            await stack.enter_async_context(node)
        gc.collect()
        gc.freeze()
        stack.callback(gc.unfreeze)
        await asyncio.sleep(1.0)  # whatever a start leaves to be done
        beats, size, spent = broker.messages, broker.bytes, time.process_time()
        await asyncio.sleep(IDLE_SECONDS)
        idle = (time.process_time() - spent) / IDLE_SECONDS
        beats, size = broker.messages - beats, broker.bytes - size
        beat_bytes = size / beats

        first = fleet[0][0]
        before, began, spent = broker.bytes, time.monotonic(), time.process_time()
        messages = broker.messages
        for number in range(WRITES):
            key = number % rows
            held = first.peek(key)
            assert held is not None
            await first.update(held)
        last = first.peek((WRITES - 1) % rows)
        try:
            async with asyncio.timeout(PATIENCE):
                while any(  # noqa: ASYNC110
                    each[0].peek((WRITES - 1) % rows) != last for each in fleet
                ):
                    await asyncio.sleep(0.001)
        except TimeoutError as error:
            raise Mistake(f"the last event has not come everywhere in {PATIENCE:g} s") from error
        seconds = time.monotonic() - began
        work = time.process_time() - spent - idle * seconds
        others = seconds * nodes / BEAT_SECONDS  # heartbeats
        events = broker.messages - messages - others
        for each in fleet[1:]:
            if each[0].stats.applied < WRITES:
                raise Mistake(f"{each[0].stats.applied} of {WRITES} events were applied")
        return {
            "nodes": nodes,
            "rows": rows,
            "repositories": repositories,
            "heartbeat_us": 1e6 * idle * IDLE_SECONDS / (beats * nodes),
            "heartbeat_bytes": beat_bytes,
            "event_us": 1e6 * work / (WRITES * nodes),
            "event_bytes": (broker.bytes - before - others * beat_bytes) / events,
        }


def _repository(name: str, count: int) -> Repository[int, Row]:
    async def update(entity: Row) -> Row:
        return Row(entity.id, secrets.token_hex(8), entity.city, entity.year, entity.version + 1)

    async def refused(given: object) -> None:
        raise AssertionError(f"nothing is created or deleted here, and {given!r} was")

    source: FunctionSource[int, Row] = FunctionSource(
        load_all=lambda: chunks(count), create=refused, update=update, delete=refused
    )
    return Repository(Row, source=source, version="version", name=name, ttl=None)
