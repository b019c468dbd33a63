"""Whether the ratios that users feel are still what they were, within generous bounds: for whoever changes the code.

What is quick to measure and needs no server; times on shared machines vary by half, and a regression by more.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from types import ModuleType
from typing import Final

from . import hits, memory, stampede
from .figures import Mistake

__all__ = ["add_arguments", "run"]

CHECKED: Final[tuple[tuple[ModuleType, list[str], Mapping[str, float]], ...]] = (
    (
        hits,
        ["--no-peers", "--rounds=15"],
        {"floor_ratio": 2.0, "on_demand_floor_ratio": 2.5, "peek_ratio": 3.0},
    ),
    (stampede, ["--rounds=7"], {"loads": 1, "floor_ratio": 3.0}),
    (memory, ["--rows=300000", "--rounds=1"], {"overhead_bytes": 150, "peak_ratio": 1.3}),
)
"""Benchmarks, their options, and what the figures may be at most: half as much again as they are, and of memory, which
does not vary, a tenth."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """There are no options."""


async def run(arguments: argparse.Namespace) -> dict[str, object]:
    """Measure, print, and return the figures. Raises `Mistake`, also if one is beyond its bound."""
    del arguments
    figures: dict[str, object] = {}
    beyond = []
    for benchmark, words, bounds in CHECKED:
        name = benchmark.__name__.rpartition(".")[2]
        print(f"  {name} {' '.join(words)}")
        parser = argparse.ArgumentParser()
        benchmark.add_arguments(parser)
        found = await benchmark.run(parser.parse_args(words))
        for key, bound in bounds.items():
            figures[f"{name}_{key}"] = found[key]
            if not found[key] <= bound:
                beyond.append(f"{key} of {name} is {found[key]}, above {bound}")
    if beyond:
        raise Mistake("; ".join(beyond))
    return figures
