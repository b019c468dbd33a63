"""Many runs one after the other, and one that was named."""

from __future__ import annotations

import gc
from collections.abc import Iterator
from typing import Final

from .plan import Plan, make, read
from .world import Verdict, run

__all__ = ["planned", "seeds"]

COLLECT_EVERY: Final = 25
"""Runs between two collections of garbage, which is off during a run: some megabytes each."""


def seeds(first: int, count: int, step: int = 1) -> Iterator[tuple[Plan, Verdict]]:
    """Run one seed after the other."""
    gc.collect()
    gc.freeze()
    for place, seed in enumerate(range(first, first + count, step)):
        if place % COLLECT_EVERY == COLLECT_EVERY - 1:
            gc.collect()
        plan = make(seed)
        yield plan, run(plan)


def planned(recipe: str) -> Plan:
    """The plan of ``SEED``, or of ``SEED:STEP,STEP...``, as a story names it, or one that is written out."""
    if recipe.startswith("{"):
        return read(recipe)
    seed, some, steps = recipe.partition(":")
    plan = make(int(seed))
    if not some:
        return plan
    return plan.only({int(number) for number in steps.split(",") if number})
