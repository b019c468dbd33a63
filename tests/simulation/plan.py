"""What happens in a run: a seed makes a plan, a list of timed steps, which can be run again without some of them."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final, Literal

import msgspec

from .drills import DRILLS

__all__ = ["FLAVOURS", "Maker", "Plan", "Step", "make", "read", "written"]


@dataclass(frozen=True)
class Step:
    """One thing that happens, `at` seconds after the beginning, for `lasts` seconds where it is a fault.

    `number` stays the same when other steps are taken out of the plan: what is drawn for a step depends on it.
    """

    number: int
    at: float
    what: str
    who: str = ""
    key: int = 0
    how: str = ""
    lasts: float = 0.0
    amount: float = 0.0

    def __str__(self) -> str:
        words = [f"{self.at:8.3f}", self.who or "world", self.what]
        if self.key:
            words.append(f"key {self.key}")
        if self.how:
            words.append(self.how)
        if self.amount:
            words.append(f"{self.amount:g}")
        if self.lasts:
            words.append(f"for {self.lasts:.3f} s")
        return " ".join(words)


@dataclass(frozen=True)
class Plan:
    """All that a run depends on."""

    seed: int
    flavour: str
    broker: Literal["streams", "fanout"]
    nodes: int
    keys: int
    seconds: float  # until faults stop
    heartbeat: float = 1.0
    versioned: bool = True
    checked: bool = True  # the source compares versions
    preload: bool = True
    paging: bool = False
    copies: bool = False
    ttl: float | None = None
    retry_after: float = 0.25
    hard_timeout: float = 3.0
    missing_ttl: float = 5.0
    max_entries: int | None = None
    outbox: int = 10_000
    inbox: int = 10_000
    backlog: int = 10_000
    pad: int = 0  # characters that every row has besides
    stubborn: bool = False  # the source's driver does not heed that it is cancelled
    broker_latency: float = 0.005
    source_latency: float = 0.005
    late: tuple[str, ...] = ()  # nodes that are not there from the beginning
    other_shape: tuple[str, ...] = ()  # nodes that run the next version of the application
    foreign: int = 0  # nodes beside them in the same namespace that read and write another source
    skews: tuple[float, ...] = ()
    steps: tuple[Step, ...] = ()

    @property
    def names(self) -> tuple[str, ...]:
        """Of the nodes."""
        return tuple(f"n{number}" for number in range(1, self.nodes + 1))

    @property
    def foreign_names(self) -> tuple[str, ...]:
        """Of the nodes that read another source."""
        return tuple(f"other{number}" for number in range(1, self.foreign + 1))

    def only(self, numbers: Iterable[int]) -> Plan:
        """Without the other steps."""
        wanted = set(numbers)
        return dataclasses.replace(
            self, steps=tuple(step for step in self.steps if step.number in wanted)
        )

    def without_node(self, name: str) -> Plan:
        """With that node never started, and nothing done by or to it."""
        return dataclasses.replace(
            self,
            late=(*self.late, name),
            steps=tuple(step for step in self.steps if step.who != name),
        )


def written(plan: Plan) -> str:
    """A plan as JSON in one line: it is the same run whatever `make` makes of its seed by then."""

    def plain(value: Any) -> dict[str, Any]:
        return {
            field.name: getattr(value, field.name)
            for field in dataclasses.fields(value)
            if field.name != "steps" and getattr(value, field.name) != field.default
        }

    whole = {**plain(plan), "steps": [plain(step) for step in plan.steps]}
    return msgspec.json.encode(whole).decode()


def read(text: str) -> Plan:
    """The plan that was `written`. Raises `msgspec.ValidationError`."""
    return msgspec.json.decode(text, type=Plan)


QUICK: Final = 1.0
"""Seconds of `Plan.hard_timeout` that take a quick source."""

FLAVOURS: Final[dict[str, int]] = {
    "races": 22,
    "losses": 14,
    "links": 14,
    "source": 12,
    "crashes": 12,
    "clocks": 6,
    "cold": 8,
    "shapes": 4,
    "demand": 8,
    "graves": 4,
    "mixed": 16,
    "drills": 24,
}
"""What a plan is mainly about, and how often."""

FAULTS: Final[dict[str, tuple[str, ...]]] = {
    "races": ("slow", "slow", "twice", "invalidate"),
    "losses": ("lossy", "hole", "hole", "twice", "lossy", "hostile", "last-words"),
    "links": (
        *("cut", "cut", "half-open", "lose-link", "outage", "empty", "tail", "trim", "slow"),
        *("unsure", "deaf", "mute", "last-words", "overflow"),
    ),
    "source": (
        *(
            "source-away",
            "source-hangs",
            "source-slow",
            "errors",
            "lost-answers",
            "hung",
            "sql",
            "locked",
        ),
    ),
    "crashes": ("kill", "kill", "leave", "dirty-donor", "freeze", "freeze", "cut", "lossy"),
    "clocks": ("jump", "jump", "freeze", "kill"),
    "cold": ("kill", "kill", "leave", "cut-transfers", "clear", "clear-giving", "outage"),
    "shapes": ("kill", "leave", "lossy", "cut", "jump"),
    "demand": ("lossy", "cut", "source-away", "hung", "sql", "freeze", "lose-link"),
    "graves": ("freeze-long", "cut-long"),
    "mixed": (
        *("lossy", "twice", "deaf", "cut", "half-open", "lose-link", "outage", "empty", "tail"),
        *("trim", "slow", "mute", "last-words"),
        *("source-away", "source-hangs", "errors", "lost-answers", "hung", "sql", "restore"),
        *("kill", "leave", "freeze", "jump", "cut-transfers", "clear", "hostile", "unsure"),
    ),
}
"""The faults that a flavour draws from; the same one several times is drawn more often."""


class Maker:
    """Draws the steps of a plan."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(f"plan {seed}")
        self.seed = seed
        self.steps: list[tuple[float, dict[str, Any]]] = []
        self.ends: list[float] = []  # moments at which a plan may end
        self.narrow = False  # the outbox is to overflow

    def maybe(self, share: float) -> bool:
        return self.chance.random() < share

    def within(self, least: float, most: float) -> float:
        return self.chance.uniform(least, most)

    def key(self, keys: int) -> int:
        return self.chance.randint(1, keys)

    def two(self, names: list[str]) -> list[str]:
        return self.chance.sample(names, 2)

    def add(self, at: float, what: str, **more: Any) -> None:
        self.steps.append((at, {"what": what, **more}))

    def numbered(self) -> tuple[Step, ...]:
        self.steps.sort(key=lambda step: step[0])
        return tuple(
            Step(number, round(at, 6), **more) for number, (at, more) in enumerate(self.steps, 1)
        )


