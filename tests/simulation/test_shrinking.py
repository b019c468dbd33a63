"""A bug that is planted is found, and its story is short."""

from __future__ import annotations

from .ablations import without
from .plan import Plan, written
from .runs import planned, seeds
from .shrink import minimal, recipe, story
from .world import Verdict, run

WITHIN = 300


def broken(name: str, *flavours: str) -> tuple[Plan, Verdict]:
    """The first plan of these flavours that breaks a promise without this safeguard."""
    for plan, verdict in seeds(1, WITHIN):
        if verdict.promise is not None and plan.flavour in flavours:
            return plan, verdict
    raise AssertionError(f"nothing was found without {name}")


def test_a_planted_bug_has_a_short_story() -> None:
    with without("base"):
        plan, verdict = broken("base", "races")
        assert verdict.promise is not None
        small = minimal(plan, verdict.promise)
        told = run(small, told=True)
        assert told.promise == verdict.promise
        assert len(small.steps) <= 6 < len(plan.steps)
        text = story(small, told)
        assert text.startswith(f"seed {plan.seed} ")
        assert f"broken: {verdict.promise}" in text
        assert len([line for line in text.splitlines() if " heartbeat " not in line]) < 80
    assert run(small).promise is None


def test_a_story_says_how_to_play_it_again() -> None:
    with without("resync"):
        plan, verdict = broken("resync", "losses", "links")
        assert verdict.promise is not None
        small = minimal(plan, verdict.promise)
        assert planned(recipe(small)).steps == small.steps
        assert run(planned(written(small))).promise == verdict.promise


def test_nothing_is_left_that_is_not_needed() -> None:
    with without("base"):
        plan, verdict = broken("base", "races")
        assert verdict.promise is not None
        small = minimal(plan, verdict.promise)
        for step in small.steps:
            fewer = small.only({other.number for other in small.steps} - {step.number})
            assert run(fewer).promise != verdict.promise
