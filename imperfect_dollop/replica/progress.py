"""How far everybody's events were taken in, and which of them have not come.

The events of an origin are numbered. What comes behind a number that is missing is taken in all the same, for it is
idempotent; the numbers in between are a *hole*, and the origin is asked for them. Should it have them no longer, or not
answer, the hole is given up, and something else has to make up for it.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Final

import xxhash

from .messages import MAX_ORIGINS

__all__ = ["Progress", "covers"]

MAX_HOLES: Final = 100
"""Holes remembered; past that what is missing is better found by comparing copies."""

MAX_SWEEPS: Final = 60
"""Sweeps without a member after which it is forgotten how far it was taken in. With one in ten seconds that is as long
as tombstones are kept. An event of it that comes still later costs a comparison."""

LESS_BEATS: Final = 2
"""Heartbeats with a smaller number than was seen that mean something. One may have been sent before the copy that told
of the greater."""

ASK_BEATS: Final = 2
"""Heartbeats of an origin until it is asked again for what is missing; after as many more the hole is given up."""

MASK: Final = 2**64 - 1


class _Hole:
    """Numbers `first` to `last` of an origin, asked for `beats` of its heartbeats ago."""

    __slots__ = ("beats", "first", "last")

    def __init__(self, first: int, last: int) -> None:
        self.first = first
        self.last = last
        self.beats = 0


class Progress:
    """The last number seen of each origin (`vector`), and the holes before it."""

    __slots__ = ("_holes", "_less", "_lost", "_unseen", "vector")

    def __init__(self) -> None:
        self.vector: dict[str, int] = {}
        self._holes: dict[str, list[_Hole]] = {}
        # By origin the last number that was given up, until a copy is compared that contains it.
        self._lost: dict[str, int] = {}
        self._less: dict[str, int] = {}  # heartbeats in a row that have said less than was seen
        self._unseen: dict[str, int] = {}  # sweeps since an origin was a member

    def last(self, origin: str) -> int:
        """The last number seen; 0 for none."""
        return self.vector.get(origin, 0)

    @property
    def awaited(self) -> list[str]:
        """The origins of which something is being waited for."""
        return list(self._holes)

    @property
    def complete(self) -> bool:
        """Whether nothing is being waited for."""
        return not self._holes

    def saw(self, origin: str, number: int) -> bool:
        """Nothing up to this number is news. False if another origin had to be forgotten for it.

        Should that one still be alive, its next event looks like a gap.
        """
        if number <= self.vector.get(origin, -1):
            return True
        self.vector[origin] = number
        if len(self.vector) <= MAX_ORIGINS:
            return True
        oldest = next(iter(self.vector))
        self._forget(oldest)
        return False

    def less(self, origin: str, number: int, *, timely: bool = True) -> bool:
        """A heartbeat of an origin has said less than was seen of it. One that is not `timely` is not counted.

        True where somebody else must have spoken in its name: what it says itself from here on is news.
        """
        beats = self._less[origin] = self._less.get(origin, 0) + timely
        if beats < LESS_BEATS:
            return False
        del self._less[origin]
        self.vector[origin] = number
        self.give_up(origin)
        return True

    def lacks(self, vector: Mapping[str, int]) -> bool:
        """Whether anything up to these numbers has not been taken in."""
        return any(
            number > self.vector.get(origin, 0)
            or any(hole.first <= number for hole in self._holes.get(origin, ()))
            or self._lost.get(origin, number + 1) <= number
            for origin, number in vector.items()
        )

    def contains(self, vector: Mapping[str, int]) -> None:
        """What is held contains everything up to these numbers."""
        for origin, number in vector.items():
            self.saw(origin, number)
            self._fill(origin, 1, number)
            if self._lost.get(origin, number + 1) <= number:
                del self._lost[origin]

    def start(self, vector: Mapping[str, int]) -> None:
        """What is held contains everything up to these numbers, and nothing else: so nothing is missing of it."""
        self.clear()
        self.vector.update(vector)

    def clear(self) -> None:
        """Nothing was seen of anybody."""
        self.vector.clear()
        self._less.clear()
        self._holes.clear()
        self._lost.clear()
        self._unseen.clear()

    def sweep(self, members: Collection[str]) -> None:
        """Forget the runs of nodes that have gone long ago: every start of a node is another."""
        unseen = {
            origin: self._unseen.get(origin, 0) + 1
            for origin in self.vector
            if origin not in members
        }
        self._unseen = unseen
        for origin in [origin for origin, sweeps in unseen.items() if sweeps > MAX_SWEEPS]:
            self._forget(origin)

    def _forget(self, origin: str) -> None:
        del self.vector[origin]
        self._unseen.pop(origin, None)
        self._less.pop(origin, None)
        self.give_up(origin)
        self._lost.pop(origin, None)

    # -- holes -----------------------------------------------------------------------------------

    def news(self, origin: str, number: int) -> bool:
        """Whether this number has not been taken in yet."""
        return number > self.vector.get(origin, 0) or any(
            hole.first <= number <= hole.last for hole in self._holes.get(origin, ())
        )

    def took(self, origin: str, first: int, last: int) -> bool:
        """These numbers were taken in; as `saw`."""
        self._fill(origin, first, last)
        return self.saw(origin, last)

    def miss(self, origin: str, first: int, last: int) -> bool:
        """These numbers have not come; False if there are too many holes to wait for one more."""
        if self._full:
            return False
        self._holes.setdefault(origin, []).append(_Hole(first, last))
        return True

    def overdue(
        self, origin: str, kept: int, *, timely: bool = True
    ) -> tuple[list[tuple[int, int]], bool]:
        """A heartbeat of an origin has come that has kept its events from number `kept` on.

        One that is not `timely` is not counted. What it should be asked for again, and whether it will never fill a
        hole: then all of its holes are given up.
        """
        self._less.pop(origin, None)
        again: list[tuple[int, int]] = []
        for hole in self._holes.get(origin, ()):
            hole.beats += timely
            if hole.first < kept or hole.beats > 2 * ASK_BEATS:
                self.give_up(origin)
                return [], True
            if timely and hole.beats == ASK_BEATS:
                again.append((hole.first, hole.last))
        return again, False

    def give_up(self, origin: str) -> None:
        """Wait no longer for what is missing of this origin: a copy that contains it is to be found."""
        holes = self._holes.pop(origin, None)
        if holes:
            self._lost[origin] = max(self._lost.get(origin, 0), *[hole.last for hole in holes])

    @property
    def _full(self) -> bool:
        return sum(map(len, self._holes.values())) >= MAX_HOLES

    def _fill(self, origin: str, first: int, last: int) -> None:
        holes = self._holes.get(origin)
        if holes is None:
            return
        left: list[_Hole] = []
        for hole in holes:
            if last < hole.first or first > hole.last:
                left.append(hole)
                continue
            rest = [
                (start, end)
                for start, end in ((hole.first, first - 1), (last + 1, hole.last))
                if start <= end
            ]
            if len(rest) > 1 and self._full:
                left.append(hole)  # to take in once more what is in its middle does no harm
                continue
            for start, end in rest:
                part = _Hole(start, end)
                part.beats = hole.beats
                left.append(part)
        if left:
            self._holes[origin] = left
        else:
            del self._holes[origin]

    # -- for others ------------------------------------------------------------------------------

    def hash(self, members: Collection[str], own: str, sequence: int) -> int:
        """A hash of how far the events of `members`, and `own` events up to `sequence`, were taken in."""
        total = _mark(own, sequence)
        for origin in members:
            if origin != own:
                total += _mark(origin, self.vector.get(origin, 0))
        return total & MASK


def covers(vector: Mapping[str, int], known: Mapping[str, int]) -> bool:
    """Whether who has seen `vector` has seen everything up to these numbers."""
    return all(vector.get(origin, 0) >= number for origin, number in known.items())


def _mark(origin: str, number: int) -> int:
    return xxhash.xxh3_64_intdigest(f"{origin}:{number}".encode())