def make(seed: int) -> Plan:
    """The plan of a seed."""
    m = Maker(seed)
    chance = m.chance
    flavour = chance.choices(list(FLAVOURS), list(FLAVOURS.values()))[0]
    if flavour == "drills":
        return _drill(m)
    nodes = chance.choice((2, 2, 3, 3, 3, 4))
    names = [f"n{number}" for number in range(1, nodes + 1)]
    keys = chance.choice((1, 2, 2, 3, 5))
    heartbeat = 25.0 if flavour == "graves" else 1.0
    seconds = heartbeat * chance.uniform(*((40, 60) if flavour == "graves" else (6, 18)))
    preload = flavour != "demand"
    late: list[str] = []
    if flavour in ("cold", "mixed", "graves", "shapes") or m.maybe(0.15):
        late = [name for name in names[1:] if m.maybe(0.4)]
    shapes = [name for name in names if m.maybe(0.5)] if flavour == "shapes" else []
    skews = [0.0] * nodes
    if flavour == "clocks":
        skews = [chance.choice((0.0, 0.3, -0.3, 5.0, -5.0, 50.0, -50.0, 3600.0)) for _ in names]
    elif m.maybe(0.7):
        skews = [chance.choice((0.0, 0.005, -0.005, 0.02, 0.3, -2.0, 2.0)) for _ in names]
    _life(m, flavour, names, keys, seconds, heartbeat, preload=preload)
    quiet = flavour == "cold" and m.maybe(0.4)  # nothing happens but that nodes come
    for name in late:
        at = chance.uniform(0.0, 0.9) * seconds
        m.add(at, "start", who=name)
        _joining(m, names, keys, at)
        if quiet:
            m.ends.append(at + 1.2)
        elif flavour == "cold" and m.maybe(0.5):
            m.add(at + chance.uniform(0.25, 0.5), "clear", who=chance.choice(names))
    if flavour == "cold" and not quiet:
        if m.maybe(0.3):
            lasts = chance.uniform(0.4, 3.0)
            m.add(0.0, "source-away", lasts=lasts)
            for _ in range(4):
                at = chance.uniform(0.2, lasts)
                m.add(at, "get", who=chance.choice(names), key=chance.randint(1, keys))
        _joining(m, names, keys, 0.0)
    count = chance.randint(0 if flavour == "races" else 1, 3)
    if quiet:
        count = 0
    if flavour == "mixed":
        count += chance.randint(0, 4)
    for _ in range(count):
        what = chance.choice(FAULTS[flavour])
        share = chance.uniform(0.02, 0.3) if flavour == "graves" else chance.uniform(0.05, 0.95)
        _fault(m, what, names, keys, share * seconds, seconds, heartbeat)
    checked = m.maybe(0.6)
    if quiet or (flavour in ("losses", "races", "links") and m.maybe(0.6)):
        seconds = _cut_short(m, seconds)
    plan = Plan(
        seed=seed,
        flavour=flavour,
        broker="streams" if m.maybe(0.5) else "fanout",
        nodes=nodes,
        keys=keys,
        seconds=seconds,
        heartbeat=heartbeat,
        versioned=checked or m.maybe(0.5),
        checked=checked,
        preload=preload,
        paging=m.maybe(0.1),
        copies=m.maybe(0.1),
        hard_timeout=0.5 if flavour == "source" and m.maybe(0.5) else 3.0,
        ttl=chance.uniform(3.0, 8.0) * heartbeat if m.maybe(0.12) else None,
        max_entries=chance.randint(1, 3) if not preload and m.maybe(0.4) else None,
        outbox=1 if m.narrow else chance.randint(1, 4) if m.maybe(0.1) else 10_000,
        inbox=chance.randint(4, 10) if m.maybe(0.1) else 10_000,
        backlog=chance.randint(5, 30) if m.maybe(0.15) else 10_000,
        pad=30_000 if flavour == "cold" and m.maybe(0.5) else 0,
        stubborn=m.maybe(0.4 if flavour == "source" else 0.05),
        broker_latency=chance.choice((0.001, 0.005, 0.005, 0.02)),
        source_latency=chance.choice((0.001, 0.005, 0.005, 0.02)),
        late=tuple(late),
        other_shape=tuple(shapes),
        skews=tuple(skews),
        steps=m.numbered(),
    )
    if plan.hard_timeout < QUICK:
        # A read takes up to sixty of them, and has to come to its end when all is well.
        plan = dataclasses.replace(plan, source_latency=min(plan.source_latency, 0.005))
    return plan


