"""Whether the siblings' copies are the same as this one, as far as their heartbeats tell.

Two copies can be compared by their digests where both have taken in the same events. Should they differ then for some
heartbeats, it is worth looking why. (A single one may come between a write and its number.)

All agree from when each copy that there is was proven equal to this one. That goes on until something speaks against
it: digests that differ for `SETTLE_BEATS`, a copy that nobody vouches for, one that has just come and was not compared
yet, as those of another shape never are. Where writes never cease, two nodes are seldom equally far, and there is
nothing to compare: that neither proves nor disproves anything. Once it is over, all has to be proven anew.
"""

from __future__ import annotations

from typing import Final

__all__ = ["Agreement"]

SETTLE_BEATS: Final = 2
"""Heartbeats with another digest that mean something. Before it is looked again why, the number doubles whenever
looking has not helped, as with a row that no two reads see alike."""


class Agreement:
    """What is known of each sibling's copy. `now` is monotonic seconds.

    `since` is when all began to agree, ``None`` while they do not, or that is not known. `proven` is when each had last
    been seen to be equal: the time of the one for which that is longest ago; it stays when they agree no longer.
    """

    __slots__ = (
        "_apart",
        "_differs",
        "_doubtful",
        "_equal",
        "_met",
        "_patience",
        "proven",
        "since",
    )

    def __init__(self) -> None:
        self._differs: dict[str, int] = {}  # heartbeats in a row with another digest
        self._patience: dict[str, int] = {}
        self._equal: dict[str, float | None] = {}  # copies, and when each was last equal
        self._apart: set[str] = set()  # those that were found to differ, and not equal since
        self._doubtful: set[str] = set()  # those that their owners do not vouch for
        self._met: set[str] = set()  # those that were equal once, see `met`
        self.since: float | None = None
        self.proven: float | None = None

    # -- what a heartbeat has told ----------------------------------------------------------------

    def holds(self, origin: str, *, clean: bool) -> None:
        """It holds a copy, and vouches for it if that is `clean`."""
        if clean:
            self._doubtful.discard(origin)
        else:
            self._doubtful.add(origin)
        if not clean or origin not in self._equal:
            self._equal[origin] = None
            self.since = None

    def same(self, origin: str, now: float) -> None:
        """Its copy is equal to this one."""
        self._patience.pop(origin, None)
        self._differs.pop(origin, None)
        self._apart.discard(origin)
        self._equal[origin] = now
        self.meet(origin)

    def unknown(self, origin: str) -> None:
        """Its copy cannot be compared now."""
        self._differs.pop(origin, None)

    def differs(self, origin: str) -> bool:
        """Its copy is another; True when it is time to look why."""
        beats = self._differs.get(origin, 0) + 1
        patience = self._patience.get(origin, SETTLE_BEATS)
        if beats >= SETTLE_BEATS:
            self._apart.add(origin)
            self._equal[origin] = self.since = None
        if beats < patience:
            self._differs[origin] = beats
            return False
        self._differs.clear()
        return True

    def looked(self, origin: str) -> None:
        """Its copy was compared with this one, to the end. If it goes on differing, that is looked into more rarely."""
        if origin in self._apart:
            self._patience[origin] = 2 * self._patience.get(origin, SETTLE_BEATS)

    def left(self, origin: str) -> None:
        """That member is gone, or has no copy any more."""
        for known in (self._differs, self._patience, self._equal):
            known.pop(origin, None)
        for some in (self._apart, self._doubtful, self._met):
            some.discard(origin)

    def meet(self, origin: str) -> None:
        """Its copy is equal to this one, which may have been made of it."""
        self._met.add(origin)

    def met(self, origin: str) -> bool:
        """Whether its copy was equal to this one at some time since this one has what nobody was told of.

        Then it had that as well, and all that has come since are events, which have numbers.
        """
        return origin in self._met

    def untold(self) -> None:
        """This copy has what no event has told of."""
        self._met.clear()

    # -- all together -----------------------------------------------------------------------------

    @property
    def agreed(self) -> bool | None:
        """Whether all copies agree; ``None`` where nothing speaks against it, and not all have been compared."""
        if self.since is not None:
            return True
        return False if self._apart or self._doubtful else None

    def look(self, now: float, *, sure: bool) -> None:
        """To be called once a heartbeat. `sure`: this copy is vouched for, and all others have been heard of."""
        if not sure:
            self._prove_anew()
        elif None not in self._equal.values():
            proofs = [proof for proof in self._equal.values() if proof is not None]
            self.since = now if self.since is None else self.since
            self.proven = max(self.since, min(proofs, default=now))

    def clear(self) -> None:
        """Nothing is held any more that could be compared."""
        self._differs.clear()
        self._apart.clear()
        self._met.clear()
        self._prove_anew()

    def _prove_anew(self) -> None:
        self.since = None
        self._equal = dict.fromkeys(self._equal)
