"""One node's copy of one repository, as whoever drives it sees it: input and the time go in, effects come out.

What is kept in order here is *what has been taken in*: the events of each origin by their numbers, what is missing of
them, and what heartbeats say of that. What becomes of one event is in `rules`, of what was read in `loads`; both act on
the `holding`.

While cold a replica buffers events: the rows that they refer to are not there yet. `Replica.go_cold` begins that,
`Replica.go_warm` ends it and plays back what the load or snapshot cannot contain.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import Final, Generic, TypeVar

from ..codecs import EntityCodec, KeyCodec
from .agreement import Agreement
from .buffer import Buffer, split
from .counts import Counts
from .disputes import Disputes
from .effects import Cleared, Compare, Effect, Reread, Resend, Resync
from .holding import Holding
from .identity import identity_tag, is_foreign, wire_identity
from .loads import Loads
from .messages import FOR_ALL, Event, Events, Kind, Phase, RepositoryState
from .progress import Progress
from .rules import Rules
from .stamp import ABSENT, MAX_DRIFT, HybridClock, Stamp, at
from .table import Table
from .window import Load, Window

__all__ = ["Replica", "Write"]

K = TypeVar("K")
V = TypeVar("V")

LAST_NUMBER: Final = 2**63 - 1


class Write:
    """A write that has begun: what was held for its key then (``None``: the source makes the key).

    `answered` is the hybrid time of the source's answer where this node may show something older than that answer, and
    0 where it does not. See `Replica.shows`.
    """

    __slots__ = ("answered", "base", "load")

    def __init__(self, base: Stamp | None, load: Load) -> None:
        self.answered: int = 0
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
    identify:
        both of many entities, if there is a quicker way.
    whole:
        whether every row is held, or only those that were asked for.
    identity:
        of the source, in words; ``None`` where it is not known.
    """

    def __init__(
        self,
        origin: str,
        keys: KeyCodec[K],
        rows: EntityCodec[V],
        *,
        key_of: Callable[[V], K],
        version_of: Callable[[V], int],
        identify: Callable[[list[V]], tuple[list[K], list[int]]] | None = None,
        whole: bool,
        identity: str | None = None,
    ) -> None:
        self.identity: str = wire_identity(identity)
        self.identity_tag: str = identity_tag(self.identity)
        self.holding: Holding[K, V] = Holding(
            origin, keys, rows, key_of=key_of, version_of=version_of, whole=whole
        )
        self._rules: Rules[K, V] = Rules(self.holding)
        self._loads: Loads[K, V] = Loads(self.holding)
        self.origin = origin
        self.keys = keys
        self.rows = rows
        self.key_of = key_of
        self.version_of = version_of
        self.identify: Callable[[list[V]], tuple[list[K], list[int]]] = identify or (
            lambda entities: (list(map(key_of, entities)), list(map(version_of, entities)))
        )
        self.whole = whole
        self.table: Table[K, V] = self.holding.table
        self.clock: HybridClock = self.holding.clock
        self.window: Window = self.holding.window
        self.counts: Counts = self.holding.counts
        self.disputes: Disputes[K] = self.holding.disputes
        self.progress: Progress = Progress()
        self.agreement: Agreement = Agreement()
        self.sequence: int = 0  # the last event of our own that was given a number
        self.written: int = 0  # writes of this node that were committed
        self.resets: int = 0  # times that everything was dropped
        # Hybrid time, when rows were last dropped that had been there to be read.
        self.dropped: int = 0
        self.untold: int = 0  # hybrid time, see `read_untold`
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
        self,
        write: Write,
        kind: Kind,
        key: K,
        entity: V | None,
        now: float,
        content: bytes | None = None,
    ) -> tuple[Event, list[Effect]]:
        """The source has committed; show it here, and make the event for the siblings.

        `content` is the canonical bytes of the entity, where they are known.
        """
        self.written += 1
        held = self.table.stamp(key)
        base = write.base
        if base is None:  # only now is the key known
            base = held if self.window.untouched(key, write.load) else ABSENT
        version = base.version if entity is None else self.version_of(entity)
        stamp = Stamp(version, self.clock.tick(now), self.origin)
        event = self.holding.event(kind, key, entity, stamp, base, content=content)
        # An event that came in between need not have left a stamp: its content was held, or it was in doubt itself.
        untouched = self.window.untouched(key, write.load)
        self.window.touch(key)
        if base == held and untouched:
            self.holding.hold(key, entity, stamp, event.content)
            self.holding.unshown.drop(key)
            return event, []
        if self.table.same(key, entity):
            self.holding.merge(key, entity, held, stamp)
            self.holding.unshown.drop(key)
            return event, []
        # A rival's event came in between, and whose write the source took first is not known: versions do not tell,
        # since those of a row that is created again start over. What is shown stays until the source was asked,
        # which the writer waits for.
        self.disputes.wrote(key, stamp, self.clock.time)
        write.answered = stamp.time
        self.holding.unshown.add(key, write.answered)
        return event, [self.holding.in_doubt(key)]

    def await_read(self, key: K, now: float) -> int:
        """A caller waits until this node shows what the source has from now on; returns the hybrid time for `shows`."""
        moment = self.clock.tick(now)
        self.holding.unshown.add(key, moment)
        return moment

    def shows(self, key: K, moment: int) -> bool:
        """Whether what is held for the key is at least as new as what the source had at this awaited moment."""
        return not self.holding.unshown.waits(key, moment)

    def no_longer_awaited(self, key: K, moment: int) -> None:
        """The caller does not wait any more."""
        self.holding.unshown.drop(key, moment)

    def unsure(self, key: K) -> list[Effect]:
        """A write has failed, and whether the source has it is not known: loads begun before do not tell."""
        self.window.touch(key)
        self.disputes.other(key, self.clock.time, unsure=True)
        return [self.holding.in_doubt(key)]

    def refused(self, write: Write, key: K, now: float) -> list[Effect]:
        """The source has not done a write, since the row is not what it was taken for."""
        self.window.touch(key)
        if self.whole or key in self.table.live:  # else the next read asks the source
            write.answered = self.await_read(key, now)
        return [self.holding.doubt(key)]

    def unsettled(self, key: K) -> None:
        """What the source has is not known, whatever siblings, or reads that have begun, say that they have found."""
        self.window.touch(key)
        self.disputes.other(key, self.clock.time)

    def hand_over(self, now: float) -> list[Event]:
        """That siblings are to read what writes of this node may have made of rows, and nobody has looked at since.

        It is over with that here.
        """
        unsure = self.disputes.unsure_keys()
        for key in unsure:
            self.disputes.settle(key)
        return [self.announce(Kind.REREAD, key, now) for key in unsure]

    def announce(self, kind: Kind, key: K | None, now: float) -> Event:
        """An event without content: `Kind.REREAD`, `Kind.FORGET` or `Kind.CLEAR`."""
        stamp = Stamp(0, self.clock.tick(now), self.origin)
        key_bytes = b"" if key is None else self.keys.encode(key)
        return Event(kind, key_bytes, None, stamp, ABSENT)

    def confirmation(self, load: Load) -> Event:
        """That a complete load has ended, and what it has found differently was told."""
        began, answered = (Stamp(0, time, self.origin) for time in (load.began, load.answered))
        return Event(Kind.CONFIRM, b"", None, answered, began)

    def pack(self, repository: str, events: list[Event]) -> Events:
        """Number events for sending."""
        first = self.sequence + 1
        self.sequence += len(events)
        return Events(
            self.origin, repository, self.rows.fingerprint, first, events, self.identity_tag
        )

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

    def answered(self, load: Load, now: float) -> None:
        """The source has answered: what it has read, it has read by now."""
        load.answered = self.clock.tick(now)

    def end_load(self, load: Load) -> None:
        """The load's word no longer counts."""
        self.window.close(load)

    def loaded(
        self, load: Load, key: K, entity: V | None, fault: str | None = None
    ) -> tuple[bool, Event | None]:
        """The source has (or has not) this row; see `Loads.loaded`."""
        return self._loads.loaded(load, key, entity, fault)

    def replace(
        self,
        load: Load,
        rows: Mapping[K, V],
        faults: Mapping[K | None, str] | None = None,
        *,
        tell: bool = True,
    ) -> Iterator[list[Event]]:
        """The source has these rows, and no others; see `Loads.replace`."""
        return self._loads.replace(load, rows, faults or {}, tell=tell, cold=self.cold)

    def read_untold(self, now: float) -> None:
        """What was read until now, here or by whom this copy is from, was told to nobody.

        How that compares with what a sibling has read no stamp tells: a read may end long after it began, and clocks
        differ. Only what became of a row later than `untold`, by whatever clock, is newer for sure.
        """
        self.untold = max(self.clock.time, at(now)) + at(MAX_DRIFT)
        self.agreement.untold()

    def compare(
        self, load: Load, found: Iterable[tuple[K, V | None, Stamp | None]]
    ) -> list[Effect]:
        """A sibling's copy had these rows, or had none under these keys; see `Loads.compare`."""
        return self._loads.compare(load, found)

    def contains(self, load: Load, vector: Mapping[str, int]) -> list[Effect]:
        """What is held was compared, since `load` began, with what contains everything up to these numbers.

        Of what has not arrived here, nobody knows whether it comes before or after what has touched its key meanwhile.
        """
        vector = {origin: number for origin, number in vector.items() if origin != self.origin}
        if not self.progress.lacks(vector):
            return []
        self.progress.contains(vector)
        return [self.holding.doubt(key) for key in self.window.since(load)]

    def known_since(self, key: K) -> int:
        """The latest hybrid time at which the source was known to have what is held; 0 for never."""
        return self.holding.known_since(key)

    @property
    def confirmed(self) -> int:
        """When the last complete load that is known of began, by hybrid time; 0 for never."""
        return self.holding.confirmed

    def cleared(self) -> list[Effect]:
        """Drop everything: this node, or a sibling, has said so."""
        if self.whole:
            self.dropped = max(self.dropped, self.clock.time, self.confirmed)
            self.go_cold()
        else:
            self.holding.clear()
        return [Cleared()]

    def forget(self, key: K) -> None:
        """Drop a key from memory (on demand). Loads of it that are open no longer count."""
        self.window.touch(key)
        self.holding.forget(key)

    # -- cold and warm ---------------------------------------------------------------------------

    @property
    def cold(self) -> bool:
        """Whether events are buffered because the rows are not there yet."""
        return self._buffer is not None

    def go_cold(self) -> None:
        """Hold nothing, and buffer events from now on."""
        self.holding.clear()
        self.resets += 1
        self.agreement.clear()
        self.progress.clear()
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
        *,
        until: Mapping[str, int] | None = None,
        covered: Callable[[bytes, str, int], bool] = _nothing_covered,
    ) -> list[Effect]:
        """Play back what was buffered, as of when it came: of each origin no further than `until`, where that is given.

        `covered(key, origin, number)` says which events the rows contain already.
        """
        effects: list[Effect] = []
        buffer = self._buffer
        if buffer is None:
            return effects
        buffered, buffer.events = buffer.events, []
        for came, events in buffered:
            before, after = split(events, until)
            if before is not None:
                effects += self._take(before, came, covered)
                if any(isinstance(effect, Cleared) for effect in effects):
                    break
            if after is not None:
                buffer.events.append((came, after))
        return effects

    def go_warm(self) -> list[Effect]:
        """The rows are there and the buffer was played back; what was put in doubt meanwhile is read again."""
        lost = self._buffer is not None and self._buffer.lost
        self._buffer = None
        effects: list[Effect] = [self.gap("events were lost while starting")] if lost else []
        in_doubt = self.disputes.keys()
        return [*effects, Reread(tuple(in_doubt))] if in_doubt else effects

    # -- what siblings say -----------------------------------------------------------------------

    def receive(self, events: Events, now: float) -> list[Effect]:
        """Events of a sibling (or our own echo, which is ignored). Those of another source are counted and no more."""
        if events.origin == self.origin:
            return []
        if is_foreign(events.identity_tag, self.identity_tag):
            self.counts.rejections["identity"] += len(events.events)
            return []
        if events.first + len(events.events) > LAST_NUMBER:
            self.counts.rejections["numbers"] += 1
            return self.lost(f"impossible numbers from {events.origin}")
        if self._buffer is None:
            return self._take(events, now)
        # Whatever came before the first that we see of an origin came before we listened.
        if events.origin not in self.progress.vector:
            self._saw(events.origin, events.first - 1)
        self._buffer.add(events, now)
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

        `clean`: whether nothing is known to be wrong with this copy either, nor is it ahead of its numbers.
        `moment`: now, in monotonic seconds.
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
            if progress.less(origin, peer.sequence, timely=timely):
                return [self.gap(f"{origin} has sent less than was seen of it")]
            self.agreement.unknown(origin)
            return []
        effects: list[Effect] = []
        if peer.sequence > last:
            effects += self._skipped(origin, last + 1, peer.sequence)
        self._saw(origin, peer.sequence)
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
            effects.append(Compare(origin))
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
        return self.holding.sweep(now, horizon)

    # -- numbers ---------------------------------------------------------------------------------

    def _take(
        self,
        events: Events,
        now: float,
        covered: Callable[[bytes, str, int], bool] = _nothing_covered,
    ) -> list[Effect]:
        origin, first = events.origin, events.first
        progress, last = self.progress, self.progress.last(events.origin)
        effects: list[Effect] = []
        if first > last + 1:
            effects += self._skipped(origin, last + 1, first - 1)
        for number, event in enumerate(events.events, first):
            if not progress.news(origin, number):
                self.counts.duplicates += 1
            elif event.kind in FOR_ALL or not covered(event.key, origin, number):
                if event.kind is not Kind.CLEAR:
                    effect = self._rules.apply(event, events.fingerprint, now)
                    effects += () if effect is None else (effect,)
                # Unless that was when this clock was wrong: it says nothing of what others did since.
                elif event.stamp.time < self.confirmed <= at(now + MAX_DRIFT):
                    self.counts.duplicates += 1  # sent again: everything was loaded since
                else:
                    self.clock.observe(event.stamp.time, now)
                    effects += self.cleared()
                    if self.whole:
                        break  # cold now, and what comes after it will be in the next load
        if not progress.took(origin, first, first + len(events.events) - 1):
            self._forgot()
        return effects

    def gap(self, reason: str) -> Resync:
        """Something is missing."""
        self.counts.gaps += 1
        return Resync(reason)

    def _skipped(self, origin: str, first: int, last: int) -> list[Effect]:
        """These events of an origin have not come, and later ones have, or were heard of."""
        if self.whole or origin in self.progress.vector:
            gap = self.gap(f"{last - first + 1} events of {origin} did not arrive")
            return [Resend(origin, first, last) if self.progress.miss(origin, first, last) else gap]
        # On demand nobody begins with a copy that contains what was sent before, and what is read from now on does.
        if not self.table.live and not self.table.dead and self.window.idle:
            return []
        return [Resync(f"{origin} has sent events before it was first heard")]

    def _saw(self, origin: str, number: int) -> None:
        if not self.progress.saw(origin, number):
            self._forgot()

    def _forgot(self) -> None:
        """Of some origin it is not known any more how far its events were taken in."""
        if self._buffer is not None:
            self._buffer.lost = True
