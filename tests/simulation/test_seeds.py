"""A hundred seeds, and those that once found something."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from .plan import FLAVOURS, make
from .runs import planned, seeds
from .world import run

REGRESSIONS = Path(__file__).with_name("regressions.txt")


def regressions() -> list[tuple[str, str, str]]:
    """Plan, kind and what was found."""
    found = []
    for line in REGRESSIONS.read_text().splitlines():
        if line and not line.startswith("#"):
            _, kind, what, plan = line.split(" | ")
            found.append((plan, kind, what))
    return found


def test_a_hundred_seeds() -> None:
    reached: set[str] = set()
    for plan, verdict in seeds(100_001, 100):
        assert verdict.promise is None, f"seed {plan.seed} breaks {verdict.promise}: {verdict.text}"
        reached |= verdict.seen
    assert len(reached) > 25


def test_seeds_beside_nodes_of_another_source() -> None:
    for number in range(200_001, 200_041):
        plan = dataclasses.replace(make(number), foreign=2)
        verdict = run(plan)
        assert verdict.promise is None, f"seed {number} breaks {verdict.promise}: {verdict.text}"


@pytest.mark.parametrize(("recipe", "what"), [(plan, what) for plan, _, what in regressions()])
def test_what_was_found_once(recipe: str, what: str) -> None:
    verdict = run(planned(recipe))
    assert verdict.promise is None, f"{verdict.promise}: {verdict.text}; it was: {what}"


def test_every_kind_of_plan_is_made() -> None:
    kinds = {make(seed).flavour for seed in range(300)}
    assert kinds == set(FLAVOURS)
