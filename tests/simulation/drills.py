"""Small plans that are aimed at one safeguard each: what it is for happens, and little else that would make up for it.

Chance moves their steps about, so that each comes out in many ways. A drill returns what its plan has to be like.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from .plan import Maker

__all__ = ["DRILLS"]

Drill = Callable[["Maker", list[str], int], dict[str, Any]]

BEGINS: Final = 3.0
"""Seconds after which all nodes are up and have heard of each other."""


def apart(m: Maker, names: list[str], keys: int) -> dict[str, Any]:
    """One starts where it hears nobody, after a change that nobody was told of: no number tells, digests do."""
    who = names[-1]
    m.add(BEGINS, "leave", who=who, lasts=0.8)
    m.add(BEGINS + 0.5, "cut", who=who, how="drops", lasts=3.5)
    m.add(BEGINS + 0.6, "sql", key=m.key(keys), how="update")
    return {"seconds": BEGINS + m.within(4.5, 6.0), "late": ()}


def passer_by(m: Maker, names: list[str], keys: int) -> dict[str, Any]:
    """Somebody comes, writes and goes while one is not connected that has read the row, and hears of none of it."""
    reader, stranger = names[0], names[-1]
    for key in range(1, keys + 1):
        m.add(BEGINS - 1.0, "get", who=reader, key=key)
    m.add(BEGINS, "cut", who=reader, how="loses", lasts=2.0)
    m.add(BEGINS + 0.2, "start", who=stranger)
    m.add(BEGINS + m.within(0.5, 0.9), "touch", who=stranger, key=m.key(keys))
    m.add(BEGINS + m.within(1.0, 1.3), "leave", who=stranger)
    m.add(BEGINS + 1.9, "trim")
    late = (stranger,)
    return {"seconds": BEGINS + m.within(2.5, 5.0), "late": late, "preload": False}


def lone_hole(m: Maker, names: list[str], keys: int) -> dict[str, Any]:
    """A message is lost and the next one arrives: its origin has it."""
    who, writer = m.two(names)
    m.add(BEGINS, "lossy", who=who, lasts=0.1, amount=1.0)
    for after in (0.02, m.within(0.15, 0.3)):
        m.add(BEGINS + after, "touch", who=writer, key=m.key(keys))
    return {"seconds": BEGINS + m.within(0.4, 1.5), "late": (), "broker": "fanout"}


def hole_and_gone(m: Maker, names: list[str], keys: int) -> dict[str, Any]:
    """A message is lost and the next one arrives, and its origin leaves before it is asked."""
    who, writer = m.two(names)
    m.add(BEGINS, "lossy", who=who, lasts=0.1, amount=1.0)
    m.add(BEGINS + 0.02, "touch", who=writer, key=m.key(keys))
    m.add(BEGINS + 0.1, "touch", who=writer, key=m.key(keys))
    m.add(BEGINS + m.within(0.1, 0.2), "leave", who=writer)
    return {"seconds": BEGINS + m.within(0.4, 1.5), "late": (), "broker": "fanout"}


def taken_back(m: Maker, names: list[str], keys: int) -> dict[str, Any]:
    """What one writes is on its way for long; another takes it back, dies before it is heard, and all is loaded.

    The first event comes after that, built on what is still held, and its sender leaves.
    """
    first, second = m.two(names)
    key = m.key(keys)
    there = m.maybe(0.5)
    if there:
        m.add(BEGINS - 1.0, "touch", who=first, key=key)
    else:
        m.add(BEGINS - 1.2, "touch", who=first, key=key)
        m.add(BEGINS - 0.8, "delete", who=first, key=key)
    m.add(BEGINS, "cut", who=first, how="holds", lasts=5.5)
    m.add(BEGINS + 0.1, "update" if there else "create", who=first, key=key)
    then = BEGINS + 0.4
    m.add(then, "revert" if there else "delete", who=second, key=key)
    m.add(then, "mute", who=second, lasts=1.0)
    m.add(then + m.within(0.1, 0.8), "kill", who=second)
    m.add(BEGINS + 0.4, "source-away", who=first, lasts=9.0)  # or it would find out itself
    m.add(BEGINS + m.within(7.0, 9.0), "leave", who=first)
    return {
        "seconds": BEGINS + m.within(9.5, 11.0),
        "late": (),
        "broker": "streams",
        "versioned": not there,
        "checked": False,
    }


def outdated_donor(m: Maker, names: list[str], keys: int) -> dict[str, Any]:
    """The only sibling to compare with has not heard of the latest write, and its clock is ahead of the writer's."""
    who, donor, writer = names[:3]
    key = m.key(keys)
    m.add(BEGINS, "mute", who=donor, lasts=0.15)
    m.add(BEGINS + 0.02, "touch", who=donor, key=key)
    then = BEGINS + m.within(0.2, 0.3)
    m.add(then, "lossy", who=donor, lasts=0.1, amount=1.0)
    m.add(then, "touch", who=writer, key=key)
    m.add(then + m.within(0.02, 0.05), "lose-link", who=who)
    m.add(then + m.within(0.03, 0.06), "leave", who=writer)
    return {
        "seconds": BEGINS + m.within(2.5, 4.0),
        "late": (),
        "broker": "fanout",
        "versioned": False,
        "checked": False,
        "skews": tuple(2.0 if name == donor else 0.0 for name in names),
    }


def behind_a_clear(m: Maker, names: list[str], keys: int) -> dict[str, Any]:
    """Everything is dropped after a write; the only one with a copy has heard of neither yet when it is asked."""
    writer, donor = names[:2]
    m.add(BEGINS - 0.01, "lossy", who=donor, lasts=0.04 + m.within(0.01, 0.05), amount=1.0)
    m.add(BEGINS, "touch", who=writer, key=m.key(keys))
    m.add(BEGINS + m.within(0.02, 0.04), "clear", who=writer)
    m.add(BEGINS + 0.02, "source-away", who=writer, lasts=1.0)
    return {"seconds": BEGINS + m.within(1.6, 3.0), "late": (), "broker": "fanout"}


