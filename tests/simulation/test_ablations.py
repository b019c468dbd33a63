"""Every safeguard is missed when it is off: a run breaks a promise without it, within 2,000 seeds."""

from __future__ import annotations

import pytest

from .ablations import ABLATIONS, without
from .missed import WITHIN, first_seed, found, missed

NEEDED = [name for name, ablation in ABLATIONS.items() if not ablation.covered]


@pytest.mark.timeout(1_200)
@pytest.mark.parametrize("name", NEEDED)
def test_it_is_missed(name: str) -> None:
    hint = found().get(name)
    if hint is not None and missed(name, hint):
        return
    means = ABLATIONS[name].means
    assert first_seed(name) is not None, f"{means}, and no promise is broken in {WITHIN} seeds"


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
