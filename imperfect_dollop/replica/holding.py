"""What is held, key by key, and how sure that is: rows, when each was proven, and what stands against it.

Whoever changes a key does it here, so that its row, its stamp, its proof and its dispute change together. (A complete
load, and a copy that is taken over, put rows into the table themselves: the one draws a stamp that is
later than every proof, and while cold nothing is proven, nor disputed by events.) Which state is the newer one is not
known here: `rules` says so of events, `loads` of what was read, the replica of its own writes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable
from typing import Final, Generic, TypeVar

from ..codecs import EntityCodec, KeyCodec
from ..errors import InvalidEntityError
from .counts import Counts
from .disputes import Disputes
from .effects import Reread
from .messages import MAX_ENTITY, Event, Kind
from .own_writes import Unshown
from .stamp import MAX_DRIFT, HybridClock, Stamp, at, join
from .table import Table
from .window import Load, Window

__all__ = ["TOMBSTONE_SECONDS", "Holding", "backwards"]

K = TypeVar("K")
V = TypeVar("V")

MAX_PROVEN: Final = 10_000
"""Keys whose re-read is remembered, see `Holding.proven`."""

TOMBSTONE_SECONDS: Final = 600.0
"""How long a deleted key is remembered at least, against events that were under way for long."""


class Holding(Generic[K, V]):
    """What a replica knows of its keys. See `Replica` for the parameters."""

    def __init__(
        self,
        origin: str,
        keys: KeyCodec[K],
        rows: EntityCodec[V],
        *,
        key_of: Callable[[V], K],
        version_of: Callable[[V], int],
        whole: bool,
    ) -> None:
        self.origin = origin
        self.keys = keys
        self.rows = rows
        self.key_of = key_of
        self.version_of = version_of
        self.whole = whole
        self.table: Table[K, V] = Table(keys, rows)
        self.clock: HybridClock = HybridClock()
        self.window: Window = Window()
        self.counts: Counts = Counts()
        self.disputes: Disputes[K] = Disputes()
        self.unshown: Unshown[K] = Unshown()
        self.confirmed: int = 0  # when the last complete load began
        self._confirmed_until = 0  # and by when it had been answered
        # When the last complete load of this node was answered, if rows were held before.
        self.refreshed: int = 0
        # When the read of a key began, and was answered, that has found the same.
        self._proven: OrderedDict[K, tuple[int, int]] = OrderedDict()
        # Of a key that is not remembered, assume that it was proven as late as that.
        self._proven_before = 0, 0

    # -- what is held ----------------------------------------------------------------------------

    def hold(self, key: K, entity: V | None, stamp: Stamp, content: bytes | None = None) -> None:
        """This state, from now on; ``None``: the key is absent. The canonical bytes of the row may be known."""
        if entity is None:
            self.table.bury(key, stamp)
        else:
            self.table.put(key, entity, stamp, content)
        self._proven.pop(key, None)

    def quarantine(self, key: K, stamp: Stamp, fault: str) -> None:
        """The source has a row that cannot be held, from now on; `fault` says why."""
        self.table.quarantine(key, stamp, fault)
        self._proven.pop(key, None)

    def admit(self, key: K, entity: V | None, stamp: Stamp) -> bool:
        """Hold what has come from outside; False if it can be read from bytes, and has none of its own."""
        try:
            self.hold(key, entity, stamp)
        except InvalidEntityError:
            self.counts.rejections["malformed"] += 1
            return False
        return True

    def restore(self, key: K, entity: V) -> bool:
        """Hold an object of the same content, should the one held have been changed in place; whether it was."""
        if self.table.intact(key):
            return False
        self.table.put(key, entity, self.table.stamp(key))
        return True

    def confirm(self, key: K, entity: V | None, stamp: Stamp) -> None:
        """The same content, by another stamp."""
        if entity is None:
            self.table.bury(key, stamp)
        elif self.table.intact(key):
            self.table.restamp(key, stamp)
        else:
            self.table.put(key, entity, stamp)
        self._proven.pop(key, None)

    def merge(
        self,
        key: K,
        entity: V | None,
        held: Stamp,
        stamp: Stamp,
        answers: tuple[Stamp, ...] = (),
        *,
        later: bool = False,
    ) -> None:
        """What is held is said once more, by somebody who has not built on it.

        It may be so at different times here and there, with another state in between: what was built on either of the
        two must not look clean. `later`: unless it `answers` what is held, and so comes behind it.
        """
        both = stamp if later and held in answers else join(held, stamp)
        self.confirm(key, entity, both)
        self.disputes.merged(key, held, stamp, answers, both)

    def forget(self, key: K) -> None:
        """Hold nothing for the key, nor anything against it."""
        self.table.forget(key)
        self.disputes.settle(key)
        self.unshown.drop(key)
        self._proven.pop(key, None)

    def clear(self) -> None:
        """Hold nothing at all. No load that is open counts any more; what writes may have done stays in dispute."""
        self.table.clear()
        self.window.touch_all()
        self.disputes.clear()
        self.unshown.clear()
        self._proven.clear()
        self._proven_before = 0, 0
        self.confirmed = self._confirmed_until = self.refreshed = 0

    def overtaken(self, load: Load, key: K, entity: V | None, fault: str | None) -> None:
        """A read that events have overtaken: hold what it found if a write of this node waits for that (`Unshown`).

        What is held was committed before the read began, so this is at least as new. The events are still to be
        looked into, so the key stays in doubt. `fault` says why the row that was found cannot be held.
        """
        if not self.unshown.shows(key, load.began):
            return
        held = self.table.stamp(key)
        bad = fault is not None or key in self.table.quarantined
        if not bad and self.table.same(key, entity):
            if entity is not None:
                self.restore(key, entity)
        elif self.disputes.replaced(key, held, self.clock.time):
            version = held.version if entity is None else self.version_of(entity)
            stamp = Stamp(version, load.began, self.origin)
            if fault is None:
                self.hold(key, entity, stamp)
            else:
                self.quarantine(key, stamp, fault)
        else:
            return  # no room to remember that siblings are still to be told
        self.window.touch(key)
        self.unshown.read(key, load.began, self.clock.time)

    # -- since when ------------------------------------------------------------------------------

    def prove(self, key: K, load: Load) -> None:
        """The source has what is held: `load` has found it."""
        self._proven[key] = load.began, load.answered
        self._proven.move_to_end(key)
        if len(self._proven) > MAX_PROVEN:
            _, oldest = self._proven.popitem(last=False)
            before = self._proven_before
            self._proven_before = max(before[0], oldest[0]), max(before[1], oldest[1])

    def still_absent(self, key: K, load: Load) -> None:
        """The source has no such row, as was known: a tombstone of our own, which nobody else has built on."""
        version = self.table.stamp(key).version
        self.table.bury(key, Stamp(version, load.began, self.origin))

    def prove_all(self, began: int, answered: int) -> None:
        """A complete load, here or elsewhere, that began at a hybrid time, was answered at another."""
        self.confirmed = max(self.confirmed, began)
        self._confirmed_until = max(self._confirmed_until, answered)

    def proven(self, key: K) -> int:
        """The latest hybrid time by which what is held had been read again, and was the same; 0 for never.

        What was committed before that may have been, and be no more, when it was read.
        """
        return max(
            self._proven.get(key, self._proven_before)[1], self.confirmed, self._confirmed_until
        )

    def known_since(self, key: K) -> int:
        """The latest hybrid time at which the source was known to have what is held; 0 for never."""
        began, _ = self._proven.get(key, self._proven_before)
        return max(self.table.stamp(key).time, began, self.confirmed)

    def remembered(self, now: float) -> int:
        """The hybrid time since when deleted keys are remembered for sure, whatever the clocks of their writers."""
        latest = max(self.clock.time, at(now)) - at(TOMBSTONE_SECONDS - MAX_DRIFT)
        return max(latest, self.table.forgotten)

    def sweep(self, now: float, horizon: int) -> int:
        """Forget the tombstones that are old enough, and from before `horizon`; how many went."""
        return self.table.expire_tombstones(min(at(now - TOMBSTONE_SECONDS), horizon))

    # -- what speaks against it ------------------------------------------------------------------

    def contradicted(self, key: K, stamp: Stamp) -> Reread:
        """Doubt that everybody is in who hears the same events."""
        self.disputes.add(key, stamp, self.clock.time)
        return self.in_doubt(key)

    def doubt(self, key: K) -> Reread:
        """Doubt of this node."""
        self.disputes.other(key, self.clock.time)
        return self.in_doubt(key)

    def disbelieve(self, load: Load, key: K) -> None:
        """Doubt of what a complete load says of a key."""
        self.disputes.other(key, self.clock.time)
        load.doubtful.append(key)

    def in_doubt(self, key: K) -> Reread:
        """Count it, and have the key read again."""
        self.counts.doubts += 1
        return Reread((key,))

    # -- what is told of it ----------------------------------------------------------------------

    def event(
        self,
        kind: Kind,
        key: K,
        entity: V | None,
        stamp: Stamp,
        base: Stamp,
        answers: tuple[Stamp, ...] = (),
        content: bytes | None = None,
    ) -> Event:
        """The event that says so; of what is too large to send, that it is to be read.

        The canonical bytes of the row may be known.
        """
        if entity is not None and content is None:
            content = self.rows.encode(entity)
        if content is not None and len(content) > MAX_ENTITY:
            return Event(Kind.REREAD, self.keys.encode(key), None, stamp, base)
        return Event(kind, self.keys.encode(key), content, stamp, base, answers)


def backwards(current: object, entity: object, held: Stamp, stamp: Stamp) -> bool:
    """Whether a row would follow on one of a later version; only one that is created again starts over."""
    return current is not None and entity is not None and stamp.version < held.version