def cleared_while_asked(m: Maker, names: list[str], keys: int) -> dict[str, Any]:
    """A donor drops everything when it has agreed to give, and before it has said so to the newcomer."""
    donor, newcomer = names[:2]
    m.add(BEGINS - 0.1, "slow", who=donor, lasts=2.0, amount=30.0)
    m.add(BEGINS - 0.01, "source-away", lasts=2.0)
    m.add(BEGINS, "start", who=newcomer)
    m.add(BEGINS + m.within(0.45, 0.75), "clear", who=donor)
    return {
        "seconds": BEGINS + m.within(2.5, 4.0),
        "late": (newcomer,),
        "nodes": 2,
        "skews": (0.0, 0.0),
        "broker_latency": 0.005,
    }


def long_under_way(m: Maker, names: list[str], keys: int) -> dict[str, Any]:
    """A new row was deleted elsewhere, perhaps so long ago that it was forgotten, before anybody hears of it."""
    first, second = m.two(names[:3])
    begins, lasts = 60.0, m.chance.choice((m.within(860.0, 900.0), m.within(150.0, 500.0)))
    for name in names[3:]:
        m.add(begins - 30.0, "leave", who=name)
    m.add(begins, "cut", who=first, how="drops", lasts=lasts)
    for key in range(1, keys + 1):
        m.add(begins + 0.5, "create", who=first, key=key)
        m.add(begins + m.within(0.7, 3.0), "delete", who=second, key=key)
    m.add(begins + 1.0, "source-away", who=first, lasts=lasts + 60.0)
    # Or it would soon be loaded what is true.
    m.add(begins + 3.5, "source-away", lasts=lasts + 60.0)
    return {"seconds": begins + lasts + m.within(10.0, 40.0), "late": (), "heartbeat": 25.0}


def one_writer(m: Maker, names: list[str], keys: int) -> dict[str, Any]:
    """One node writes all the time, often the same row at once, while others start; nothing goes wrong."""
    names = names[:2] if m.maybe(0.5) else names
    pad = m.chance.choice((0, 100_000))
    if pad:
        keys = 20  # more chunks than are under way at a time
    writer, late = names[0], tuple(name for name in names[1:] if m.maybe(0.8))
    for name in late:
        m.add(BEGINS + m.within(0.0, 0.6), "start", who=name)
    for key in range(1, keys + 1):
        m.add(BEGINS - 1.0, "touch", who=writer, key=key)
    for _ in range(80):
        m.add(BEGINS + m.within(0.0, 1.0), "update", who=writer, key=m.key(min(keys, 3)))
    return {
        "seconds": BEGINS + m.within(1.0, 2.0),
        "late": late,
        "keys": keys,
        "pad": pad,
        "nodes": len(names),
        "skews": (0.0,) * len(names),
        "checked": False,
    }


def read_before(m: Maker, names: list[str], keys: int) -> dict[str, Any]:
    """A read of a row has begun before it is changed behind everybody's back, and ends when all is being read again."""
    who, key = m.chance.choice(names), m.key(keys)
    m.add(BEGINS - 0.1, "source-slow", lasts=3.0, amount=50.0)
    m.add(BEGINS, "invalidate", who=who, key=key)
    changed = BEGINS + m.within(0.02, 0.5)
    m.add(changed, "sql", key=key, how=m.chance.choice(("update", "delete")))
    m.add(changed + m.within(0.005, 0.1), "refresh", who=who)
    return {"seconds": BEGINS + m.within(1.0, 2.0), "late": (), "source_latency": 0.005}


def found_apart(m: Maker, names: list[str], keys: int) -> dict[str, Any]:
    """A newcomer that hears nobody reads what SQL has changed, and then meets a sibling whose clock is ahead."""
    newcomer = names[1]
    m.add(BEGINS, "sql", key=m.key(keys), how=m.chance.choice(("update", "delete")))
    m.add(BEGINS + 0.3, "cut", who=newcomer, how="drops", lasts=m.within(2.0, 5.0))
    m.add(BEGINS + 0.5, "start", who=newcomer)
    return {
        "seconds": BEGINS + m.within(6.0, 8.0),
        "late": (newcomer,),
        "nodes": 2,
        "skews": (m.within(5.0, 50.0), 0.0),
        "versioned": True,
    }


def come_and_gone(m: Maker, names: list[str], keys: int) -> dict[str, Any]:
    """While a row is read that is absent, it comes and goes, by a clock that is ahead, and its coming is told late."""
    writer, reader, key = names[0], names[1], m.key(keys)
    m.add(BEGINS, "slow", who=reader, lasts=1.0, amount=20.0)
    m.add(BEGINS + 0.01, "create", who=writer, key=key)
    m.add(BEGINS + m.within(0.01, 0.03), "delete", who=writer, key=key)
    m.add(BEGINS + m.within(0.0, 0.03), "invalidate", who=reader, key=key)
    return {
        "seconds": BEGINS + m.within(1.0, 2.0),
        "late": (),
        "skews": tuple(2.0 if name == writer else 0.0 for name in names),
    }


DRILLS: Final[tuple[Drill, ...]] = (
    apart,
    passer_by,
    lone_hole,
    hole_and_gone,
    taken_back,
    outdated_donor,
    behind_a_clear,
    cleared_while_asked,
    long_under_way,
    one_writer,
    read_before,
    found_apart,
    come_and_gone,
)
