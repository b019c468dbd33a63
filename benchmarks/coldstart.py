"""How often the source is read when a fleet starts at once.

A process for each would measure the machine: they share one, each with a link and loops of its own, and the broker is
a real one.
"""

from __future__ import annotations

import argparse
import asyncio
import secrets
import time
from contextlib import AsyncExitStack
from typing import Final

from imperfect_dollop import FunctionSource, Node, Repository

from .figures import Mistake, Rounds, Skipped
from .rows import Row, chunks, row
from .servers import BROKERS, add_numbers, add_server, server

__all__ = ["add_arguments", "run"]

READY_SECONDS: Final = 60.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_server(parser, *BROKERS)
    add_numbers(
        parser,
        {
            "--nodes": (20, "nodes"),
            "--rows": (10_000, "rows"),
            "--rounds": (3, "starts over each broker"),
        },
        nodes=2,
    )


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure, print, and return the figures. Raises `Mistake`."""
    figures: dict[str, object] = {}
    loads = []
    for kind in BROKERS:
        rounds = Rounds()
        try:
            async with server(kind, arguments) as url:
                for _ in range(arguments.rounds):
                    began = time.monotonic()
                    loads.append(await _start(url, arguments.nodes, arguments.rows))
                    rounds.add("start", time.monotonic() - began)
        except Skipped as skipped:
            print(f"  {kind} is left out: {skipped}")
            continue
        figures[f"{kind}_ready_s"] = round(rounds.median("start"), 2)
        print(f"  {kind}: all {arguments.nodes} ready after {rounds.median('start'):.2f} s")
    if not loads:
        raise Mistake("no broker was there")
    print(f"  loads: {max(loads)}")
    return {"loads": max(loads), "nodes": arguments.nodes, "rows": arguments.rows, **figures}


async def _start(url: str, nodes: int, count: int) -> int:
    """Start so many nodes at once; how often all rows were loaded until each of them had all."""
    loads = 0

    async def load_all() -> list[Row]:
        nonlocal loads
        loads += 1
        return [each async for chunk in chunks(count) for each in chunk]

    namespace = f"bench-{secrets.token_hex(4)}"
    repositories: list[Repository[int, Row]] = [
        Repository(
            Row,
            source=FunctionSource(load_all=load_all),
            version="version",
            ttl=None,
            read_only=True,
        )
        for _ in range(nodes)
    ]
    async with AsyncExitStack() as stack:
        await asyncio.gather(
            *(
                stack.enter_async_context(
                    Node(url, repository, namespace=namespace, startup="wait")
                )
                for repository in repositories
            )
        )
        last = row(count - 1)
        if any(len(one) != count or one.peek(last.id) != last for one in repositories):
            raise Mistake("a node has not all rows")
    return loads