def _drill(m: Maker) -> Plan:
    """One of the drills, with settings of chance where it does not need others."""
    chance = m.chance
    names = [f"n{number}" for number in range(1, chance.choice((3, 3, 4)) + 1)]
    keys = chance.choice((1, 2, 3))
    needed = chance.choice(DRILLS)(m, names, keys)
    checked = m.maybe(0.6)
    plan = Plan(
        seed=m.seed,
        flavour="drills",
        broker="streams" if m.maybe(0.5) else "fanout",
        nodes=len(names),
        keys=keys,
        seconds=0.0,
        versioned=checked or m.maybe(0.5),
        checked=checked,
        paging=m.maybe(0.1),
        broker_latency=chance.choice((0.001, 0.005)),
        source_latency=chance.choice((0.001, 0.005)),
        skews=(0.0,) * len(names),
        steps=m.numbered(),
    )
    return dataclasses.replace(plan, **needed)


def _cut_short(m: Maker, seconds: float) -> float:
    """Right after a fault: what it has done is not made good by what comes later."""
    kinds = ("lossy", "cut", "deaf", "mute")
    ends = m.ends or [at + more["lasts"] for at, more in m.steps if more["what"] in kinds]
    if not ends:
        return seconds
    end: float = m.chance.choice(ends) + m.chance.uniform(0.0, 0.1)
    m.steps = [(at, more) for at, more in m.steps if at < end]
    return max(end, 0.5)


