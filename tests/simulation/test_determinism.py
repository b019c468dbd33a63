"""A seed is a full replay: the same events at the same times, whatever ran before and in whatever process."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from pathlib import Path

from .plan import make
from .world import run

SEEDS = (3, 14, 15, 92, 65)


def digest(seed: int) -> str:
    """Of the whole trace of a run."""
    verdict = run(make(seed), told=True)
    assert len(verdict.trace) > 20
    return hashlib.sha256("\n".join((*verdict.trace, str(verdict.promise))).encode()).hexdigest()


def test_a_seed_again_after_others() -> None:
    first = [digest(seed) for seed in SEEDS]
    assert [digest(seed) for seed in reversed(SEEDS)] == first[::-1]
    assert len(set(first)) == len(SEEDS)


def test_a_seed_in_fresh_processes() -> None:
    """Hashes of strings and addresses of objects differ there."""
    script = (
        f"from tests.simulation.test_determinism import digest; print([digest(s) for s in {SEEDS}])"
    )
    root = Path(__file__).parents[2]
    said = {
        subprocess.run(
            [sys.executable, "-c", script],
            env={**os.environ, "PYTHONHASHSEED": seed},
            cwd=root,
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "77")
    }
    assert said == {f"{[digest(seed) for seed in SEEDS]}\n"}


def test_being_told_changes_nothing() -> None:
    for seed in SEEDS:
        silent, told = run(make(seed)), run(make(seed), told=True)
        assert (silent.at, silent.callbacks) == (told.at, told.callbacks)


def test_without_a_step_the_others_are_what_they_were() -> None:
    plan = make(3)
    fewer = plan.only({step.number for step in plan.steps[1:]})
    assert fewer.steps == plan.steps[1:]
    assert [step.number for step in fewer.steps] == list(range(2, len(plan.steps) + 1))
