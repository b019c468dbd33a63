"""One node's copy of one repository: the rules.

The source is the truth. Events only order what is in flight, and where the order is in doubt, the key is
read again from the source. What is held for a key has a stamp; an event brings its own stamp and its
*base*, the stamp that its writer held when the write began.

======================================================  ==========================================
event                                                   what becomes of it
======================================================  ==========================================
number already seen, or stamp is what is held           ignored (a duplicate)
base is what is held                                    applied (a clean successor)
base differs, content is the same                       held as before; both stamps are joined to another
base differs, content differs                           ignored, doubt
base is what is held, but it was written before that    as if the base differed
was last read again, or updates to an older version,
or nothing is held, and it is older than tombstones
time beyond the drift bound, or content unreadable      ignored, doubt
the content is not in the event (REREAD)                doubt
in doubt, and a sibling's re-read answers all of it     what it found is held, and the doubt is over
written before a re-read whose answer is held           ignored
answer of a re-read, of another shape                   ignored: what it answers was heard here too
key unreadable                                          the whole copy is in doubt: resync
a number was skipped before it                          taken in; what is missing is asked for
the key is not held, in a replica that is not whole     ignored; a remembered miss is forgotten
FORGET, CLEAR, CONFIRM                                  drop the key; everything; take note of a load
======================================================  ==========================================

*Doubt* is the effect `Reread`, or `Settled` when it is over (see `disputes` for whose answer counts); doubt of the
whole is `Resync`. No guess is made from versions or times in between:
clocks differ, and a row that is created again begins with its first version. What is held was true
once, so it stands until the source has been asked.

While cold a replica buffers events: the rows that they refer to are not there yet. `Replica.go_cold` begins that,
`Replica.go_warm` ends it and plays back what the load or snapshot cannot contain.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import Final, Generic, TypeAlias, TypeVar

import msgspec

from ..codecs import EntityCodec, KeyCodec
from ..errors import ProtocolError
from .agreement import Agreement
from .buffer import Buffer, split
from .counts import Counts
from .disputes import Disputes
from .messages import (
    FOR_ALL,
    MAX_ENTITY,
    WITHOUT_CONTENT,
    WRITTEN,
    Event,
    Events,
    Kind,
    Phase,
    RepositoryState,
)
from .progress import Progress
from .stamp import ABSENT, MAX_DRIFT, HybridClock, Stamp, at, join, seconds
from .table import Table
from .window import Load, Window

__all__ = [
    "Cleared",
    "Compare",
    "Effect",
    "Replica",
    "Reread",
    "Resend",
    "Resync",
    "Settled",
    "Write",
]

K = TypeVar("K")
V = TypeVar("V")

SLICE: Final = 500
"""Rows taken over in one go; between two slices the event loop gets its turn."""

MAX_PROVEN: Final = 10_000
"""Keys whose re-read is remembered, see `Replica.loaded`."""

TOMBSTONE_SECONDS: Final = 600.0
"""How long a deleted key is remembered at least, against events that were under way for long."""

LAST_NUMBER: Final = 2**63 - 1


class Reread(msgspec.Struct, frozen=True):
    """These keys are in doubt: read them again from the source."""

    keys: tuple[object, ...]


class Settled(msgspec.Struct, frozen=True):
    """These keys are no longer in doubt: a sibling has read them again."""

    keys: tuple[object, ...]


class Resend(msgspec.Struct, frozen=True):
    """These events of an origin have not come: ask it for them."""

    origin: str
    first: int
    last: int


class Compare(msgspec.Struct, frozen=True):
    """A sibling's copy differs, and nothing is missing in either: find out in which rows, and read those again."""

    origin: str
    reason: str


class Resync(msgspec.Struct, frozen=True):
    """Something is missing and nobody knows what: compare everything, with a sibling or the source."""

    reason: str


class Cleared(msgspec.Struct, frozen=True):
    """A node has told all to drop what they hold; the replica is empty and cold now."""


Effect: TypeAlias = Reread | Settled | Resend | Compare | Resync | Cleared


class Write:
    """A write that has begun: what was held for its key then (``None``: the source makes the key)."""

    __slots__ = ("base", "load")

    def __init__(self, base: Stamp | None, load: Load) -> None:
        self.base: Stamp | None = base
        self.load: Load = load


def _nothing_covered(key: bytes, origin: str, number: int) -> bool:
    return False


