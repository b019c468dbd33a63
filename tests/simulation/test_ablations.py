"""Every safeguard is missed when it is off: a run breaks a promise without it, within 2,000 seeds."""

from __future__ import annotations

from pathlib import Path

import pytest

from .ablations import ABLATIONS, without
from .plan import make
from .world import run

WITHIN = 2_000

FOUND = Path(__file__).with_name("found.txt")
"""The seeds that have found them, which are looked at first: plans change, so they may no longer do."""


def found() -> dict[str, int]:
    lines = FOUND.read_text().splitlines()
    pairs = (line.split() for line in lines if line and not line.startswith("#"))
    return {name: int(seed) for name, seed, *_ in pairs}


def missed(name: str, seed: int) -> bool:
    """Whether this seed breaks a promise because of this safeguard."""
    with without(name):
        broken = run(make(seed)).promise
    return broken is not None and run(make(seed)).promise is None


NEEDED = sorted(found())


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("name", NEEDED)
def test_it_is_missed(name: str) -> None:
    hint = found().get(name)
    if hint is not None and missed(name, hint):
        return
    for seed in range(1, WITHIN + 1):
        if missed(name, seed):
            return
    pytest.fail(f"without {name} ({ABLATIONS[name].means}) no promise is broken in {WITHIN} seeds")


def test_the_product_is_whole_again() -> None:
    before = [vars(owner)[name] for owner, name in _touched()]
    with without(*ABLATIONS):
        pass
    assert [vars(owner)[name] for owner, name in _touched()] == before


def _touched() -> list[tuple[object, str]]:
    from imperfect_dollop.filling import Filling
    from imperfect_dollop.replica.rules import Rules
    from imperfect_dollop.replica.table import Table

    return [(Rules, "apply"), (Table, "bury"), (Filling, "warm")]