WRITES: Final = (
    ("update",) * 5 + ("revert",) * 2 + ("create",) * 3 + ("delete",) * 4 + ("touch",) * 1
)
OTHERS: Final = ("get",) * 6 + ("get_many", "invalidate", "refresh", "fresh", "stale-update")


def _life(
    m: Maker,
    flavour: str,
    names: list[str],
    keys: int,
    seconds: float,
    heartbeat: float,
    *,
    preload: bool,
) -> None:
    """What the application does: bursts of calls that are close enough to race, and single ones."""
    chance = m.chance
    bursts = chance.randint(3, 9)
    reads = 0.5 if not preload else 0.2
    for _ in range(bursts):
        begins = chance.uniform(0.0, seconds)
        width = chance.choice((0.005, 0.02, 0.05, 0.2, 1.0, heartbeat))
        key = chance.randint(1, keys)
        few = chance.sample(names, min(len(names), chance.randint(1, 3)))
        for _ in range(chance.randint(1, 6)):
            what = chance.choice(OTHERS if m.maybe(reads) else WRITES)
            more: dict[str, Any] = {}
            if m.maybe(0.12):
                more = {"how": "cancelled", "lasts": chance.expovariate(1 / 0.01)}
            m.add(
                begins + chance.uniform(0.0, width),
                what,
                who=chance.choice(few),
                key=key if m.maybe(0.85) else chance.randint(1, keys),
                **more,
            )


def _joining(m: Maker, names: list[str], keys: int, at: float) -> None:
    """Much is written and read while a node comes up."""
    chance = m.chance
    width = chance.choice((0.1, 0.5, 0.5))
    for _ in range(chance.randint(2, 10)):
        m.add(
            at + chance.uniform(0.0, width),
            chance.choice((*WRITES, *OTHERS[:3])),
            who=chance.choice(names),
            key=chance.randint(1, keys),
        )


def _last_words(m: Maker, names: list[str], keys: int, at: float) -> None:
    """Somebody is not listening while somebody else says something, for the last time."""
    chance = m.chance
    writer = chance.choice(names)
    how = chance.choice(("lose-link", "lose-link", "cut", "outage", "lossy", "freeze"))
    lasts = chance.uniform(0.1, 1.0)
    if how == "outage":
        m.add(
            at + 0.1,
            "outage",
            how=chance.choice(("empty", "tail")),
            lasts=lasts,
            amount=chance.randint(1, 4),
        )
    for reader in names:
        if reader == writer or how == "outage":
            continue
        if how == "cut":
            m.add(at, "cut", who=reader, how="loses", lasts=lasts)
        elif how == "lossy":
            m.add(at, "lossy", who=reader, lasts=lasts, amount=1.0)
        elif how == "freeze":
            m.add(at, "freeze", who=reader, lasts=lasts, how="link")
        else:
            m.add(at, "lose-link", who=reader)
    if how in ("cut", "freeze"):
        m.add(at + 0.9 * lasts, "trim")
    m.add(at + 0.02, chance.choice(WRITES), who=writer, key=chance.randint(1, keys))
    m.add(at + 0.04, chance.choice(WRITES), who=writer, key=chance.randint(1, keys))
    m.add(at + chance.uniform(0.06, 0.12), chance.choice(("kill", "leave")), who=writer)


