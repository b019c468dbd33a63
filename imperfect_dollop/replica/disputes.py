"""What stands against what, for each key in doubt; and whose re-read of the source settles it.

A key is in doubt when an event contradicts what is held. Every node that has heard both is in the same doubt, so one
read of the source is enough for all: whoever reads first tells what it found, and *which stamps the read answers*: all
that stood against each other when it began. A stamp is drawn after the source has committed, so the read is later than
every one of them. Where nothing else is known of the key, its word is as good as one's own, and no clock has a part in
that. What is found still has to be told if it is what was held: that is what the others want to know.

An answer is too old for whoever knows of one commit more than it does. So *everything* that is heard of a key in
doubt is remembered, also what changes nothing because its content is held already: between that content and
itself the row may have been another (A, B and A again), and a read from in between must not pass for the last word.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection
from typing import Final, Generic, TypeVar

from .messages import MAX_ANSWERS
from .stamp import Stamp

__all__ = ["MAX_DISPUTES", "Disputes"]

K = TypeVar("K")

MAX_DISPUTED: Final = MAX_ANSWERS - 1
"""Stamps remembered of one key: an answer has room for these and for the one that is held. A key that more writers than
that fight for is read by each node itself."""

MAX_DISPUTES: Final = 10_000
"""Keys. With as many in doubt everything is loaded (`upkeep.MAX_DOUBTS`)."""

MAX_ANSWERED: Final = 10_000
"""Keys of which it is remembered what their last re-read has answered. Of one that is forgotten a late event is in
doubt, as it always was."""

MAX_MERGED: Final = 4 * MAX_ANSWERS
"""Stamps of which it is remembered that what is held is later. With more, a late event is in doubt."""


class _Dispute:
    """`stamps` of events that contradict what is held, or were heard since. `shared`: they are all that is known.

    `told`: every cause is an event, so every member receives the cause. `unsure`: a cause may be a commit without an
    event, or this node read the row that is held and published no event for the read.
    """

    __slots__ = ("joined", "shared", "stamps", "told", "unsure")

    def __init__(self) -> None:
        self.stamps: set[Stamp] = set()
        self.joined: Stamp | None = None  # from some of these
        self.shared: bool = True
        self.told: bool = True
        self.unsure: bool = False


class Disputes(Generic[K]):
    """The keys in doubt. What is held for a key, which any answer must know of too, is given with each call."""

    __slots__ = ("_answered", "_disputes", "_full")

    def __init__(self) -> None:
        self._disputes: dict[K, _Dispute] = {}
        self._answered: OrderedDict[K, tuple[Stamp, Collection[Stamp]]] = OrderedDict()
        self._full = 0  # hybrid time, when a key in doubt was last left out for want of room

    def __contains__(self, key: object) -> bool:
        return key in self._disputes

    def __len__(self) -> int:
        return len(self._disputes)

    # -- causes of doubt -------------------------------------------------------------------------

    def add(self, key: K, stamp: Stamp, time: int) -> None:
        """An event contradicts what is held, at a hybrid time."""
        dispute = self._of(key, time)
        if dispute is not None:
            self._put(dispute, stamp)

    def wrote(self, key: K, stamp: Stamp, time: int) -> None:
        """A write of this node was overtaken by events, of which the last is held and the others are not known."""
        dispute = self._of(key, time)
        if dispute is not None:
            self._put(dispute, stamp)
            dispute.shared = False

    def other(self, key: K, time: int, *, unsure: bool = False) -> None:
        """The cause is none that everybody hears of; `unsure`: a write of this node that may have been done."""
        dispute = self._of(key, time)
        if dispute is not None:
            dispute.shared = dispute.told = False
            dispute.unsure = dispute.unsure or unsure

    def replaced(self, key: K, held: Stamp, time: int) -> bool:
        """A read of this node replaces what was held as `held`, does not end the doubt, and is not told to siblings.

        The read that ends the doubt tells them. False if there is no room to remember that.
        """
        dispute = self._of(key, time)
        if dispute is None:
            return False
        self._put(dispute, held)
        dispute.shared, dispute.unsure = False, True
        return True

    def _of(self, key: K, time: int) -> _Dispute | None:
        dispute = self._disputes.get(key)
        if dispute is None:
            if len(self._disputes) >= MAX_DISPUTES:
                self._full = time
                return None
            dispute = self._disputes[key] = _Dispute()
        return dispute

    def _put(self, dispute: _Dispute, stamp: Stamp) -> None:
        if stamp in dispute.stamps:
            return
        if len(dispute.stamps) < MAX_DISPUTED:
            dispute.stamps.add(stamp)
        else:
            dispute.shared = False

    # -- answers ---------------------------------------------------------------------------------

    def shared(self, key: K) -> bool:
        """Whether a sibling's answer may settle it."""
        dispute = self._disputes.get(key)
        return dispute is not None and dispute.shared and not self._full

    def settles(self, key: K, held: Stamp, answers: Collection[Stamp]) -> bool:
        """Whether a sibling's read is later than everything that is known of the key here."""
        if not self.shared(key):
            return False
        dispute = self._disputes[key]
        # What is held may have been joined here from what is remembered.
        return (held in answers or held == dispute.joined) and dispute.stamps.issubset(answers)

    def answers(self, key: K, held: Stamp) -> tuple[Stamp, ...]:
        """What a read answers that began when all this was known; nothing if others have to ask themselves."""
        dispute = self._disputes.get(key)
        if dispute is None or not dispute.told or not dispute.stamps:
            return ()
        return tuple(sorted({held, *dispute.stamps}, key=_order))

    def unsure(self, key: K) -> bool:
        """Whether what a read finds is to be told in any case: it is all that others hear of a write."""
        dispute = self._disputes.get(key)
        return dispute is not None and dispute.unsure

    def settle(self, key: K) -> None:
        """The source was asked since, or nothing is held that could be wrong."""
        self._disputes.pop(key, None)

    def answered(self, key: K, stamp: Stamp, answers: Collection[Stamp]) -> None:
        """What is held from now on, as `stamp`, was read later than these."""
        dispute = self._disputes.get(key)
        if dispute is not None:
            dispute.stamps.difference_update(answers)  # who knows `stamp` knows of them
        self._note(key, stamp, answers)

    def _note(self, key: K, stamp: Stamp, answers: Collection[Stamp]) -> None:
        self._answered[key] = stamp, answers
        self._answered.move_to_end(key)
        if len(self._answered) > MAX_ANSWERED:
            self._answered.popitem(last=False)

    def merged(
        self, key: K, held: Stamp, stamp: Stamp, answers: Collection[Stamp], both: Stamp
    ) -> None:
        """What is held as `both` from now on is later than what was held, than `stamp`, and than what either answers.

        If the key is in doubt, `both` stands for the two.
        """
        dispute = self._disputes.get(key)
        if dispute is not None:
            self._put(dispute, stamp)
            if held != dispute.joined:
                self._put(dispute, held)
            dispute.joined = both
        known = self._answered.get(key)
        before = known[1] if known is not None and known[0] == held else ()
        later = {held, stamp, *before, *answers}
        if len(later) <= MAX_MERGED:
            self._note(key, both, later)

    def outdated(self, key: K, held: Stamp, stamp: Stamp) -> bool:
        """Whether what is held was read later than this event was written: it was under way for long."""
        known = self._answered.get(key)
        return known is not None and known[0] == held and stamp in known[1]

    # -- all of them -----------------------------------------------------------------------------

    def keys(self) -> list[K]:
        """The keys in doubt, as of now."""
        return list(self._disputes)

    def unsure_keys(self) -> list[K]:
        """Those of which `unsure` is true, as of now."""
        return [key for key, dispute in self._disputes.items() if dispute.unsure]

    def loaded(self, began: int) -> None:
        """Everything was loaded from a hybrid time on, and what that has settled was settled."""
        if self._full < began:
            self._full = 0

    def clear(self) -> None:
        """Nothing is held any more. What writes of this node may have done is still to be looked for."""
        unsure = self.unsure_keys()
        self._disputes.clear()
        self._answered.clear()
        self._full = 0
        for key in unsure:
            self.other(key, 0, unsure=True)


def _order(stamp: Stamp) -> tuple[int, str, int]:
    return stamp.time, stamp.origin, stamp.version