class Replica(Generic[K, V]):
    """The state machine. `now` is the wall clock in seconds wherever it is asked for.

    Parameters
    ----------
    origin:
        id of this run of the node, never used before.
    key_of, version_of:
        read an entity's key and version; `version_of` returns 0 where there are none.
    whole:
        whether every row is held, or only those that were asked for.
    """

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
        self.progress: Progress = Progress()
        self.agreement: Agreement = Agreement()
        self.disputes: Disputes[K] = Disputes()
        self.sequence: int = 0  # the last event of our own that was given a number
        self.confirmed: int = 0  # when the last complete load began
        self._proven: OrderedDict[K, int] = (
            OrderedDict()
        )  # when a key was read again, and found the same
        self.written: int = 0  # writes of this node that were committed
        self.resets: int = 0  # times that everything was dropped
        self.dropped: int = (
            0  # hybrid time, when rows were last dropped that had been there to be read
        )
        self._proven_before = 0
        self._buffer: Buffer | None = None  # while cold

    # -- writes of this node ---------------------------------------------------------------------

    def begin_write(self, key: K | None) -> Write:
        """Before the source is called: a rival's event may be applied while it is."""
        return Write(
            None if key is None else self.table.stamp(key), self.window.open(self.clock.time)
        )

    def end_write(self, write: Write) -> None:
        """Whatever came of it."""
        self.window.close(write.load)

    def wrote(
        self, write: Write, kind: Kind, key: K, entity: V | None, now: float
    ) -> tuple[Event, list[Effect]]:
        """The source has committed; show it here, and make the event for the siblings."""
        self.written += 1
        held = self.table.stamp(key)
        base = write.base
        if base is None:  # only now is the key known
            base = held if self.window.untouched(key, write.load) else ABSENT
        version = base.version if entity is None else self.version_of(entity)
        stamp = Stamp(version, self.clock.tick(now), self.origin)
        event = self._event(kind, key, entity, stamp, base)
        # An event that came in between need not have left a stamp: its content was held, or it was in doubt itself.
        untouched = self.window.untouched(key, write.load)
        self.window.touch(key)
        if base == held and untouched:
            self._hold(key, entity, stamp)
            return event, []
        if self.table.same(key, entity):
            self._merge(key, entity, held, stamp)
            return event, []
        # A rival's event came in between, and whose write the source took first is not known: versions do not tell,
        # since those of a row that is created again start over. What is shown stays until the source was asked,
        # which the writer waits for.
        self.disputes.wrote(key, stamp, self.clock.time)
        return event, [self._in_doubt(key)]

    def unsure(self, key: K) -> list[Effect]:
        """A write has failed, and whether the source has it is not known: loads begun before do not tell."""
        self.window.touch(key)
        self.disputes.other(key, self.clock.time, unsure=True)
        return [self._in_doubt(key)]

    def refused(self, key: K) -> list[Effect]:
        """The source has not done a write, since the row is not what it was taken for."""
        self.window.touch(key)
        return [self._doubt(key)]

    def unsettled(self, key: K) -> None:
        """What the source has is not known, whatever siblings say that they have found."""
        self.disputes.other(key, self.clock.time)

    def announce(self, kind: Kind, key: K | None, now: float, time: int | None = None) -> Event:
        """An event without content, of now or of a hybrid `time`.

        For `Kind.REREAD`, `Kind.FORGET`, `Kind.CLEAR` and `Kind.CONFIRM`.
        """
        stamp = Stamp(0, self.clock.tick(now) if time is None else time, self.origin)
        key_bytes = b"" if key is None else self.keys.encode(key)
        return Event(kind, key_bytes, None, stamp, ABSENT)

    def pack(self, repository: str, events: list[Event]) -> Events:
        """Number events for sending."""
        first = self.sequence + 1
        self.sequence += len(events)
        return Events(self.origin, repository, self.rows.fingerprint, first, events)

    def skip(self, count: int) -> None:
        """Events that were never sent: use up their numbers, so that siblings notice."""
        self.sequence += count

    @property
    def vector(self) -> dict[str, int]:
        """How far everybody's events are contained in what is held, own ones that have a number included."""
        return {**self.progress.vector, self.origin: self.sequence}

    # -- loads -----------------------------------------------------------------------------------

    def begin_load(self, now: float) -> Load:
        """Before the source is read. End with `end_load`, whatever comes of it."""
        return self.window.open(self.clock.tick(now))

    def end_load(self, load: Load) -> None:
        """The load's word no longer counts."""
        self.window.close(load)

    def loaded(self, load: Load, key: K, entity: V | None) -> tuple[bool, Event | None]:
        """The source has (or has not) this row. False if events have overtaken the load.

        The event says what was found, where that differs from what was held. What is still the same keeps
        its stamp - a new one would make every sibling's next event look doubtful - but that it was proven is
        remembered: an older event built on that stamp is no clean successor of it any more, for the row may have become
        something else, or have come and gone, in between.

        So does whatever events have contradicted: siblings are in the same doubt, so they are told in any case, and
        all have the same stamp afterwards. What this read answers was known when it began, or it would not count. And
        so does what a write of this node has made of the row that may have been done: nothing else tells of it.
        """
        if not self.window.untouched(key, load):
            return False, None
        self.window.touch(key)
        held = self.table.stamp(key)
        answers, unsure = self.disputes.answers(key, held), self.disputes.unsure(key)
        self.disputes.settle(key)
        same = self.table.same(key, entity)
        if same and (answers or unsure):
            event = self._found(load, key, entity, held, answers)
            # Of what is too large to send all would read it, and tell that they have.
            if unsure or event.kind is Kind.FOUND:
                self._confirm(key, entity, event.stamp)
                return True, event
        if same:
            if entity is not None:
                self._restore(key, entity)
            elif held is ABSENT and not self.whole:
                self.table.bury(key, Stamp(0, load.began, self.origin))  # a miss is remembered
            self._proven[key] = load.began
            self._proven.move_to_end(key)
            if len(self._proven) > MAX_PROVEN:
                # Of a key that is not remembered, assume that it was proven as late as that.
                _, time = self._proven.popitem(last=False)
                self._proven_before = max(self._proven_before, time)
            return True, None
        event = self._found(load, key, entity, held, answers)
        self._hold(key, entity, event.stamp)
        return True, event

    def replace(
        self, load: Load, rows: Mapping[K, V], *, tell: bool = True
    ) -> Iterator[list[Event]]:
        """Take over a complete load, a slice at a time; yields the differences of each slice to `tell`.

        Keys that were touched meanwhile keep what is held; those that differ are `load.doubtful` afterwards. Of those
        that were in doubt before, it is told what was found in any case, as by `loaded`. Rows that are the same, and
        were changed in place, are put right (`load.altered`), of which siblings need not be told.
        """
        version_of, table, untouched = self.version_of, self.table, self.window.untouched
        found: list[Event] = []
        self.window.overtake(load)
        for count, key in enumerate(self.disputes.keys(), 1):
            _, event = self.loaded(load, key, rows.get(key))
            if event is not None and tell:
                found.append(event)
            if count % SLICE == 0:
                yield found
                found = []
        for count, (key, entity) in enumerate(rows.items(), 1):
            if untouched(key, load):
                held = table.stamps.get(key)
                if held is not None and table.same(key, entity):
                    if self._restore(key, entity):
                        load.altered.append(key)
                else:
                    stamp = Stamp(version_of(entity), load.began, self.origin)
                    if tell:
                        found.append(self._event(Kind.FOUND, key, entity, stamp, table.stamp(key)))
                    table.put(key, entity, stamp)
            elif not table.same(key, entity):
                self._doubtful(load, key)
                if self.cold and table.stamp(key) is ABSENT and not self.window.overrun(load):
                    # Perhaps not the latest, but better than to answer "absent" until that is known.
                    table.put(key, entity, Stamp(version_of(entity), load.began, self.origin))
            if count % SLICE == 0:
                yield found
                found = []
        for count, key in enumerate([key for key in table.live if key not in rows], 1):
            if key in table.live and not untouched(key, load):
                self._doubtful(load, key)
            elif key in table.live:
                held = table.stamp(key)
                stamp = Stamp(held.version, load.began, self.origin)
                if tell:
                    found.append(self._event(Kind.FOUND, key, None, stamp, held))
                table.bury(key, stamp)
            if count % SLICE == 0:
                yield found
                found = []
        yield found
        if not self.window.overrun(load):
            self.disputes.loaded(load.began)
            self.confirmed = max(self.confirmed, load.began)

    def compare(self, load: Load, key: K, entity: V | None, stamp: Stamp | None) -> list[Effect]:
        """A sibling's copy, asked for when `load` began, had this row, or had none.

        `stamp` is that of the row, where the sibling knew as much as this node then. If it is later
        than what is held is known to be true, the row is taken over. Otherwise nobody knows which is the newer one.
        """
        current = self.table.live.get(key)
        if not self.window.untouched(key, load) or self.table.same(key, entity):
            return []  # news came meanwhile, or no difference is left
        newer = stamp is not None and stamp.time > self.known_since(key)
        if stamp is None or not newer or _backwards(current, entity, self.table.stamp(key), stamp):
            return [self._doubt(key)]
        self.window.touch(key)
        self._hold(key, entity, stamp)
        self.counts.mended += 1
        return []

    def contains(self, load: Load, vector: Mapping[str, int]) -> list[Effect]:
        """What is held was compared, since `load` began, with what contains everything up to these numbers.

        Of what has not arrived here, nobody knows whether it comes before or after what has touched its key meanwhile.
        """
        vector = {origin: number for origin, number in vector.items() if origin != self.origin}
        if not self.progress.lacks(vector):
            return []
        self.progress.contains(vector)
        return [self._doubt(key) for key in self.window.since(load)]

    def known_since(self, key: K) -> int:
        """The latest hybrid time at which the source was known to have what is held; 0 for never."""
        return max(self.table.stamp(key).time, self._proven_at(key))

    def cleared(self) -> list[Effect]:
        """Drop everything: this node, or a sibling, has said so."""
        if self.whole:
            self.dropped = max(self.dropped, self.clock.time, self.confirmed)
            self.go_cold()
        else:
            self.window.touch_all()
            self.table.clear()
            self.disputes.clear()
        return [Cleared()]

    def forget(self, key: K) -> None:
        """Drop a key from memory (on demand). Loads of it that are open no longer count."""
        self.window.touch(key)
        self._forget(key)
        self._proven.pop(key, None)

    # -- cold and warm ---------------------------------------------------------------------------

    @property
    def cold(self) -> bool:
        """Whether events are buffered because the rows are not there yet."""
        return self._buffer is not None

    def go_cold(self) -> None:
        """Hold nothing, and buffer events from now on."""
        self.table.clear()
        self.window.touch_all()
        self.resets += 1
        self._proven.clear()
        self._proven_before = 0
        self.agreement.clear()
        self.disputes.clear()
        self.progress.clear()
        self.confirmed = 0
        self._buffer = Buffer()

    def begin_cold_load(self, now: float) -> Load:
        """What was buffered so far has been committed, so the source's answer will contain it."""
        for origin, number in self._buffer.tail.items() if self._buffer is not None else ():
            self._saw(origin, number)
        self._buffer = Buffer()
        self.disputes.clear()  # of an attempt that came to nothing
        return self.begin_load(now)

    def begin_snapshot(self) -> None:
        """Before a donor is asked. Should events have been dropped, the donor has got them."""
        self.disputes.clear()
        if self._buffer is not None and self._buffer.lost:
            self._buffer = Buffer()

    def reached(self, vector: Mapping[str, int]) -> bool:
        """Whether the buffer goes as far as `vector`."""
        tail = {} if self._buffer is None else self._buffer.tail
        return all(
            max(self.progress.last(origin), tail.get(origin, 0)) >= number
            for origin, number in vector.items()
            if origin != self.origin
        )

    def replay(
        self,
        now: float,
        *,
        until: Mapping[str, int] | None = None,
        covered: Callable[[bytes, str, int], bool] = _nothing_covered,
    ) -> list[Effect]:
        """Play back what was buffered: of each origin no further than `until`, where that is given.

        `covered(key, origin, number)` says which events the rows contain already.
        """
        effects: list[Effect] = []
        buffer = self._buffer
        if buffer is None:
            return effects
        buffered, buffer.events = buffer.events, []
        for events in buffered:
            before, after = split(events, until)
            if before is not None:
                effects += self._take(before, now, covered)
                if any(isinstance(effect, Cleared) for effect in effects):
                    break
            if after is not None:
                buffer.events.append(after)
        return effects

    def go_warm(self) -> list[Effect]:
        """The rows are there and the buffer was played back."""
        lost = self._buffer is not None and self._buffer.lost
        self._buffer = None
        return [self.gap("events were lost while starting")] if lost else []

    # -- what siblings say -----------------------------------------------------------------------

    def receive(self, events: Events, now: float) -> list[Effect]:
        """Events of a sibling (or our own echo, which is ignored)."""
        if events.origin == self.origin:
            return []
        if events.first + len(events.events) > LAST_NUMBER:
            self.counts.rejections["numbers"] += 1
            return self.lost(f"impossible numbers from {events.origin}")
        if self._buffer is None:
            return self._take(events, now)
        # Whatever came before the first that we see of an origin came before we listened.
        if events.origin not in self.progress.vector:
            self._saw(events.origin, events.first - 1)
        self._buffer.add(events)
        return []

    def lost(self, reason: str) -> list[Effect]:
        """The broker cannot vouch for what was delivered."""
        if self._buffer is not None:
            self._buffer.lost = True
            return []
        return [self.gap(reason)]

    def heard(
        self,
        origin: str,
        peer: RepositoryState,
        members: Collection[str],
        *,
        clean: bool = True,
        moment: float = 0.0,
        timely: bool = True,
    ) -> list[Effect]:
        """A sibling's heartbeat. It comes after the sibling's events, so a number beyond ours is a loss.

        `clean`: whether nothing is known to be wrong with this copy either. `moment`: now, in monotonic seconds.
        `timely`: heartbeats that come quickly one after another, as when many nodes start, are not counted where
        something is given time.
        """
        holds = (
            self.whole
            and origin in members  # else nobody would say that it has left
            and peer.whole
            and peer.phase in (Phase.READY, Phase.REFRESHING)
        )
        if holds:
            self.agreement.holds(origin, clean=peer.clean)
        else:
            self.agreement.left(origin)
        progress, last = self.progress, self.progress.last(origin)
        if self._buffer is not None:
            if origin not in progress.vector:
                self._saw(origin, peer.sequence)
            elif peer.sequence > max(last, self._buffer.tail.get(origin, 0)):
                self._buffer.lost = True
            return []
        if peer.sequence < last:
            progress.back_to(origin, peer.sequence)
            return [self.gap(f"{origin} has sent less than was seen of it")]
        effects: list[Effect] = []
        if peer.sequence > last:
            known = not self._empty() or origin in progress.vector
            self._saw(origin, peer.sequence)
            if known:
                effects += self._miss(origin, last + 1, peer.sequence)
        again, lost = progress.overdue(origin, peer.kept, timely=timely)
        if lost:
            return [self.gap(f"{origin} cannot send again what did not arrive of it")]
        effects += [Resend(origin, first, last) for first, last in again]
        comparable = (
            holds
            and clean
            and progress.complete
            and peer.clean
            and peer.phase is Phase.READY
            and peer.fingerprint == self.rows.fingerprint
            and peer.progress == progress.hash(members, self.origin, self.sequence)
        )
        if not comparable:
            self.agreement.unknown(origin)
        elif peer.digest == self.table.root:
            self.agreement.same(origin, moment)
        elif timely and self.agreement.differs(origin):
            effects.append(Compare(origin, f"digest differs from {origin}'s"))
        return effects

    def left(self, origin: str) -> None:
        """A member is gone."""
        self.agreement.left(origin)

    def looked_around(self, members: Collection[str]) -> list[Effect]:
        """These are there, once a heartbeat. Who is not, will not send again what is missing of it."""
        gone = [origin for origin in self.progress.awaited if origin not in members]
        for origin in gone:
            self.progress.give_up(origin)
        return [self.gap(f"{origin} is gone, and some of it did not arrive") for origin in gone]

    def sweep(self, now: float, horizon: int, members: Collection[str] = ()) -> int:
        """Forget old tombstones that every live node has seen: those before `horizon`, by hybrid time.

        And how far nodes were taken in that are no `members` any more. To be called now and then.
        """
        self.progress.sweep(members)
        return self.table.expire_tombstones(min(at(now - TOMBSTONE_SECONDS), horizon))

    # -- the rules -------------------------------------------------------------------------------

    def _take(
        self,
        events: Events,
        now: float,
        covered: Callable[[bytes, str, int], bool] = _nothing_covered,
    ) -> list[Effect]:
        origin, first = events.origin, events.first
        progress, last = self.progress, self.progress.last(events.origin)
        effects: list[Effect] = []
        if first > last + 1 and (not self._empty() or origin in progress.vector):
            effects += self._miss(origin, last + 1, first - 1)
        for number, event in enumerate(events.events, first):
            if not progress.news(origin, number):
                self.counts.duplicates += 1
            elif event.kind in FOR_ALL or not covered(event.key, origin, number):
                self._apply(event, events.fingerprint, now, effects)
                if event.kind is Kind.CLEAR and self.whole:
                    break  # cold now, and what comes after it will be in the next load
        if not progress.took(origin, first, first + len(events.events) - 1):
            self._forgot()
        return effects

    def _apply(self, event: Event, fingerprint: str, now: float, effects: list[Effect]) -> None:
        if event.kind is Kind.CLEAR:
            if event.stamp.time < self.confirmed:
                self.counts.duplicates += 1  # sent again: everything was loaded since
                return
            self.clock.observe(event.stamp.time, now)
            effects += self.cleared()
            return
        if event.kind is Kind.CONFIRM:
            if fingerprint == self.rows.fingerprint and self.clock.observe(event.stamp.time, now):
                self.confirmed = max(self.confirmed, event.stamp.time)
            return
        try:
            key = self.keys.decode(event.key)
        except ProtocolError:
            self.counts.rejections["key"] += 1
            effects.append(Resync("an event with a key that cannot be read"))
            return
        self.window.touch(key)
        if event.kind is Kind.FORGET and not self.whole:
            self._forget(key)
            return
        if not self.whole and key not in self.table.live:
            # Nobody here asked for the row, or it was known to be absent, which may be over now.
            self._forget(key)
            self.counts.ignored += 1
            return
        held = self.table.stamp(key)
        if event.stamp == held:
            self.counts.duplicates += 1
            return
        if self.disputes.outdated(key, held, event.stamp):
            self.counts.ignored += 1
            return
        if event.kind in WITHOUT_CONTENT:
            effects.append(self._doubt(key))
            return
        answers = event.answers if event.kind is Kind.FOUND else ()
        if answers and fingerprint != self.rows.fingerprint:
            # What it answers is events, which have come here too; to read the row for it would be an echo without end.
            self.counts.ignored += 1
            return
        try:
            if fingerprint != self.rows.fingerprint:
                raise ProtocolError("another schema", reason="schema")
            entity = self._content(event, key)
            if not self.clock.observe(event.stamp.time, now):
                raise ProtocolError("written too far in the future", reason="clock")
        except ProtocolError as error:
            self.counts.rejections[error.reason] += 1
            if error.reason == "schema" and self.clock.observe(event.stamp.time, now):
                effects.append(self._contradicted(key, event.stamp))
            else:
                effects.append(self._doubt(key))
            return
        current = self.table.live.get(key)
        since_proven = event.stamp.time >= self._proven_at(key)
        if since_proven and self.disputes.settles(key, held, answers):
            self.disputes.settle(key)
            self.disputes.answered(key, event.stamp, answers)
            self._hold(key, entity, event.stamp)
            self.counts.shared += 1
            effects.append(Settled((key,)))
            return
        successor = event.base == held and since_proven
        if held is ABSENT and event.stamp.time < self._remembered(now):
            successor = False  # the row may have been deleted since, which is no longer remembered
        if event.kind is Kind.UPDATE and _backwards(current, entity, held, event.stamp):
            successor = False
        if successor:
            self._hold(key, entity, event.stamp)
            if answers:
                self.disputes.answered(key, event.stamp, answers)
            self.counts.applied += 1
            if event.kind in WRITTEN:  # the clocks of two hosts may differ by more than it took
                self.counts.propagation.observe(max(0.0, now - seconds(event.stamp.time)))
            return
        if self.table.same(key, entity):
            self._merge(key, entity, held, event.stamp, answers, later=since_proven)
            self.counts.ignored += 1
            return
        effects.append(self._contradicted(key, event.stamp))
        self.counts.ignored += 1

    def _content(self, event: Event, key: K) -> V | None:
        """The entity of an event, checked against what the event says about it."""
        if event.content is None:
            if event.kind in (Kind.CREATE, Kind.UPDATE):
                raise ProtocolError("a row was written, and is not in the event")
            return None
        if event.kind is Kind.DELETE:
            raise ProtocolError("a row was deleted, and is in the event")
        if len(event.content) > MAX_ENTITY:
            raise ProtocolError(f"a row of {len(event.content):,} bytes in an event")
        entity = self.rows.decode(event.content)
        try:
            fits = self.key_of(entity) == key and self.version_of(entity) == event.stamp.version
        except Exception as error:  # the application's key function, on content from outside
            raise ProtocolError(f"the key cannot be read: {error}") from error
        if not fits:
            raise ProtocolError("key or version differ from the content's")
        return entity

    def _remembered(self, now: float) -> int:
        """The hybrid time since when deleted keys are remembered for sure, whatever the clocks of their writers."""
        latest = max(self.clock.time, at(now)) - at(TOMBSTONE_SECONDS - MAX_DRIFT)
        return max(latest, self.table.forgotten)

    def _proven_at(self, key: K) -> int:
        return max(self._proven.get(key, self._proven_before), self.confirmed)

    def _hold(self, key: K, entity: V | None, stamp: Stamp) -> None:
        if entity is None:
            self.table.bury(key, stamp)
        else:
            self.table.put(key, entity, stamp)
        self._proven.pop(key, None)

    def _restore(self, key: K, entity: V) -> bool:
        """Hold an object of the same content, should the one held have been changed in place; whether it was."""
        if self.table.intact(key):
            return False
        self.table.put(key, entity, self.table.stamp(key))
        return True

    def _confirm(self, key: K, entity: V | None, stamp: Stamp) -> None:
        """The same content, read again."""
        if entity is None:
            self.table.bury(key, stamp)
        elif self.table.intact(key):
            self.table.restamp(key, stamp)
        else:
            self.table.put(key, entity, stamp)
        self._proven.pop(key, None)

    def _merge(
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
        self._confirm(key, entity, both)
        self.disputes.merged(key, held, stamp, answers, both)

    def _forget(self, key: K) -> None:
        self.table.forget(key)
        self.disputes.settle(key)

    def _event(
        self,
        kind: Kind,
        key: K,
        entity: V | None,
        stamp: Stamp,
        base: Stamp,
        answers: tuple[Stamp, ...] = (),
    ) -> Event:
        content = None if entity is None else self.rows.encode(entity)
        if content is not None and len(content) > MAX_ENTITY:
            return Event(Kind.REREAD, self.keys.encode(key), None, stamp, base)
        return Event(kind, self.keys.encode(key), content, stamp, base, answers)

    def _found(
        self, load: Load, key: K, entity: V | None, held: Stamp, answers: tuple[Stamp, ...]
    ) -> Event:
        """What a re-read found."""
        version = held.version if entity is None else self.version_of(entity)
        stamp = Stamp(version, load.began, self.origin)
        return self._event(Kind.FOUND, key, entity, stamp, held, answers)

    def _contradicted(self, key: K, stamp: Stamp) -> Reread:
        """Doubt that everybody is in who hears the same events."""
        self.disputes.add(key, stamp, self.clock.time)
        return self._in_doubt(key)

    def _doubt(self, key: K) -> Reread:
        """Doubt of this node."""
        self.disputes.other(key, self.clock.time)
        return self._in_doubt(key)

    def _doubtful(self, load: Load, key: K) -> None:
        self.disputes.other(key, self.clock.time)
        load.doubtful.append(key)

    def _in_doubt(self, key: K) -> Reread:
        self.counts.doubts += 1
        return Reread((key,))

    def gap(self, reason: str) -> Resync:
        """Something is missing."""
        self.counts.gaps += 1
        return Resync(reason)

    def _empty(self) -> bool:
        """Whether nothing is held that an event could have made wrong."""
        return not self.whole and not self.table.stamps and not self.table.dead

    def _miss(self, origin: str, first: int, last: int) -> list[Effect]:
        gap = self.gap(f"{last - first + 1} events of {origin} did not arrive")
        return [Resend(origin, first, last) if self.progress.miss(origin, first, last) else gap]

    def _saw(self, origin: str, number: int) -> None:
        if not self.progress.saw(origin, number):
            self._forgot()

    def _forgot(self) -> None:
        """Of some origin it is not known any more how far its events were taken in."""
        if self._buffer is not None:
            self._buffer.lost = True


def _backwards(current: object, entity: object, held: Stamp, stamp: Stamp) -> bool:
    """Whether a row would follow on one of a later version; only one that is created again starts over."""
    return current is not None and entity is not None and stamp.version < held.version
