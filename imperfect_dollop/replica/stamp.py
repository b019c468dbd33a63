"""When a row became what it is: stamps, and the hybrid logical clock that draws them.

The clock follows Kulkarni, Demirbas, Madappa, Avva and Leone, "Logical Physical Clocks" (2014): a
time is microseconds of wall clock in the upper 53 bits and a counter in the lower 10, so that times
are comparable integers, stay near the wall clock, and grow along every chain of messages however
the nodes' clocks differ. (The paper has milliseconds and 16 bits, where a message on one host arrives in the
millisecond in which it was sent. 53 bits of microseconds last until 2255; a counter that runs over goes on in the
next one.)
"""

from __future__ import annotations

import contextlib
from typing import Annotated, Final

import msgspec
import xxhash

__all__ = [
    "ABSENT",
    "MAX_DRIFT",
    "MAX_NAME",
    "HybridClock",
    "Int63",
    "Name",
    "Stamp",
    "at",
    "join",
    "seconds",
]

COUNTER_BITS: Final = 10
MICROSECONDS: Final = 1_000_000

MAX_DRIFT: Final = 60.0
"""Seconds by which a remote time may be ahead of this clock. Generous for machines that run NTP, and far
below what would let a broken clock drag the whole cluster into the future."""

MAX_NAME: Final = 256
"""Characters of a name, on the wire."""

JOINED: Final = "~"
"""Begins the origin of a stamp that was joined from others; those of nodes are hexadecimal digits."""

Name = Annotated[str, msgspec.Meta(max_length=MAX_NAME)]
Int63 = Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)]


class Stamp(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Which state of a row: the source's version of it, when it was written or read, and by whom.

    `version` is 0 where the source keeps none; `time` is a hybrid logical time; `origin` is the id
    of the node's run. Two stamps are equal only if they name the same write or read.
    """

    version: Int63
    time: Int63
    origin: Name


ABSENT: Final = Stamp(0, 0, "")
"""The stamp of a key of which nothing is known."""


def join(one: Stamp, other: Stamp) -> Stamp:
    """The stamp of a state that both name: whatever their order, and whatever was in between, it is later than either.

    It is another than both, since nobody who knows only one of them has built on it, and the same wherever the same
    stamps were joined, in whatever order: exclusive or has no order.
    """
    mark = _mark(one) ^ _mark(other)
    version, time = max(one.version, other.version), max(one.time, other.time)
    return Stamp(version, time, f"{JOINED}{mark:016x}")


def _mark(stamp: Stamp) -> int:
    if len(stamp.origin) == 17 and stamp.origin.startswith(JOINED):
        with contextlib.suppress(ValueError):  # somebody's name, after all
            return int(stamp.origin[1:], 16)
    return xxhash.xxh3_64_intdigest(f"{stamp.version}:{stamp.time}:{stamp.origin}".encode())


def at(seconds_since_epoch: float) -> int:
    """The first hybrid time of that moment."""
    return max(0, int(seconds_since_epoch * MICROSECONDS)) << COUNTER_BITS


def seconds(time: int) -> float:
    """The wall clock part of a hybrid time, in seconds since the epoch."""
    return (time >> COUNTER_BITS) / MICROSECONDS


class HybridClock:
    """Draws times that only grow. The wall clock is handed in by the caller."""

    __slots__ = ("time",)

    def __init__(self) -> None:
        self.time: int = 0

    def tick(self, now: float) -> int:
        """A time for something that happens here, later than all seen so far."""
        self.time = max(self.time + 1, at(now))
        return self.time

    def observe(self, time: int, now: float) -> bool:
        """Take note of a remote time; False, and no note taken, when it is beyond `MAX_DRIFT`."""
        if time > at(now + MAX_DRIFT):
            return False
        self.time = max(self.time, time)
        return True
