"""What becomes of a sibling's event.

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
or nothing is held, and it is older than tombstones,
or no row, and it was late; or it comes or goes just
after all was read here
time beyond the drift bound, or content unreadable      ignored, doubt
the content is not in the event (REREAD)                doubt
in doubt, and a sibling's re-read answers all of it     what it found is held, and the doubt is over
written before a re-read whose answer is held           ignored
a write of this node waits to be shown (`own_writes`)   ignored, doubt
answer of a re-read, of another shape                   ignored: what it answers was heard here too
key unreadable                                          the whole copy is in doubt: resync
a number was skipped before it                          taken in; what is missing is asked for
the key is not held, in a replica that is not whole     ignored; a remembered miss is forgotten
FORGET, CLEAR, CONFIRM                                  drop the key; everything; take note of a load
======================================================  ==========================================

(What has to do with numbers, and CLEAR, is the replica's to see to, before anything comes here.)

*Doubt* is the effect `Reread`, or `Settled` when it is over (see `disputes` for whose answer counts); doubt of the
whole is `Resync`. No guess is made from versions or times in between:
clocks differ, and a row that is created again begins with its first version. What is held was true
once, so it stands until the source has been asked.
"""

from __future__ import annotations

from typing import Final, Generic, TypeVar

from ..errors import ProtocolError
from .effects import Effect, Resync, Settled
from .holding import Holding, backwards
from .messages import MAX_ENTITY, WITHOUT_CONTENT, WRITTEN, Event, Kind
from .stamp import ABSENT, MAX_DRIFT, at, seconds

__all__ = ["Rules"]

K = TypeVar("K")
V = TypeVar("V")

LATE_SECONDS: Final = 5.0
"""Above what an event takes while nothing is wrong. What one says that was under way for longer may be over, as far as
clocks that differ can tell."""


class Rules(Generic[K, V]):
    """Applies events to what is held."""

    def __init__(self, holding: Holding[K, V]) -> None:
        self._holding = holding

    def apply(self, event: Event, fingerprint: str, now: float) -> Effect | None:
        """An event that is news, of any kind but `Kind.CLEAR`, from a sibling whose rows have this shape."""
        holding = self._holding
        counts, disputes, table = holding.counts, holding.disputes, holding.table
        same_shape = fingerprint == holding.rows.fingerprint
        if event.kind is Kind.CONFIRM:
            began, answered = event.base.time, event.stamp.time
            if same_shape and began <= answered and holding.clock.observe(answered, now):
                holding.prove_all(began, answered)
            return None
        try:
            key = holding.keys.decode(event.key)
        except ProtocolError:
            counts.rejections["key"] += 1
            return Resync("an event with a key that cannot be read")
        holding.window.touch(key)
        if event.kind is Kind.FORGET and not holding.whole:
            holding.forget(key)
            return None
        if not holding.whole and key not in table.live:
            # Nobody here asked for the row, or it was known to be absent, which may be over now.
            holding.forget(key)
            counts.ignored += 1
            return None
        held = table.stamp(key)
        if event.stamp == held:
            counts.duplicates += 1
            return None
        if disputes.outdated(key, held, event.stamp):
            counts.ignored += 1
            return None
        if event.kind in WITHOUT_CONTENT:
            return holding.doubt(key)
        answers = event.answers if event.kind is Kind.FOUND else ()
        if answers and not same_shape:
            # What it answers is events, which have come here too; to read the row for it would be an echo without end.
            counts.ignored += 1
            return None
        try:
            if not same_shape:
                raise ProtocolError("another schema", reason="schema")
            entity = self._content(event, key)
            if not holding.clock.observe(event.stamp.time, now):
                raise ProtocolError("written too far in the future", reason="clock")
        except ProtocolError as error:
            counts.rejections[error.reason] += 1
            if error.reason == "schema" and holding.clock.observe(event.stamp.time, now):
                return holding.contradicted(key, event.stamp)
            return holding.doubt(key)
        if key in holding.unshown:  # only the source tells whether this is newer than the write
            counts.ignored += 1
            return holding.contradicted(key, event.stamp)
        since_proven = event.stamp.time >= holding.proven(key)
        lately, comes = at(now - LATE_SECONDS), key not in table.live
        just_read = holding.refreshed >= lately
        if (comes and (just_read or event.stamp.time < lately)) or (entity is None and just_read):
            # Under way for long, or while everything was read here: by another clock it may be from before that. And
            # the versions of what comes and goes, which begin anew, do not say which is the later one.
            since_proven = event.stamp.time >= holding.proven(key) + at(MAX_DRIFT)
        if since_proven and disputes.settles(key, held, answers):
            if not holding.admit(key, entity, event.stamp):
                return holding.doubt(key)
            disputes.settle(key)
            disputes.answered(key, event.stamp, answers)
            counts.shared += 1
            return Settled((key,))
        successor = event.base == held and since_proven
        if held is ABSENT and event.stamp.time < holding.remembered(now):
            successor = False  # the row may have been deleted since, which is no longer remembered
        if event.kind is Kind.UPDATE and backwards(table.live.get(key), entity, held, event.stamp):
            successor = False
        if successor:
            if not holding.admit(key, entity, event.stamp):
                return holding.doubt(key)
            if answers:
                disputes.answered(key, event.stamp, answers)
            counts.applied += 1
            if event.kind in WRITTEN:  # the clocks of two hosts may differ by more than it took
                counts.propagation.observe(max(0.0, now - seconds(event.stamp.time)))
            return None
        counts.ignored += 1
        if table.same(key, entity):
            holding.merge(key, entity, held, event.stamp, answers, later=since_proven)
            return None
        return holding.contradicted(key, event.stamp)

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
        holding = self._holding
        entity = holding.rows.decode(event.content)
        try:
            fits = (
                holding.key_of(entity) == key and holding.version_of(entity) == event.stamp.version
            )
        except Exception as error:  # the application's key function, on content from outside
            raise ProtocolError(f"the key cannot be read: {error}") from error
        if not fits:
            raise ProtocolError("key or version differ from the content's")
        return entity
