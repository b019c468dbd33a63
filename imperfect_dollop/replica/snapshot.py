"""A copy of one replica for another: the donor's and the joiner's side.

The donor notes how far it has taken in everybody's events (its *vector*), then sends bucket by bucket, while writes go
on. Each chunk is made in one go and carries the vector as of that moment, so the joiner, which has
buffered the same events since before it asked, knows exactly which of them a chunk already contains. A
donor that is lost midway costs nothing: the next one is asked for the buckets that are still missing. The
joiner believes a snapshot only if its digest, after playing events up to the donor's last vector, is the donor's.
Unless the donor is itself in doubt: then it may show a row still on which an event is clean here. What such a donor
has given is compared with somebody who is sure, or the source, whatever the digest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final, Generic, TypeVar

from ..errors import InvalidEntityError, ProtocolError
from .chunks import CHUNK_BYTES, ChunkMaker, Stamps, dead_rows, live_rows
from .effects import Cleared, Effect, Reread
from .frames import Frames
from .messages import Chunk, Differ, Footer, Header, Take, encode
from .progress import covers
from .replica import Replica
from .stamp import ABSENT, Stamp, at
from .table import BUCKETS, LEAVES_BYTES

__all__ = ["MAX_QUARANTINED_BYTES", "Donor", "Joiner", "quarantined_keys"]

MANY_ROWS: Final = 32
"""In a bucket, on average. With more, its leaves are compared first: a round trip and 512 bytes, instead of 2 KB of
rows and more, of which most are the same."""

MAX_QUARANTINED_BYTES: Final = 4 << 20
"""Of the keys that a donor has quarantined: with half of what a message may have they fit into the footer."""

UNREAD: Final = "a sibling could not hold the row, and this node has not read it yet"
"""Why a key is quarantined that a donor had quarantined."""

K = TypeVar("K")
V = TypeVar("V")


def quarantined_keys(replica: Replica[K, V]) -> list[bytes]:
    """The keys that a replica has quarantined."""
    return replica.keys.encode_all([key for key in replica.table.quarantined if key is not None])


class Donor(Generic[K, V]):
    """Makes the frames of one snapshot, or of the buckets that differ from a sibling's digests.

    `clean` is asked whether the copy can be vouched for, `number` gives every
    event of this node its number, or the vector would not cover what the digest does.
    """

    def __init__(
        self,
        replica: Replica[K, V],
        take: Take,
        clean: Callable[[], bool],
        number: Callable[[], object] = lambda: None,
    ) -> None:
        self._replica = replica
        self._take = take
        self._clean = clean
        self._number = number
        self._vouched = False  # all along, from the header on
        self.altered: list[K] = []  # found to have been changed in place
        self._resets = replica.resets
        self.whole: bool = not take.digests  # not only what differs

    def frames(self) -> Iterator[bytes | None]:
        """The frames in order, none of which takes long to make; ``None`` only gives the event loop its turn.

        They end without a footer when the donor drops what it holds, from when it has agreed to give; and at a row
        that somebody has changed in place, for what the source had is not known then.
        """
        for frame in self._frames():
            if self._replica.resets != self._resets:
                return
            yield frame

    def _frames(self) -> Iterator[bytes | None]:
        replica, take, table = self._replica, self._take, self._replica.table
        self._number()
        areas, many = list(dict.fromkeys(take.buckets)), False
        keys_in: Callable[[int], list[K]] = table.keys_in
        if take.digests and areas:
            # Keys that come after they were listed are events after the first answer, whose vector counts.
            leaves: dict[int, list[K]] = {}
            for place, bucket in enumerate(areas):
                if bucket < BUCKETS:
                    part = take.digests[place * LEAVES_BYTES : (place + 1) * LEAVES_BYTES]
                    leaves |= table.differing_leaves(bucket, part)
                yield None
            areas, keys_in = list(leaves), leaves.__getitem__
        elif take.digests:
            areas = table.differing(take.digests)
            many = table.size(areas) > MANY_ROWS * len(areas)
        # What is missing now is in no bucket that is the same here and there.
        self._vouched = self._clean()
        coming = [] if many else areas
        yield encode(
            Header(
                take.address,
                replica.rows.fingerprint,
                replica.vector,
                replica.confirmed,
                coming,
                replica.identity_tag,
            )
        )
        if many:
            yield encode(Differ(areas))
        chunk = ChunkMaker(replica, CHUNK_BYTES)
        for area in coming:
            # Keys that come after this are events after the chunk's vector, and reach the joiner as such.
            keys = keys_in(area)
            while True:
                chunk.buckets.append(area)
                keys = chunk.add(keys)
                if chunk.altered is not None:
                    self.altered.append(chunk.altered)
                    return
                if chunk.full:
                    yield self._closed(chunk, more=bool(keys))
                    chunk = ChunkMaker(replica, CHUNK_BYTES)
                if not keys:
                    break
        if chunk.buckets:
            yield self._closed(chunk, more=False)
        self._number()
        clean = self._clean() and (self._vouched or self.whole)
        quarantined = quarantined_keys(replica) if self.whole else []
        yield encode(Footer(replica.vector, table.root, len(table.live), clean, quarantined))

    def _closed(self, chunk: ChunkMaker[K, V], *, more: bool) -> bytes:
        # Who joins plays events after the chunk that correct it; who compares takes its rows as they are.
        self._vouched = self._vouched and self._clean()
        return encode(chunk.made(self._replica.vector, more=more))


class Joiner(Generic[K, V]):
    """Takes the frames of snapshots, from one donor or several in turn, into a cold replica."""

    def __init__(self, replica: Replica[K, V]) -> None:
        self._replica = replica
        replica.table.clear()  # what an earlier attempt has left
        self._vectors: dict[int, dict[str, int]] = {}  # by bucket that is here: what it contains
        self._partial: list[K] = []  # keys of a bucket that is not complete
        self._partial_vector: dict[str, int] | None = None  # that of its first chunk
        self._donor = ""
        self._frames = Frames("", replica.rows.fingerprint, replica.identity_tag)
        self._confirmed: int | None = None
        self._written = replica.written
        self._known = replica.vector
        self._latest = 0  # the latest time in any of it
        self._stamps: Stamps = {}
        self._quarantined: list[K] = []  # of the donor
        self._played: set[K] = set()  # keys that came with events only
        self.rows: int = 0

    def begin(self, address: str, donor: str = "") -> list[int]:
        """Another donor will send to `address`; returns the buckets to ask it for."""
        self._donor = donor
        for key in self._partial:  # the next donor may no longer have them
            self._replica.table.forget(key)
        self._partial, self._partial_vector = [], None
        replica = self._replica
        self._frames = Frames(address, replica.rows.fingerprint, replica.identity_tag)
        replica.begin_snapshot()
        return [bucket for bucket in range(BUCKETS) if bucket not in self._vectors]

    def take(self, payload: bytes) -> None:
        """One frame. Raises `ProtocolError` for what is none of this transfer, or comes out of order."""
        frame = self._frames.take(payload, missing=BUCKETS - len(self._vectors))
        if isinstance(frame, Header):
            self._open(frame)
        elif isinstance(frame, Chunk):
            self._rows(frame)
        elif isinstance(frame, Footer):
            self._quarantined = list(map(self._replica.keys.decode, frame.quarantined))
        elif isinstance(frame, Differ):
            raise ProtocolError("an answer to somebody who compares")

    @property
    def footer(self) -> Footer | None:
        """The last frame, when it is here."""
        return self._frames.footer

    @property
    def arrived(self) -> bool:
        """Whether everything is here that `finish` needs, the events up to the footer included."""
        return self.footer is not None and self._replica.reached(self.footer.vector)

    def finish(self, now: float) -> list[Effect] | None:
        """Play the buffered events; ``None`` if nothing can come of the copy.

        As where the outcome is not what its donor vouches for, and no key in doubt explains it; or everything was
        dropped, or written here, meanwhile.
        The replica is warm afterwards, or as cold as before.
        """
        effects = self._finish(now)
        if effects is None:
            self._replica.table.clear()
        return effects

    def _finish(self, now: float) -> list[Effect] | None:
        footer, replica = self.footer, self._replica
        if footer is None or replica.written != self._written:
            return None  # what was written here meanwhile may have been written over
        if not covers(footer.vector, self._known):
            return None  # nor does it contain what was known, or written, here before
        if replica.dropped and not footer.clean:
            return None  # whoever has read rows here could be shown older ones
        arrived = self.arrived
        effects: list[Effect] = []
        if not replica.clock.observe(self._latest, now):
            effects.append(replica.gap("the copy has times in the future"))
            self._back_to(now)
        replica.holding.confirmed = self._confirmed or 0
        effects += replica.replay(until=footer.vector, covered=self._covered)
        same = replica.table.root == footer.digest and len(replica.table.live) == footer.entities
        # An event of the second donor may not fit what the first has given, where their stamps were not the same.
        doubtful = any(isinstance(effect, Reread) for effect in effects)
        if not same and (not arrived or (footer.clean and (not doubtful or replica.dropped))):
            return None
        effects += replica.replay(covered=self._covered)
        if any(isinstance(effect, Cleared) for effect in effects):
            return None
        if not footer.clean:
            effects.append(replica.gap("the donor does not vouch for its copy"))
        elif not same:
            effects.append(replica.gap("the copies of several donors do not fit together"))
        replica.read_untold(now)
        if same:
            replica.agreement.meet(self._donor)
        effects += self._quarantine()
        # A read that began before the donor sent a row may have found an older one.
        replica.window.touch_all()
        return effects + replica.go_warm()

    def _quarantine(self) -> list[Effect]:
        """Quarantine what the donor has quarantined, until this node has read those rows itself."""
        replica, effects = self._replica, list[Effect]()
        for key in self._quarantined:
            if key not in replica.table.live:
                stamp = replica.table.stamp(key)
                replica.holding.quarantine(key, stamp, UNREAD)
                effects.append(replica.holding.doubt(key))
        return effects

    def _back_to(self, now: float) -> None:
        """Some clock was wrong once. Whoever has such a time as a base is in doubt, and no more than that."""
        table, clock = self._replica.table, self._replica.clock
        limit = at(now)
        for key, stamp in [*table.stamped(), *table.dead.items()]:
            if stamp.time > limit:
                own = Stamp(stamp.version, clock.tick(now), self._replica.origin)
                if key in table.live:
                    table.restamp(key, own)
                else:
                    table.bury(key, own)
        self._confirmed = min(self._confirmed or 0, limit)

    def _open(self, header: Header) -> None:
        if header.confirmed < self._replica.dropped:
            raise ProtocolError("a copy from before everything was dropped")
        if self._confirmed is None:
            self._confirmed = header.confirmed
            self._latest = max(self._latest, header.confirmed)
            self._replica.progress.start(header.vector)
            return
        # Buckets of an earlier donor are here: events count from the earlier of both.
        self._confirmed = min(self._confirmed, header.confirmed)
        progress = self._replica.progress
        progress.start(
            {
                origin: min(number, header.vector.get(origin, 0))
                for origin, number in progress.vector.items()
            }
        )

    def _rows(self, chunk: Chunk) -> None:
        replica = self._replica
        wrong = [bucket for bucket in chunk.buckets if bucket >= BUCKETS or bucket in self._vectors]
        if wrong or not chunk.buckets:
            raise ProtocolError(f"buckets that were not asked for: {wrong}")
        # All of them, before any is taken over.
        rows, dead = live_rows(replica, chunk, self._stamps), dead_rows(replica, chunk)
        try:
            replica.table.put_all(
                rows.keys, rows.of_keys, rows.areas, rows.entities, rows.stamps, rows.contents
            )
        except InvalidEntityError as error:
            raise ProtocolError(str(error)) from error
        for key, _, stamp in dead:
            replica.table.bury(key, stamp)
        if chunk.more:
            if chunk.buckets[:-1]:
                self._partial = []
            some = [*zip(rows.keys, rows.of_keys, strict=True), *((key, of) for key, of, _ in dead)]
            self._partial += [key for key, of_key in some if of_key % BUCKETS == chunk.buckets[-1]]
        times = {stamp.time for stamp in {*rows.stamps, *(stamp for *_, stamp in dead)}}
        self._latest = max(self._latest, *times, 0)
        self.rows += len(chunk.live)
        # A bucket that has come in several chunks contains no more than its first one did.
        vector = self._partial_vector or chunk.vector
        for bucket in chunk.buckets[:-1] if chunk.more else chunk.buckets:
            self._vectors[bucket], vector = vector, chunk.vector
        if chunk.more:
            self._partial_vector = vector
        else:
            self._partial, self._partial_vector = [], None

    def _covered(self, key_bytes: bytes, origin: str, number: int) -> bool:
        """Whether a chunk contains what an event says.

        Not for a key that has come with no chunk: it was created after the donor had listed its keys.
        """
        replica = self._replica
        try:
            key = replica.keys.decode(key_bytes)
        except ProtocolError:
            return False
        if key in self._played or replica.table.stamp(key) is ABSENT:
            self._played.add(key)
            return False
        return number <= self._vectors[replica.table.bucket(key)].get(origin, 0)
