"""What nodes have shown, judged by everything that the source has ever held.

The promises: what a read returns was in the source (S1), a node never goes back to an older version of
a row (S2), deleted stays deleted until the source has the row again (S3), nothing is "absent" before it was
looked for (S4), and a node reads what it has written (S5).

They are one rule: for each key the source went through a row of states, and what one node shows of it walks
along that row, never backwards, beginning no earlier than with the state that was there before the node was.
An acknowledged write is a step that the walk has certainly made. A refusal is one too: if the source has refused a
write because it had another row than the one that the write was built on, the node shows a later one from then on.
"""

from __future__ import annotations

import bisect
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Final

import msgspec

SKEW: Final = 0.1
"""Seconds between two clocks of one machine, generously."""

LAST: Final = 12
"""Records of a key that are kept to be shown with a fault."""

BEFORE: Final = -1
"""The state of a key before the source ever had it: absent."""


class Shown(msgspec.Struct, frozen=True, array_like=True):
    """A row as far as it matters: `mark` is unique to the commit."""

    mark: str
    version: int


@dataclass(frozen=True)
class Past:
    """One commit: what the key was from then on, ``None`` for absent."""

    key: int
    row: Shown | None
    at: float = 0.0
    """When, by the wall clock; not later than anybody could see it."""


class Saw(StrEnum):
    """What happened to a key on a node."""

    READ = "r"
    """A read returned this."""
    LATE = "l"
    """A read returned this that had waited, while others of the key returned something else: only that the source had
    it is certain."""
    WROTE = "w"
    """A create or update was acknowledged with this."""
    DELETING = "b"
    """A delete has begun."""
    DELETED = "d"
    """It was acknowledged."""
    REFUSED = "x"
    """A write that was built on this row was refused, since the source had another one."""


class Record(msgspec.Struct, frozen=True, array_like=True):
    """One thing that a node has shown, in the order in which it did; `at` is its wall clock."""

    saw: Saw
    key: int
    row: Shown | None
    at: float


@dataclass
class _Key:
    states: list[Shown | None] = field(default_factory=list)
    since: list[float] = field(default_factory=list)
    places: dict[str, int] = field(default_factory=dict)
    gone: list[int] = field(default_factory=list)
    seeded: int = BEFORE

    def next_absent(self, least: int) -> int | None:
        """The first state from `least` on in which the key is absent."""
        if least == BEFORE:
            return BEFORE
        index = bisect.bisect_left(self.gone, least)
        return self.gone[index] if index < len(self.gone) else None

    def had(self, row: Shown | None, until: float) -> bool:
        """Whether this was one of its states by then."""
        if row is not None:
            place = self.places.get(row.mark, BEFORE)
            return place != BEFORE and self.states[place] == row and self.since[place] <= until
        return self.seeded == BEFORE or any(self.since[place] <= until for place in self.gone[:1])


class History:
    """All states of all keys, in the order of their commits."""

    def __init__(self, past: Iterable[Past] = (), *, seed: str = "seed") -> None:
        self._keys: dict[int, _Key] = {}
        self._seed = seed
        self.commits = 0
        for commit in past:
            self.add(commit)

    def add(self, commit: Past) -> None:
        """The next one."""
        self.commits += 1
        key = self._keys.setdefault(commit.key, _Key())
        place = len(key.states)
        key.states.append(commit.row)
        key.since.append(commit.at)
        if commit.row is None:
            key.gone.append(place)
            return
        key.places[commit.row.mark] = place
        if commit.row.mark.startswith(self._seed):
            key.seeded = place

    def places(self, key: int) -> dict[str, int]:
        """The position of each state in the history of the key, by the mark of the state."""
        return dict(self._keys[key].places)

    def faults(self, node: str, records: Iterable[Record]) -> list[str]:
        """What of a node's records contradicts the promises; each key's first contradiction."""
        found: dict[int, str] = {}
        walked: dict[int, int] = {}
        deleting: dict[int, int] = {}
        told: dict[int, deque[Record]] = {}
        for record in records:
            told.setdefault(record.key, deque(maxlen=LAST)).append(record)
            key = self._keys.get(record.key, _Key())
            place = walked.setdefault(record.key, key.seeded)
            if record.saw is Saw.DELETING:
                deleting[record.key] = place
                continue
            if record.saw is Saw.LATE:
                if not key.had(record.row, record.at + SKEW):
                    found.setdefault(
                        record.key, _fault(node, record, key, place, None, told[record.key])
                    )
                continue
            if record.saw is Saw.DELETED:
                # Which delete it was is not known, only that it was none from before it began.
                own = key.next_absent(deleting.pop(record.key, place) + 1)
                reached = None if own is None else max(own, place)
            elif record.saw is Saw.REFUSED:
                based = None if record.row is None else key.places.get(record.row.mark)
                later = None if based is None else max(based + 1, place)
                reached = None if later is None or later >= len(key.states) else later
            elif record.row is None:
                reached = key.next_absent(place)
            else:
                reached = key.places.get(record.row.mark)
                if reached is not None and key.states[reached] != record.row:
                    reached = None
                if reached is not None and reached < place and record.saw is Saw.WROTE:
                    reached = place  # acknowledged late: something newer was shown meanwhile
            if reached is not None and reached != BEFORE and key.since[reached] > record.at + SKEW:
                reached = None  # it came later
            if reached is None or reached < place:
                found.setdefault(
                    record.key, _fault(node, record, key, place, reached, told[record.key])
                )
                continue
            walked[record.key] = reached
        return list(found.values())


def _state(key: _Key, place: int) -> str:
    row = key.states[place]
    shown = "absent" if row is None else f"{row.mark} v{row.version}"
    return f"{key.since[place]:.3f} {place}: {shown}"


def _told(record: Record) -> str:
    row = "absent" if record.row is None else f"{record.row.mark} v{record.row.version}"
    return f"{record.at:.3f} {record.saw} {row}"


def _around(key: _Key, place: int) -> range:
    return range(max(0, place - LAST // 2), min(place + LAST, len(key.states)))


def _fault(
    node: str, record: Record, key: _Key, place: int, reached: int | None, told: Iterable[Record]
) -> str:
    what = {
        Saw.READ: "showed",
        Saw.LATE: "showed",
        Saw.WROTE: "was told of",
        Saw.DELETED: "was told to have deleted",
        Saw.REFUSED: "was refused what was built on",
    }
    row = "absent" if record.row is None else f"{record.row.mark} v{record.row.version}"
    before = None if place == BEFORE else key.states[place]
    known = "absent" if before is None else f"{before.mark} v{before.version}"
    why = (
        "which the source did not have from there on until then"
        if reached is None
        else f"which was state {reached} already"
    )
    return (
        f"{node}, key {record.key} at {record.at:.3f}: {what[record.saw]} {row} after state {place}"
        f" ({known}) of {len(key.states)}, {why}; the last it has shown: {', '.join(map(_told, told))};"
        f" the source: {', '.join(_state(key, at) for at in _around(key, place))}"
    )