def _dirty_donor(m: Maker, names: list[str], keys: int, at: float) -> None:
    """Who knows that it has missed something, and cannot look for it, is the only one to give a copy, and goes."""
    chance = m.chance
    writer, donor = chance.sample(names, 2)
    joiner = chance.choice([name for name in names if name != donor])
    for name in names:
        if name not in (writer, donor):
            m.add(at - 0.3, "leave", who=name)
    m.add(at, "lose-link", who=donor)
    m.add(at + 0.01, "touch", who=writer, key=chance.randint(1, keys))
    m.add(at + 0.08, "source-away", lasts=3.0)
    m.add(at + 0.3, "leave", who=writer)
    m.add(at + 0.6, "start", who=joiner)
    m.add(at + chance.uniform(1.5, 2.8), "kill", who=donor)


def _fault(
    m: Maker,
    what: str,
    names: list[str],
    keys: int,
    at: float,
    seconds: float,
    heartbeat: float,
) -> None:
    chance = m.chance
    who = chance.choice(names)
    short = min(seconds - at, chance.choice((0.02, 0.1, 0.5, 2.0, 5.0)) * chance.uniform(0.5, 1.5))
    near = max(0.0, at + chance.uniform(-0.01, 0.03))

    def busy(count: int = 2) -> None:
        """Something is written while the fault lasts, mostly the same row."""
        key = chance.randint(1, keys)
        width = min(max(short, 0.02), chance.choice((0.05, 0.3, 5.0)))
        for _ in range(count):
            m.add(
                at + chance.uniform(0.0, width),
                chance.choice(WRITES),
                who=chance.choice(names),
                key=key if m.maybe(0.7) else chance.randint(1, keys),
            )

    if what == "hole":
        # What comes next arrives, so that only its number tells.
        m.add(at, "lossy", who=who, lasts=0.1, amount=1.0)
        writer = chance.choice([name for name in names if name != who])
        for after in (0.02, 0.15):
            m.add(at + after, "touch", who=writer, key=chance.randint(1, keys))
        m.ends.append(at + 0.25)
    elif what == "clear-giving":
        # One has not heard of it yet when it is asked, and hears of it before it gives.
        donor, other = chance.sample(names, 2)
        m.add(at - 0.1, "slow", who=donor, lasts=1.5, amount=20.0)
        m.add(at, "clear", who=other)
    elif what == "dirty-donor":
        _dirty_donor(m, names, keys, at)
    elif what == "last-words":
        _last_words(m, names, keys, at)
    elif what == "lossy":
        m.add(at, "lossy", who=who, lasts=short, amount=chance.choice((0.2, 0.5, 1.0)))
        busy()
    elif what == "twice":
        m.add(at, "twice", who=who, lasts=max(short, 1.0), amount=chance.choice((0.3, 1.0)))
        busy()
    elif what == "unsure":
        m.add(at, "unsure", who=who, lasts=short, amount=chance.choice((0.3, 1.0)))
        busy()
    elif what in ("deaf", "mute"):
        m.add(at, what, who=who, lasts=short)
        busy()
    elif what == "cut":
        m.add(at, "cut", who=who, how=chance.choice(("holds", "drops", "loses")), lasts=short)
        if m.maybe(0.3):
            m.add(at + 2 * short, "cut", who=who, how="loses", lasts=short)
        busy(3)
    elif what == "half-open":
        m.add(at, "half-open", who=who, how=chance.choice(("", "in", "in", "in", "out")))
        busy()
    elif what == "lose-link":
        m.add(at, "lose-link", who=who)
        busy(3)
    elif what == "outage":
        m.add(at, "outage", how=chance.choice(("", "", "empty", "tail")), lasts=short, amount=3)
        busy(3)
    elif what in ("empty", "tail"):
        m.add(at, "outage", how=what, lasts=short, amount=chance.randint(1, 4))
        busy(3)
    elif what == "trim":
        m.add(at, "cut", who=who, how="loses", lasts=short)
        m.add(at + 0.9 * short, "trim", amount=chance.randint(0, 2))
        busy(3)
    elif what == "slow":
        m.add(at, "slow", who=who, lasts=max(short, 0.3), amount=chance.choice((10.0, 100.0)))
        busy(4)
    elif what == "invalidate":
        key = chance.randint(1, keys)
        for _ in range(4):
            m.add(
                at + chance.uniform(0.0, 0.3),
                chance.choice(("invalidate", "delete", "create")),
                who=who,
                key=key,
            )
    elif what == "overflow":
        m.narrow = True
        lasts = chance.uniform(0.3, 0.8)
        m.add(at, "outage", lasts=lasts)
        for key in range(1, keys + 1):
            m.add(at + chance.uniform(0.05, lasts - 0.1), "touch", who=who, key=key)
        if m.maybe(0.6):
            m.add(at + lasts + chance.uniform(0.5, 1.5), "leave", who=who)
    elif what == "hostile":
        for _ in range(3):
            m.add(at + chance.uniform(0.0, 1.0), "hostile", how=chance.choice(HOSTILE))
    elif what in ("source-away", "source-hangs", "source-slow"):
        only = who if m.maybe(0.3) else ""
        m.add(at, what, who=only, lasts=short, amount=chance.choice((5.0, 50.0, 300.0)))
        busy()
    elif what == "locked":
        m.add(at, "locked", lasts=max(short, 0.1), amount=chance.choice((0.1, 1.0, 4.0)))
        busy(3)
    elif what in ("errors", "lost-answers", "hung"):
        only = who if m.maybe(0.3) else ""
        m.add(at, what, who=only, lasts=max(short, 1.0), amount=chance.choice((0.2, 0.5, 1.0)))
        busy(3)
        for _ in range(3):
            key, then = chance.randint(1, keys), at + chance.uniform(0.0, max(short, 1.0))
            for name in chance.sample(names, 2):
                m.add(then + chance.uniform(0.0, 0.02), "update", who=name, key=key)
    elif what == "sql":
        m.add(at, "sql", key=chance.randint(1, keys), how=chance.choice(SQL))
        busy(1)
    elif what == "restore":
        m.add(at * chance.random(), "save")
        m.add(at, "restore")
    elif what == "kill":
        m.add(near, "kill", who=who, lasts=0.0 if m.maybe(0.3) else short)
        _joining(m, names, keys, near + short)
        busy()
        if m.maybe(0.7):  # while it writes
            m.add(
                max(0.0, near - chance.uniform(0.0, 0.03)),
                chance.choice(WRITES),
                who=who,
                key=chance.randint(1, keys),
            )
    elif what == "leave":
        m.add(at, "leave", who=who, lasts=0.0 if m.maybe(0.3) else short)
        _joining(m, names, keys, at + short)
        busy()
    elif what == "freeze":
        lasts = min(seconds - at, chance.choice((0.05, 0.5, 4.0, 8.0)))
        m.add(at, "freeze", who=who, lasts=lasts, how=chance.choice(("", "timers", "link")))
        short = lasts
        busy(3)
    elif what == "jump":
        m.add(at, "jump", who=who, amount=chance.choice((3600.0, -3600.0, 30.0, -30.0, 2.0, -2.0)))
        busy(3)
    elif what == "cut-transfers":
        m.add(at, "cut-transfers", lasts=max(short, 2.0), amount=chance.randint(0, 3))
        m.add(at + 0.01, "kill", who=who, lasts=0.1)
    elif what == "clear":
        m.add(at, "clear", who=who)
        for _ in range(3):
            more = {"who": chance.choice(names), "key": chance.randint(1, keys)}
            m.add(at + chance.uniform(0.0, 0.05), "get", **more)
        _joining(m, names, keys, at)
        busy(3)
    elif what in ("freeze-long", "cut-long"):
        # Longer than tombstones live.
        lasts = min(seconds - at, 610.0 + chance.uniform(0.0, 15.0) * heartbeat)
        if what == "freeze-long":
            m.add(at, "freeze", who=who, lasts=lasts, how=chance.choice(("", "timers", "link")))
        else:
            m.add(at, "cut", who=who, how=chance.choice(("drops", "loses")), lasts=lasts)
        short = 2.0 * heartbeat
        busy(4)
    else:
        raise ValueError(what)


HOSTILE: Final = ("poison", "noise", "truncated", "foreign", "huge-version", "replay", "empty")
SQL: Final = ("update", "update-unversioned", "delete", "insert")
