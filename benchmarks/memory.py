"""Bytes of a row beyond what the same objects take in a plain dict.

A process for each side, as memory that was used once does not all go back: it loads the rows and says by how much it
has grown (resident set). Both hand over the rows in the same chunks; ours keeps them for good, with all that makes
them equal elsewhere.
"""

from __future__ import annotations

import argparse
from typing import Final

from imperfect_dollop import FunctionSource, Repository

from .children import Parent, child
from .figures import Mistake, Rounds
from .resident import peak, resident
from .rows import Row, chunks, row
from .servers import add_numbers

__all__ = ["add_arguments", "run"]

LOAD_SECONDS: Final = 300.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options of this benchmark."""
    add_numbers(
        parser,
        {"--rows": (1_000_000, "rows"), "--rounds": (3, "processes of each side")},
        rows=10_000,  # with fewer, what is not rows is most of it
    )


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure, print, and return the figures. Raises `Mistake`."""
    rounds = Rounds()
    for _ in range(arguments.rounds):
        for side, work in (("dict", _in_a_dict), ("ours", _in_a_repository)):
            async with child(side, work, arguments.rows) as process:
                grown, most = await process.told(LOAD_SECONDS)
            rounds.add(side, grown / arguments.rows)
            if side == "ours":
                rounds.add("ours peak", most / arguments.rows)
    overhead = rounds.median("ours") - rounds.median("dict")
    ratio = rounds.ratio("ours peak", "ours")
    print(
        f"  {arguments.rows:,} rows, bytes of each: {rounds.median('dict'):.0f} in a dict,"
        f" {rounds.median('ours'):.0f} in a repository, while loading {rounds.median('ours peak'):.0f}\n"
        f"  overhead_bytes: {overhead:.0f}\n  peak_ratio: {ratio}"
    )
    return {
        "overhead_bytes": round(overhead),
        "dict_bytes": round(rounds.median("dict")),
        "ours_bytes": round(rounds.median("ours")),
        **ratio.figures("peak_ratio"),
        "rows": arguments.rows,
    }


async def _in_a_dict(parent: Parent, count: int) -> None:
    before = resident()
    rows: dict[int, Row] = {}
    async for chunk in chunks(count):
        rows.update((each.id, each) for each in chunk)
    parent.tell((resident() - before, peak() - before))
    await parent.asked()
    del rows


async def _in_a_repository(parent: Parent, count: int) -> None:
    source: FunctionSource[int, Row] = FunctionSource(load_all=lambda: chunks(count))
    repository: Repository[int, Row] = Repository(
        Row, source=source, version="version", ttl=None, read_only=True
    )
    before = resident()
    async with repository:
        if len(repository) != count or repository.peek(count - 1) != row(count - 1):
            raise Mistake("not all rows are there")
        parent.tell((resident() - before, peak() - before))
        await parent.asked()
