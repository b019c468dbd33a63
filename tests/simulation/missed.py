"""Which seed shows that a safeguard is missed when it is off."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from .ablations import ABLATIONS, without
from .plan import make
from .runs import seeds
from .world import run

__all__ = ["WITHIN", "first_seed", "found", "missed"]

WITHIN: Final = 2_000
"""Seeds in which every safeguard is missed."""

FOUND: Final = Path(__file__).with_name("found.txt")
"""The seeds that have shown it, which are looked at first: plans change, so they may no longer do."""


def found() -> dict[str, int]:
    """By name, the seed that has shown it last."""
    lines = FOUND.read_text().splitlines()
    pairs = (line.split() for line in lines if line and not line.startswith("#"))
    return {name: int(seed) for name, seed in pairs}


def missed(name: str, seed: int) -> bool:
    """Whether this seed breaks a promise without this safeguard, and only then."""
    along = ABLATIONS[name].along
    with without(name, *along):
        if run(make(seed)).promise is None:
            return False
    with without(*along):
        return run(make(seed)).promise is None


def first_seed(name: str) -> int | None:
    """The first seed that shows that a safeguard is missed, if one in `WITHIN` does."""
    along, after = ABLATIONS[name].along, 0
    while after < WITHIN:
        with without(name, *along):
            broken = next(
                (
                    plan.seed
                    for plan, verdict in seeds(after + 1, WITHIN - after)
                    if verdict.promise is not None
                ),
                None,
            )
        if broken is None:
            return None
        if missed(name, broken):
            return broken
        after = broken
    return None
