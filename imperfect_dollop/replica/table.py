"""What one replica holds: live rows, tombstones, their stamps, and the digest of the content.

`Table.live` is a plain dict, and the very one that reads look into; it is never replaced by another. What else goes
with a key is kept by *bucket*, which its hash names: the keys of one are at hand where copies are compared, and none of
these dicts is so large that it takes long to make room. The digest is a sum over the hashes of all live rows, per
bucket and over all, kept up to date with every change: equal sums mean equal content, in whatever order it came about.
"""

from __future__ import annotations

import contextlib
import itertools
import struct
from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, Generic, TypeVar

import msgspec

from ..codecs import EntityCodec, KeyCodec, content_hash, content_hashes, key_hash
from ..errors import InvalidEntityError
from .stamp import ABSENT, Stamp

__all__ = ["ALL_LEAVES", "BUCKETS", "LEAVES", "LEAVES_BYTES", "Table"]

K = TypeVar("K")
V = TypeVar("V")

BUCKETS: Final = 1_024
"""A power of two. At a million rows a bucket that differs costs a thousand row hashes to look into."""

LEAVES: Final = 64
"""Parts of a bucket, also a power of two: of a thousand rows one that differs is among sixteen."""

ALL_LEAVES: Final = BUCKETS * LEAVES
"""A leaf has the number of its bucket, and above that its own place there: the remainder of a key's hash by this."""

MAX_TOMBSTONES: Final = 100_000
"""Deleted keys remembered at most; about 20 MB."""

FIRST: Final = 8
"""Rows of a chunk that are encoded together at first; then half of those for which there may be room."""

MASK: Final = 2**64 - 1

_BUCKETS: Final = struct.Struct(f">{BUCKETS}Q")
_LEAVES: Final = struct.Struct(f">{LEAVES}Q")

LEAVES_BYTES: Final = _LEAVES.size
"""Of the digests of one bucket's leaves."""


class _Entry(msgspec.Struct, frozen=True, gc=False):
    """What goes with a key. `hashed` is what its row has added to the digest; 0 of a tombstone.

    It is kept: computed again from an entity that was mutated in place it would be another number, and the digest wrong
    for ever.
    """

    stamp: Stamp
    hashed: int


