"""From a plan that breaks a promise to a small one that breaks the same, and its story.

Steps are taken out by delta debugging (Zeller and Hildebrandt, "Simplifying and Isolating Failure-Inducing Input",
2002), then nodes and keys that nobody misses.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

from .plan import Plan, Step, written
from .world import Verdict, run

__all__ = ["minimal", "story"]


def minimal(plan: Plan, promise: str, runs: Callable[[Plan], Verdict] = run) -> Plan:
    """A plan with as few steps, nodes and peculiarities as can be that breaks the same promise."""

    def breaks(smaller: Plan) -> bool:
        return runs(smaller).promise == promise

    while True:
        before = plan
        plan = _fewer_steps(plan, breaks)
        for smaller in _plainer(plan):
            if smaller != plan and breaks(smaller):
                plan = smaller
                break
        if plan == before:
            return plan


def _fewer_steps(plan: Plan, breaks: Callable[[Plan], bool]) -> Plan:
    steps = list(plan.steps)
    size = max(1, len(steps) // 2)
    while True:
        start, gone = 0, False
        while start < len(steps):
            fewer = steps[:start] + steps[start + size :]
            smaller = dataclasses.replace(plan, steps=tuple(fewer))
            if breaks(smaller):
                steps, plan, gone = fewer, smaller, True
            else:
                start += size
        if size == 1 and not gone:
            return plan
        size = max(1, size // 2)


def _plainer(plan: Plan) -> Iterator[Plan]:
    """The same with one thing less to think of."""
    replace = dataclasses.replace
    for name in plan.names:
        if name not in plan.late or any(step.who == name for step in plan.steps):
            yield plan.without_node(name)
    used = max((1, *(step.key for step in plan.steps)))
    if used < plan.keys:
        yield replace(plan, keys=used)
    if any(plan.skews):
        yield replace(plan, skews=(0.0,) * plan.nodes)
    yield replace(plan, other_shape=())
    yield replace(plan, foreign=0)
    yield replace(plan, paging=False)
    yield replace(plan, copies=False)
    yield replace(plan, ttl=None)
    yield replace(plan, outbox=10_000)
    yield replace(plan, inbox=10_000)
    yield replace(plan, backlog=10_000)
    yield replace(plan, max_entries=None)
    for place, step in enumerate(plan.steps):
        if step.how == "cancelled":
            plain: Step = replace(step, how="", lasts=0.0)
            yield replace(plan, steps=(*plan.steps[:place], plain, *plan.steps[place + 1 :]))


def story(plan: Plan, verdict: Verdict) -> str:
    """What happened, for people; `plan` is the minimal one and `verdict` that of a told run of it."""
    nodes = [name for name in plan.names if name not in plan.late or _starts(plan, name)]
    kind = "versioned" if plan.versioned else "unversioned"
    kind += ", compare-and-swap" * plan.checked + ", on demand" * (not plan.preload)
    lines = [
        f"seed {plan.seed} ({plan.flavour}, {plan.broker}): {', '.join(nodes)}, {plan.keys} keys, {kind}",
        f"broken: {verdict.promise} - {verdict.text}",
        f"replay: nox -s simulate -- --replay {recipe(plan)}",
        f"or:     nox -s simulate -- --replay '{written(plan)}'",
        "",
        *verdict.trace,
    ]
    return "\n".join(lines)


def recipe(plan: Plan) -> str:
    """What makes this plan again out of its seed."""
    return f"{plan.seed}:{','.join(str(step.number) for step in plan.steps)}"


def _starts(plan: Plan, name: str) -> bool:
    return any(step.who == name and step.what == "start" for step in plan.steps)
