"""What becomes of rows that were read: from the source, or from a sibling's copy.

They may be older than what events have brought meanwhile, which stands (see `window`). And the source's word is told to
the siblings where it differs from what was held, or where they are in the same doubt.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Final, Generic, TypeVar

from .effects import Effect
from .holding import Holding, backwards
from .messages import Event, Kind
from .stamp import ABSENT, Stamp
from .window import Load

__all__ = ["Loads"]

K = TypeVar("K")
V = TypeVar("V")

SLICE: Final = 500
"""Rows taken over in one go; between two slices the event loop gets its turn."""


class Loads(Generic[K, V]):
    """Takes over what was read into what is held."""

    def __init__(self, holding: Holding[K, V]) -> None:
        self._holding = holding

    def loaded(
        self, load: Load, key: K, entity: V | None, fault: str | None = None
    ) -> tuple[bool, Event | None]:
        """The source has (or has not) this row. False if events have overtaken the load: the key is still in doubt.

        `fault` says why the row that the source has cannot be held: the key is quarantined. Siblings find that out for
        themselves, for they may run another version of the class; the event asks them to read the row.

        The event says what was found, where that differs from what was held. A row that is still the same keeps
        its stamp - a new one would make every sibling's next event look doubtful - but that it was proven is
        remembered: an older event built on that stamp is no clean successor of it any more. That a row is absent does
        get a new stamp: one can come and go while it is read, and what says that it has come may be under way still,
        with a time by another clock.

        Where events have contradicted what was held, siblings are in the same doubt: they are told in any case, and
        all have the same stamp afterwards. What this read answers was known when it began, or it would not count. In
        any case, too, they are told after a write of this node that may have been done: nothing else tells of it.
        """
        holding = self._holding
        disputes, table = holding.disputes, holding.table
        if not holding.window.untouched(key, load):
            holding.overtaken(load, key, entity, fault)
            return False, None
        holding.window.touch(key)
        holding.unshown.read(key, load.began, holding.clock.time)
        held = table.stamp(key)
        answers, unsure = disputes.answers(key, held), disputes.unsure(key)
        disputes.settle(key)
        if fault is not None:
            event = self._quarantined(load, key, fault, tell=unsure)
            return True, event
        same = table.same(key, entity)
        if same and (answers or unsure):
            event = self._found(load, key, entity, held, answers)
            # Of what is too large to send all would read it, and tell that they have.
            if unsure or event.kind is Kind.FOUND:
                holding.confirm(key, entity, event.stamp)
                return True, event
        if same:
            if entity is not None:
                holding.restore(key, entity)
            else:
                holding.still_absent(key, load)
                return True, None
            holding.prove(key, load)
            return True, None
        event = self._found(load, key, entity, held, answers)
        holding.hold(key, entity, event.stamp)
        return True, event

    def _quarantined(self, load: Load, key: K, fault: str, *, tell: bool = False) -> Event | None:
        """Quarantine a key. Returns the event that asks siblings to read the row, if new, or if `tell` is set."""
        holding = self._holding
        table, held = holding.table, holding.table.stamp(key)
        new = tell or key not in table.quarantined
        stamp = Stamp(held.version, load.began, holding.origin)
        holding.quarantine(key, stamp, fault)
        return Event(Kind.REREAD, holding.keys.encode(key), None, stamp, held) if new else None

    def replace(
        self,
        load: Load,
        rows: Mapping[K, V],
        faults: Mapping[K | None, str],
        *,
        tell: bool,
        cold: bool,
    ) -> Iterator[list[Event]]:
        """Take over a complete load, a slice at a time; yields the differences of each slice to `tell`.

        Keys that were touched meanwhile keep what is held; those that differ are `load.doubtful` afterwards. Of those
        that were in doubt before, it is told what was found in any case, as by `loaded`. Rows that are the same, and
        were changed in place, are put right (`load.altered`), of which siblings need not be told. `faults` has the keys
        of rows that cannot be held, each with the reason, and under ``None`` what is wrong with rows without a key.
        `cold`: nothing was held before.
        """
        holding = self._holding
        version_of, table, untouched = holding.version_of, holding.table, holding.window.untouched
        found: list[Event] = []
        stamps: dict[int, Stamp] = {}  # by version: most rows of a load can share one
        holding.window.overtake(load)
        suspect = dict.fromkeys([*holding.disputes.keys(), *holding.unshown.keys()])
        for count, key in enumerate(suspect, 1):
            counts, event = self.loaded(load, key, rows.get(key), faults.get(key))
            if not counts:
                load.doubtful.append(key)  # also if it is the same: it is still in doubt
            if event is not None and tell:
                found.append(event)
            if count % SLICE == 0:
                yield found
                found = []
        for count, (key, entity) in enumerate(rows.items(), 1):
            if untouched(key, load):
                if key in table.live and table.same(key, entity):
                    if holding.restore(key, entity):
                        load.altered.append(key)
                else:
                    version = version_of(entity)
                    stamp = stamps.get(version)
                    if stamp is None:
                        stamp = stamps[version] = Stamp(version, load.began, holding.origin)
                    if tell:
                        found.append(
                            holding.event(Kind.FOUND, key, entity, stamp, table.stamp(key))
                        )
                    table.put(key, entity, stamp)
            elif not table.same(key, entity):
                holding.disbelieve(load, key)
                if cold and table.stamp(key) is ABSENT and not holding.window.overrun(load):
                    # Perhaps not the latest, but better than to answer "absent" until that is known.
                    table.put(key, entity, Stamp(version_of(entity), load.began, holding.origin))
            if count % SLICE == 0:
                yield found
                found = []
        for count, (bad, fault) in enumerate(faults.items(), 1):
            if bad is None:
                table.quarantined[None] = fault
            elif untouched(bad, load):
                event = self._quarantined(load, bad, fault)
                if event is not None and tell:
                    found.append(event)
            elif bad in table.live:
                holding.disbelieve(load, bad)
            if count % SLICE == 0:
                yield found
                found = []
        for count, key in enumerate(table.known(), 1):
            if key not in rows and key not in faults:
                if not untouched(key, load):
                    if key in table.live:
                        holding.disbelieve(load, key)
                elif key in table.live:
                    held = table.stamp(key)
                    stamp = Stamp(held.version, load.began, holding.origin)
                    if tell:
                        found.append(holding.event(Kind.FOUND, key, None, stamp, held))
                    table.bury(key, stamp)
                elif key in table.dead:  # and not forgotten since it was listed
                    holding.still_absent(key, load)
            if count % SLICE == 0:
                yield found
                found = []
        yield found
        if not holding.window.overrun(load):
            for healed in [key for key in table.quarantined if key not in faults]:
                if healed is None or untouched(healed, load):
                    table.release(healed)
            holding.disputes.loaded(load.began)
            holding.prove_all(load.began, load.answered)
            if not cold:
                holding.refreshed = load.answered

    def compare(
        self, load: Load, found: Iterable[tuple[K, V | None, Stamp | None]]
    ) -> list[Effect]:
        """A sibling's copy, asked for when `load` began, had these rows, or had none under these keys.

        A stamp is that of the row, where the sibling knew as much as this node then. If it is later
        than what is held is known to be true, the row is taken over. Otherwise nobody knows which is the newer one.
        """
        holding = self._holding
        table, window = holding.table, holding.window
        # Asked of all before the first is taken over: that touches its key, and so many would overrun the load.
        counting = [each for each in found if window.untouched(each[0], load)]
        effects: list[Effect] = []
        for key, entity, stamp in counting:
            if table.same(key, entity):
                continue  # no difference is left
            current, held = table.live.get(key), table.stamp(key)
            newer = (
                stamp is not None
                and stamp.time > holding.known_since(key)
                and key not in holding.unshown
            )
            if stamp is None or not newer or backwards(current, entity, held, stamp):
                effects.append(holding.doubt(key))
                continue
            window.touch(key)
            if holding.admit(key, entity, stamp):
                holding.counts.mended += 1
            else:
                effects.append(holding.doubt(key))
        return effects

    def _found(
        self, load: Load, key: K, entity: V | None, held: Stamp, answers: tuple[Stamp, ...]
    ) -> Event:
        holding = self._holding
        version = held.version if entity is None else holding.version_of(entity)
        stamp = Stamp(version, load.began, holding.origin)
        return holding.event(Kind.FOUND, key, entity, stamp, held, answers)
