"""What differs between a sibling's copy and this one: the asking side of a repair.

The sibling is told this table's digests and sends the buckets that differ; where these have many rows it names them, is
told the digests of their leaves, and sends the leaves that differ. Each chunk is as of a *vector*: what the
sibling had taken in by then. A row that is another there than here is the newer one if its stamp is, and if the
sibling had seen everything that was seen here when it was asked: all events, and what this node has read and told
nobody. In every other case the row is in doubt, for which there is one remedy: the source is asked.

Like a load, a comparison is overtaken by events: what they bring while it is under way stands.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Generic, TypeVar

from ..errors import ProtocolError
from .chunks import dead_rows, live_rows
from .effects import Effect
from .frames import Frames
from .messages import Chunk, Differ, Footer, Header
from .progress import covers
from .replica import Replica
from .stamp import Stamp
from .table import ALL_LEAVES, BUCKETS

__all__ = ["Comparison"]

K = TypeVar("K")
V = TypeVar("V")


class Comparison(Generic[K, V]):
    """Takes the frames of the answers of one `donor`. Nothing changes before `finish`; `close` in any case."""

    def __init__(self, replica: Replica[K, V], address: str, now: float, donor: str = "") -> None:
        self._replica = replica
        self._donor = donor
        self._frames = Frames(address, replica.rows.fingerprint, replica.identity_tag)
        self._first: Frames | None = None  # those of the answer that has named the buckets
        self._areas = BUCKETS  # of which an answer consists
        self._load = replica.begin_load(now)
        self._seen = replica.vector
        self._expected: set[int] = set()  # buckets that are still to come
        self._here: dict[
            int, dict[K, None]
        ] = {}  # by bucket that is coming: keys that were not found there yet
        self._other: list[tuple[K, V | None, Stamp, bool]] = []  # differ; whether they can be newer
        self._absent: list[K] = []  # of which nothing is known there
        self._latest = 0  # the latest time in any of it
        self.digests: bytes = replica.table.digests()
        self.differ: list[int] = []  # buckets of which leaves are to be compared
        self._parts: dict[int, list[list[K]]] = {}  # by bucket: the keys of its leaves

    def take(self, payload: bytes) -> None:
        """One frame. Raises `ProtocolError` for what is none of this answer, or comes out of order."""
        frame = self._frames.take(payload, missing=len(self._expected))
        if isinstance(frame, Header):
            self._open(frame)
        elif isinstance(frame, Chunk):
            self._compare(frame)
        elif isinstance(frame, Differ):
            self._narrow_to(frame)

    @property
    def footer(self) -> Footer | None:
        """The last frame, when it is here."""
        return self._frames.footer

    @property
    def clean(self) -> bool:
        """Whether the donor has vouched for its copy in each answer, to its end.

        What both copies lack is in nothing that was compared: only the donor's word tells that there is no such thing.
        """
        answers = (self._frames,) if self._first is None else (self._first, self._frames)
        return all(each.footer is not None and each.footer.clean for each in answers)

    def leaves(self, bucket: int) -> bytes:
        """What to say of one of those that `differ`."""
        digests, parts = self._replica.table.leaves(bucket)
        self._parts[bucket] = parts
        return digests

    def narrow(self, address: str) -> None:
        """The first answer is here. Another one comes to this address: the leaves that differ."""
        replica = self._replica
        self._first = self._frames
        self._frames = Frames(address, replica.rows.fingerprint, replica.identity_tag)
        self._areas = ALL_LEAVES

    def finish(self, now: float) -> list[Effect] | None:
        """Take over what is newer there, put in doubt what merely differs; ``None`` if too much has happened since."""
        replica, first = self._replica, self._first or self._frames
        footer, header = self._frames.footer, first.header
        if footer is None or header is None or replica.cold or replica.window.overrun(self._load):
            return None
        replica.agreement.looked(self._donor)
        clean = self.clean  # what was in doubt there may have been sent before it was settled
        believed = clean and replica.clock.observe(self._latest, now)
        effects: list[Effect] = []
        # Or what is missing there would pass for seen here; as would, by the vector of a second answer, what has
        # changed a bucket since the first, when it was the same.
        if clean:
            effects += replica.contains(self._load, header.vector)
        untold = 0 if replica.agreement.met(self._donor) else replica.untold
        found: list[tuple[K, V | None, Stamp | None]] = [
            (key, entity, stamp if newer and believed and stamp.time > untold else None)
            for key, entity, stamp, newer in self._other
        ]
        found += [(key, None, None) for key in self._absent]
        effects += replica.compare(self._load, found)
        return effects

    def close(self) -> None:
        """Whatever came of it."""
        self._replica.end_load(self._load)

    def _open(self, header: Header) -> None:
        self._expected = set(header.buckets)
        if len(self._expected) != len(header.buckets) or any(
            area >= self._areas for area in header.buckets
        ):
            raise ProtocolError("buckets that cannot be")

    def _narrow_to(self, frame: Differ) -> None:
        if self._first is not None or self.differ or self._expected or not frame.buckets:
            raise ProtocolError("buckets that are named where rows are due")
        if len(set(frame.buckets)) != len(frame.buckets) or max(frame.buckets) >= BUCKETS:
            raise ProtocolError("buckets that cannot be")
        self.differ = frame.buckets

    def _compare(self, chunk: Chunk) -> None:
        asked = set(chunk.buckets)
        if not asked or len(asked) != len(chunk.buckets) or not asked <= self._expected:
            raise ProtocolError("buckets that were not announced, or twice")
        table, newer = self._replica.table, self._covers(chunk.vector)
        for area in asked - self._here.keys():
            # Keys that have come since the beginning, or will, are events, and those stand.
            self._here[area] = dict.fromkeys(self._keys_in(area))
        rows = live_rows(self._replica, chunk, {}, self._areas)
        dead = dead_rows(self._replica, chunk, self._areas)
        there: list[tuple[K, int, V | None, Stamp]] = [
            *zip(rows.keys, rows.of_keys, rows.entities, rows.stamps, strict=True),
            *((key, of_key, None, stamp) for key, of_key, stamp in dead),
        ]
        for key, of_key, entity, stamp in there:
            self._here[of_key % self._areas].pop(key, None)
            if not table.same(key, entity):
                self._other.append((key, entity, stamp, newer))
                self._latest = max(self._latest, stamp.time)
        for bucket in chunk.buckets[:-1] if chunk.more else chunk.buckets:
            self._expected.discard(bucket)
            self._absent += [key for key in self._here.pop(bucket) if key in table.live]

    def _keys_in(self, area: int) -> list[K]:
        if self._areas == BUCKETS:
            return self._replica.table.keys_in(area)
        parts = self._parts.get(area % BUCKETS)
        return [] if parts is None else parts[area // BUCKETS]

    def _covers(self, vector: Mapping[str, int]) -> bool:
        """Whether everything that was seen here at the beginning had been seen there."""
        return covers(vector, self._seen)