class Table(Generic[K, V]):
    """Entries by key. Knows no rule about which state is the newer one."""

    __slots__ = (
        "_entries",
        "_keys",
        "_rows",
        "buckets",
        "dead",
        "dropped",
        "forgotten",
        "hot",
        "last_good",
        "live",
        "quarantined",
        "root",
    )

    def __init__(self, keys: KeyCodec[K], rows: EntityCodec[V]) -> None:
        self._keys = keys
        self._rows = rows
        self.live: dict[K, V] = {}
        # Rows of which a reader has found out all there is to consider; whoever puts them here says for how long that
        # holds. Never another object than the one that is live.
        self.hot: dict[K, V] = {}
        self.dead: dict[K, Stamp] = {}  # in the order in which they died
        # Keys whose row the source has and no copy can hold, each with the reason; ``None`` for rows without a key. To
        # digests and siblings such a row is absent.
        self.quarantined: dict[K | None, str] = {}
        self.last_good: dict[K, V] = {}  # rows that were held for these keys before
        self._entries: list[dict[K, _Entry]] = [{} for _ in range(BUCKETS)]  # of both
        # What `clear` has left to be let go: a few at a time, by somebody who can pause in between.
        self.dropped: list[dict[Any, Any]] = []
        self.buckets: list[int] = [0] * BUCKETS
        self.root: int = 0
        self.forgotten: int = 0  # the latest death of which there was no room to keep the tombstone

    # -- one key -----------------------------------------------------------------------------------

    def stamp(self, key: K) -> Stamp:
        """The stamp of what is held for the key, tombstones included; `ABSENT` if nothing is."""
        _, entry = self._find(key, self.bucket(key))
        return ABSENT if entry is None else entry.stamp

    def put(self, key: K, entity: V, stamp: Stamp, content: bytes | None = None) -> None:
        """Hold this row, of which the canonical bytes may be known.

        Raises `InvalidEntityError`, and changes nothing, if it has none.
        """
        of_key = key_hash(self._keys.encode(key))
        hashed = content_hash(of_key, self._rows.encode(entity) if content is None else content)
        self._enter(of_key % BUCKETS, key, stamp, hashed)
        self.dead.pop(key, None)
        self.hot.pop(key, None)
        if self.quarantined:
            self.release(key)
        self.live[key] = entity

    def put_all(
        self,
        keys: list[K],
        of_keys: list[int],
        buckets: list[int],
        entities: list[V],
        stamps: list[Stamp],
        contents: list[bytes],
    ) -> None:
        """Hold these rows, of which `contents` are the canonical bytes; `of_keys` are the hashes of their keys.

        Raises `InvalidEntityError`, and changes nothing, if two have the same key.
        """
        if len(set(keys)) != len(keys):  # some may be equal and have other bytes, in another bucket
            raise InvalidEntityError("two rows with the same key")
        hashes = content_hashes(of_keys, contents)
        end = 0
        for bucket, together in itertools.groupby(buckets):
            begin, end = end, end + len(list(together))
            self._enter_all(bucket, keys[begin:end], stamps[begin:end], hashes[begin:end])
        for held in (self.dead, self.hot, self.quarantined, self.last_good):
            if held:
                for key in keys:
                    held.pop(key, None)
        self.live.update(zip(keys, entities, strict=True))

    def bury(self, key: K, stamp: Stamp) -> None:
        """Hold a tombstone instead of a row; past `MAX_TOMBSTONES` the oldest goes."""
        self._enter(self.bucket(key), key, stamp, 0)
        self.live.pop(key, None)
        self.hot.pop(key, None)
        if self.quarantined:
            self.release(key)
        self.dead.pop(key, None)  # to the end of those that died
        self.dead[key] = stamp
        if len(self.dead) > MAX_TOMBSTONES:
            oldest = next(iter(self.dead))
            self.forgotten = max(self.forgotten, self.dead[oldest].time)
            self._remove(oldest)

    def quarantine(self, key: K, stamp: Stamp, reason: str) -> None:
        """Hold a tombstone instead of a row that cannot be held, the reason, and the row that was held before."""
        before = self.live.get(key, self.last_good.get(key))
        self.bury(key, stamp)
        self.quarantined[key] = reason
        if before is not None:
            self.last_good[key] = before

    def release(self, key: K | None) -> None:
        """End a quarantine."""
        self.quarantined.pop(key, None)
        if key is not None:
            self.last_good.pop(key, None)

    def restamp(self, key: K, stamp: Stamp) -> None:
        """The same row, known by a newer stamp. Raises `KeyError` where nothing is held for the key."""
        bucket, entry = self._find(key, self.bucket(key))
        if entry is None:
            raise KeyError(key)
        self._entries[bucket][key] = _Entry(stamp, entry.hashed)

    def forget(self, key: K) -> None:
        """Hold nothing for the key, not even a tombstone or a quarantine."""
        self._remove(key)
        self.release(key)

    def _remove(self, key: K) -> None:
        """Hold no row and no tombstone for the key. A quarantine outlives its tombstone."""
        bucket, entry = self._find(key, self.bucket(key))
        if entry is not None:
            del self._entries[bucket][key]
            self._count(bucket, -entry.hashed)
            self.live.pop(key, None)
            self.hot.pop(key, None)
            self.dead.pop(key, None)

    def _find(self, key: K, bucket: int) -> tuple[int, _Entry | None]:
        """The entry of a key, and where it is: in `bucket`, that of its bytes, or in another one.

        Keys that are equal may have other bytes, like the decimals 2 and 2.00 or, where any type passes, 1 and True.
        """
        entry = self._entries[bucket].get(key)
        if entry is None and not self._keys.one_spelling and (key in self.live or key in self.dead):
            for place, entries in enumerate(self._entries):
                if key in entries:
                    return place, entries[key]
        return bucket, entry

    def _enter(self, bucket: int, key: K, stamp: Stamp, hashed: int) -> None:
        place, before = self._find(key, bucket)
        if before is not None:
            self._count(place, -before.hashed)
            # Also where it stays in its bucket: a dict keeps the first spelling of a key.
            del self._entries[place][key]
            if place != bucket:  # known by its new spelling from now on
                self.live.pop(key, None)
        self._count(bucket, hashed)
        self._entries[bucket][key] = _Entry(stamp, hashed)

    def _enter_all(
        self, bucket: int, keys: list[K], stamps: list[Stamp], hashes: list[int]
    ) -> None:
        entries = self._entries[bucket]
        new = dict(zip(keys, map(_Entry, stamps, hashes), strict=True))
        known = (entries,) if self._keys.one_spelling else (entries, self.live, self.dead)
        if all(held.keys().isdisjoint(new) for held in known):
            entries.update(new)
            self._count(bucket, sum(hashes))
        else:
            for key, stamp, hashed in zip(keys, stamps, hashes, strict=True):
                self._enter(bucket, key, stamp, hashed)

    def _count(self, bucket: int, difference: int) -> None:
        self.buckets[bucket] = (self.buckets[bucket] + difference) & MASK
        self.root = (self.root + difference) & MASK

    # -- what is in a row --------------------------------------------------------------------------

    def same(self, key: K, entity: V | None) -> bool:
        """Whether this is the content that is held for the key (``None``: absent).

        What counts is the content that was put in, whatever somebody has made of the object since.
        """
        if entity is None or key not in self.live:
            return entity is None and key not in self.live
        try:
            content = self._rows.encode(entity)
        except InvalidEntityError:  # which whoever puts it in is told
            return False
        return self._is(key, content)

    def content(self, key: K) -> bytes | None:
        """The bytes of the row as it was put in; ``None`` if somebody has changed the object in place since.

        Raises `KeyError` where no row is held for the key.
        """
        entity = self.live[key]
        try:
            content = self._rows.encode(entity)
        except Exception:
            # What was made of it has no bytes, or upsets a serializer of the application.
            return None
        return content if self._is(key, content) else None

    def intact(self, key: K) -> bool:
        """Whether there is a row for the key, as it was put in: nobody has changed the object in place."""
        return key in self.live and self.content(key) is not None

    def contents(self, keys: Sequence[K], room: int) -> tuple[list[bytes], list[Stamp], K | None]:
        """The bytes of rows of one bucket, of one after the other until they come to `room`, and their stamps.

        And the first key, if there is one among these, whose row somebody has changed in place (see `content`).
        """
        contents: list[bytes] = []
        left, some = room, FIRST
        with contextlib.suppress(Exception):  # of the one that it is about this is said below
            encoded = self._rows.encode_all(map(self.live.__getitem__, keys))
            while left > 0 and (more := list(itertools.islice(encoded, some))):
                lengths = list(map(len, more))
                if sum(lengths) >= left:  # those that are one too many have been encoded in vain
                    totals = itertools.accumulate(lengths)
                    more = more[: 1 + sum(1 for _ in itertools.takewhile(left.__gt__, totals))]
                contents += more
                left -= sum(lengths)
                some = max(1, left * len(contents) // (2 * (room - left)))
            read = keys[: len(contents)]
            of_keys = self.hashes_of(read)
            entries = list(map(self._entries[of_keys[0] % BUCKETS].__getitem__, read))
            if [entry.hashed for entry in entries] == content_hashes(of_keys, contents):
                return contents, [entry.stamp for entry in entries], None
        return self._contents_of_each(keys, room)

    def _contents_of_each(
        self, keys: Sequence[K], room: int
    ) -> tuple[list[bytes], list[Stamp], K | None]:
        """As `contents`, which knows only that something is wrong with all of them together."""
        contents: list[bytes] = []
        stamps: list[Stamp] = []
        for key in keys:
            content = self.content(key)
            if content is None:
                return [], [], key
            contents.append(content)
            stamps.append(self.stamp(key))
            room -= len(content)
            if room <= 0:
                break
        return contents, stamps, None

    def _is(self, key: K, content: bytes) -> bool:
        of_key = key_hash(self._keys.encode(key))
        _, entry = self._find(key, of_key % BUCKETS)
        return entry is not None and content_hash(of_key, content) == entry.hashed

    # -- all of it ---------------------------------------------------------------------------------

    def clear(self) -> None:
        """Hold nothing at all; what was held is in `dropped`."""
        self.hot.clear()  # which is the same object always
        self.dropped += filter(None, [self.live, self.dead, *self._entries])
        self.live, self.dead = {}, {}
        self.quarantined.clear()
        self.last_good.clear()
        self._entries = [{} for _ in range(BUCKETS)]
        self.buckets[:] = [0] * BUCKETS
        self.root = 0

    def expire_tombstones(self, before: int) -> int:
        """Drop the tombstones of rows that died before a hybrid time; how many went."""
        gone = list(itertools.takewhile(lambda key: self.dead[key].time < before, self.dead))
        for key in gone:
            self._remove(key)
        return len(gone)

    def bucket(self, key: K) -> int:
        """The number of the key's bucket, the same on every node."""
        return key_hash(self._keys.encode(key)) % BUCKETS

    def hashes_of(self, keys: Sequence[K]) -> list[int]:
        """The hashes of keys, the same on every node: of each the bucket is the remainder by `BUCKETS`."""
        return list(map(key_hash, self._keys.encode_all(keys)))

    def keys_in(self, bucket: int) -> list[K]:
        """Every key of a bucket with a row or a tombstone, as of now; none, if there is no such bucket."""
        return list(self._entries[bucket]) if bucket < BUCKETS else []

    def size(self, buckets: Iterable[int]) -> int:
        """How many keys these have."""
        return sum(len(self._entries[bucket]) for bucket in buckets)

    def known(self) -> Iterator[K]:
        """Every key with a row or a tombstone; of a bucket as of when it is come to."""
        for bucket in range(BUCKETS):
            yield from self.keys_in(bucket)

    def stamped(self) -> Iterator[tuple[K, Stamp]]:
        """Every row's key and stamp; nothing may change meanwhile."""
        for entries in self._entries:
            for key, entry in entries.items():
                if key in self.live:
                    yield key, entry.stamp

    # -- digests -----------------------------------------------------------------------------------

    def digests(self) -> bytes:
        """All buckets, each as eight bytes, the most significant first."""
        return _BUCKETS.pack(*self.buckets)

    def differing(self, digests: bytes) -> list[int]:
        """The buckets that differ from another table's `digests`; all of them if that has others."""
        if len(digests) != _BUCKETS.size:
            return list(range(BUCKETS))
        theirs = _BUCKETS.unpack(digests)
        return [
            bucket
            for bucket, (mine, other) in enumerate(zip(self.buckets, theirs, strict=True))
            if mine != other
        ]

    def leaves(self, bucket: int) -> tuple[bytes, list[list[K]]]:
        """The parts of a bucket: their digests, in the form of `digests`, and the keys of each."""
        entries, sums = self._entries[bucket], [0] * LEAVES
        parts: list[list[K]] = [[] for _ in range(LEAVES)]
        keys = list(entries)
        for key, of_key in zip(keys, self.hashes_of(keys), strict=True):
            place = of_key % ALL_LEAVES // BUCKETS
            sums[place] += entries[key].hashed
            parts[place].append(key)
        return _LEAVES.pack(*[total & MASK for total in sums]), parts

    def differing_leaves(self, bucket: int, digests: bytes) -> dict[int, list[K]]:
        """The leaves of a bucket that differ from another table's `leaves`, with their keys; or all of them."""
        mine, parts = self.leaves(bucket)
        others = len(digests) != _LEAVES.size
        theirs = _LEAVES.unpack(mine if others else digests)
        return {
            bucket + BUCKETS * place: parts[place]
            for place, (here, there) in enumerate(zip(_LEAVES.unpack(mine), theirs, strict=True))
            if others or here != there
        }
