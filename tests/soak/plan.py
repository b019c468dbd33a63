"""Which faults there will be, and when: drawn from the seed, before anything runs."""

from __future__ import annotations

import random
from dataclasses import dataclass
from enum import StrEnum
from typing import Final

from ..integration.proxy import Direction
from .settings import HEARTBEAT, Settings


class Kind(StrEnum):
    """A way to do harm. To one node first, then to all at once."""

    KILL = "kill"
    """SIGKILL; the node is started again after the time."""
    DOOM = "killed after a commit"
    """The same between the commit of a write and its event."""
    LEAVE = "leave"
    """It leaves in order, and is started again after the time."""
    FREEZE = "freeze"
    """SIGSTOP, and SIGCONT after the time."""
    CUT = "cut"
    """Its connections to the broker are reset, and refused."""
    HALF_OPEN = "half-open"
    """What it sends to the broker, or gets from it, or both, vanishes."""
    STALL = "stall"
    """Nothing moves between it and the broker, and nothing is lost."""
    DELAY = "delay"
    """All that moves between them is late."""
    DATABASE_CUT = "database cut"
    DATABASE_SILENT = "database silent"
    """What it sends to the database, or gets from it, or both, vanishes."""
    DATABASE_ENDS = "sessions ended"
    """The database ends all sessions of the node, as its administrator might."""

    BROKER_KILL = "broker killed"
    """SIGKILL; it is started again, empty, after the time."""
    BROKER_FREEZE = "broker frozen"
    BROKER_AWAY = "broker away"
    """Nobody can reach it."""
    DATABASE_AWAY = "database away"


ENDING: Final = frozenset({Kind.KILL, Kind.DOOM, Kind.LEAVE})
"""After these a node is another process."""

SERVER: Final = frozenset({Kind.BROKER_KILL, Kind.BROKER_FREEZE})
"""For a server of our own only."""

GONE: Final = 3 * HEARTBEAT
"""Seconds after which a node that is silent is taken for gone."""

Weighted = dict[tuple[Kind, float, float], int]

OF_A_NODE: Final[Weighted] = {
    (Kind.KILL, 0.1, 4): 3,
    (Kind.DOOM, 0.1, 4): 3,
    (Kind.LEAVE, 0.1, 4): 2,
    (Kind.FREEZE, 0.1, 1.5): 2,
    (Kind.FREEZE, GONE + 1, 4 * GONE): 2,
    (Kind.CUT, 0.05, 0.5): 2,
    (Kind.CUT, 1, 3 * GONE): 2,
    (Kind.HALF_OPEN, 1, 3 * GONE): 3,
    (Kind.STALL, 0.2, GONE + 2): 1,
    (Kind.DELAY, 2, 8): 2,
    (Kind.DATABASE_CUT, 0.05, 6): 2,
    (Kind.DATABASE_SILENT, 0.5, 6): 1,
    (Kind.DATABASE_ENDS, 0, 0): 2,
}
"""Kinds with the seconds that they last, from and to, and how frequent they are beside each other."""

OF_ALL: Final[Weighted] = {
    (Kind.BROKER_KILL, 0.1, 6): 3,
    (Kind.BROKER_FREEZE, 0.2, 2): 1,
    (Kind.BROKER_FREEZE, GONE + 1, 3 * GONE): 2,
    (Kind.BROKER_AWAY, 0.05, 6): 3,
    (Kind.DATABASE_AWAY, 0.5, 6): 2,
    (Kind.DATABASE_ENDS, 0, 0): 1,
}

OF_ALL_SHARE: Final = 0.15
"""Of the faults, those that harm all at once."""


@dataclass(frozen=True)
class Fault:
    """`node` is ``None`` where it is for all. `at` is seconds from the start, `seconds` how long it lasts."""

    at: float
    kind: Kind
    node: int | None
    seconds: float
    lost: tuple[Direction, ...] = ()
    """Where something vanishes: in these directions."""
    delay: float = 0.0
    """Seconds by which everything is late."""

    def __str__(self) -> str:
        where = "all" if self.node is None else f"n{self.node}"
        how = "/".join(self.lost) or (f"by {self.delay:.2f} s" if self.delay else "")
        return f"{self.kind}{how and ' '}{how} of {where} for {self.seconds:.1f} s"


def plan(settings: Settings, *, own_broker: bool) -> list[Fault]:
    """The faults of a run, by their beginnings; all of them are over in time."""
    chance = random.Random(settings.seed)
    of_all = {what: w for what, w in OF_ALL.items() if own_broker or what[0] not in SERVER}
    harmed = max(1, int(settings.nodes * settings.share))
    steady = int(settings.nodes * settings.steady)
    until = dict.fromkeys(range(settings.nodes), 0.0)  # when each is well again
    all_until = 0.0
    faults: list[Fault] = []
    at = 0.0
    while (at := at + chance.expovariate(1 / settings.gap)) < settings.seconds:
        for_all = chance.random() < OF_ALL_SHARE
        (kind, least, most), *_ = chance.choices(
            *zip(*(of_all if for_all else OF_A_NODE).items(), strict=True)
        )
        seconds = min(chance.uniform(least, most), settings.seconds / 3, settings.seconds - at)
        lost: tuple[Direction, ...] = ()
        if kind in (Kind.HALF_OPEN, Kind.DATABASE_SILENT):
            lost = chance.choice([("up", "down"), ("up",), ("down",)])
        delay = chance.uniform(0.05, 0.4) if kind is Kind.DELAY else 0.0
        if for_all:
            if at >= all_until:
                all_until = at + seconds
                faults.append(Fault(at, kind, None, seconds, lost, delay))
            continue
        well = [
            node
            for node, then in until.items()
            if then <= at and not (kind in ENDING and node < steady)
        ]
        if sum(then > at for then in until.values()) < harmed and well:
            node = chance.choice(well)
            until[node] = at + seconds
            faults.append(Fault(at, kind, node, seconds, lost, delay))
    return faults
