"""Replicas under random faults, against the source: the promises of `replication.md` at every step.

Hypothesis chooses every step: when a write begins, commits and is answered, when a load begins, reads and ends, which
origin's messages come first, late, twice or never. DOLLOP_MODEL_EXAMPLES raises the number of runs.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from imperfect_dollop.replica.messages import Kind

from .world import Node, World

EXAMPLES = os.environ.get("DOLLOP_MODEL_EXAMPLES")
MODEL = settings(
    max_examples=int(EXAMPLES or 120),
    derandomize=EXAMPLES is None,
    stateful_step_count=50,
    deadline=None,
    report_multiple_bugs=False,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)

KEYS = st.integers(0, 2)
PICK = st.integers(0, 7)
SKEW = st.sampled_from([0.0, 0.0, -5.0, 5.0, 25.0])


class Machine(RuleBasedStateMachine):
    """What can happen to some nodes; `teardown` heals and demands that all is well."""

    nodes = 1
    unique = True

    def __init__(self) -> None:
        super().__init__()
        self.world = World([0.0])
        self.raw = False  # rows were changed behind our back
        self.names: list[str] = []

    @initialize(data=st.data())
    def start(self, data: st.DataObject) -> None:
        skews = [data.draw(SKEW) for _ in range(self.nodes)]
        self.world = World(skews, unique=self.unique)
        self.names = list(self.world.nodes)

    def node(self, number: int) -> Node:
        return self.world.nodes[self.names[number % len(self.names)]]

    def link(self, number: int) -> tuple[Node, str]:
        node = self.node(number)
        others = [name for name in self.names if name != node.origin]
        return node, others[number // len(self.names) % len(others)]

    # -- writes ------------------------------------------------------------------------------------

    @rule(at=PICK, key=KEYS, delete=st.booleans(), checked=st.booleans())
    def begin_write(self, at: int, key: int, delete: bool, checked: bool) -> None:
        self.world.tick()
        node = self.node(at)
        kind = Kind.UPDATE if key in self.world.source.rows else Kind.CREATE
        if delete and kind is Kind.UPDATE:
            kind = Kind.DELETE
        self.world.begin_write(node, key, kind, checked=checked)

    @rule(at=PICK, which=PICK)
    def commit(self, at: int, which: int) -> None:
        self.world.tick()
        node = self.node(at)
        if node.writings:
            self.world.commit(node, node.writings[which % len(node.writings)])

    @rule(at=PICK, which=PICK, lost=st.integers(0, 5))
    def answer(self, at: int, which: int, lost: int) -> None:
        self.world.tick()
        node = self.node(at)
        if node.writings:
            writing = node.writings[which % len(node.writings)]
            if lost:
                self.world.answer(node, writing)
            else:
                self.world.lose_answer(node, writing)

    @rule(at=PICK, key=KEYS, delete=st.booleans(), checked=st.booleans())
    def write_at_once(self, at: int, key: int, delete: bool, checked: bool) -> None:
        self.begin_write(at, key, delete, checked)
        node = self.node(at)
        if node.writings and node.writings[-1].key == key:
            writing = node.writings[-1]
            self.world.commit(node, writing)
            if writing in node.writings:
                self.world.answer(node, writing)

    @rule(key=KEYS, what=st.sampled_from(["put", "drop", "same version"]))
    def change_behind_our_back(self, key: int, what: str) -> None:
        self.world.tick()
        self.raw = True
        if what != "drop":
            self.world.source.put(key, same_version=what == "same version")
        elif key in self.world.source.rows:
            self.world.source.drop(key)

    # -- loads -------------------------------------------------------------------------------------

    @rule(at=PICK, keys=st.none() | st.lists(KEYS, min_size=1, max_size=2, unique=True))
    def begin_load(self, at: int, keys: list[int] | None) -> None:
        self.world.tick()
        self.world.begin_load(self.node(at), keys)

    @rule(at=PICK, which=PICK, end=st.booleans())
    def read(self, at: int, which: int, end: bool) -> None:
        self.world.tick()
        node = self.node(at)
        if node.readings:
            reading = node.readings[which % len(node.readings)]
            self.world.read(reading)
            if end:
                self.world.end_load(node, reading, publish=True)

    @rule(at=PICK)
    def repair(self, at: int) -> None:
        self.world.tick()
        self.world.repair(self.node(at))

    # -- comparisons -------------------------------------------------------------------------------

    @rule(at=PICK)
    def begin_comparison(self, at: int) -> None:
        if len(self.names) > 1:
            node, donor = self.link(at)
            self.world.begin_comparison(node, self.world.nodes[donor])

    @rule(at=PICK, frames=st.integers(1, 5))
    def go_on_comparing(self, at: int, frames: int) -> None:
        self.world.tick()
        for _ in range(frames):
            self.world.next_frame(self.node(at))

    @rule(at=PICK)
    def answer_what_is_missing(self, at: int) -> None:
        self.world.resend(self.node(at))

    # -- network -----------------------------------------------------------------------------------

    @rule(over=PICK, how=st.sampled_from(["once", "once", "once", "twice", "never"]))
    def deliver(self, over: int, how: str) -> None:
        self.world.tick()
        if len(self.names) < 2:
            return
        node, origin = self.link(over)
        if how == "never":
            self.world.drop(node, origin)
        else:
            self.world.deliver(node, origin, again=how == "twice")

    @rule(over=PICK)
    def deliver_all(self, over: int) -> None:
        if len(self.names) > 1:
            node, origin = self.link(over)
            while node.inbox[origin]:
                self.world.tick()
                self.world.deliver(node, origin)

    @rule(at=PICK)
    def beat(self, at: int) -> None:
        self.world.tick()
        self.world.beat(self.node(at))

    # -- promises ----------------------------------------------------------------------------------

    @invariant()
    def promises_hold(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.heal(refresh=self.raw)
        self.world.check_converged()


class Pair(Machine):
    """One replica and its sibling."""

    nodes = 2


class Fleet(Machine):
    """Three: their events are seen in different orders."""

    nodes = 3


class Swaying(Fleet):
    """Rows that become again what they were."""

    unique = False


def _case(machine: type[Machine]) -> Any:
    case = machine.TestCase
    case.settings = MODEL
    return case


TestAlone = _case(Machine)
TestPair = _case(Pair)
TestFleet = _case(Fleet)
TestSwaying = _case(Swaying)
