"""What one replica holds: live rows, tombstones, their stamps, and the digest of the content.

`Table.live` is a plain dict, and the very one that reads look into; it is never replaced by another. The
digest is a sum over the hashes of all live rows, per bucket and over all, kept up to date with every
change: equal sums mean equal content, in whatever order it came about.
"""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator, Mapping
from typing import Final, Generic, TypeVar

from ..codecs import EntityCodec, KeyCodec, content_hash, key_hash
from ..errors import InvalidEntityError
from .stamp import ABSENT, Stamp

__all__ = ["BUCKETS", "Table"]

K = TypeVar("K")
V = TypeVar("V")

BUCKETS: Final = 1_024
"""A power of two. At a million rows a bucket that differs costs a thousand row hashes to look into."""

MAX_TOMBSTONES: Final = 100_000
"""Deleted keys remembered at most; about 20 MB."""

SORT_SLICE: Final = 2_000
"""Keys sorted into buckets in one go."""

MASK: Final = 2**64 - 1

_BUCKETS: Final = struct.Struct(f">{BUCKETS}Q")


class Table(Generic[K, V]):
    """Entries by key. Knows no rule about which state is the newer one."""

    __slots__ = (
        "_hashes",
        "_keys",
        "_rows",
        "buckets",
        "dead",
        "forgotten",
        "hot",
        "live",
        "root",
        "stamps",
    )

    def __init__(self, keys: KeyCodec[K], rows: EntityCodec[V]) -> None:
        self._keys = keys
        self._rows = rows
        self.live: dict[K, V] = {}
        # Rows of which a reader has found out all there is to consider; whoever puts them here says for how long that
        # holds. Never another object than the one that is live.
        self.hot: dict[K, V] = {}
        self.stamps: dict[K, Stamp] = {}
        self.dead: dict[K, Stamp] = {}  # in the order in which they died
        self.buckets: list[int] = [0] * BUCKETS
        self.root: int = 0
        # What a row has added to the digest is kept: computed again from an entity that was mutated in
        # place it would be another number, and the digest wrong for ever.
        self._hashes: dict[K, int] = {}
        self.forgotten: int = 0  # the latest death of which there was no room to keep the tombstone

    def stamp(self, key: K) -> Stamp:
        """The stamp of what is held for the key, tombstones included; `ABSENT` if nothing is."""
        return self.stamps.get(key) or self.dead.get(key) or ABSENT

    def put(self, key: K, entity: V, stamp: Stamp) -> None:
        """Hold this row. Raises `InvalidEntityError`, and changes nothing, if it has no bytes."""
        key_bytes = self._keys.encode(key)
        hashed = content_hash(key_bytes, self._rows.encode(entity))
        self._count(key_bytes, hashed - self._hashes.get(key, 0))
        self._hashes[key] = hashed
        self.dead.pop(key, None)
        self.hot.pop(key, None)
        self.live[key] = entity
        self.stamps[key] = stamp

    def bury(self, key: K, stamp: Stamp) -> None:
        """Hold a tombstone instead of a row; past `MAX_TOMBSTONES` the oldest goes."""
        self._drop_row(key)
        self.dead.pop(key, None)  # to the end of those that died
        self.dead[key] = stamp
        if len(self.dead) > MAX_TOMBSTONES:
            oldest = next(iter(self.dead))
            self.forgotten = max(self.forgotten, self.dead.pop(oldest).time)

    def restamp(self, key: K, stamp: Stamp) -> None:
        """The same row, known by a newer stamp."""
        self.stamps[key] = stamp

    def forget(self, key: K) -> None:
        """Hold nothing for the key, not even a tombstone."""
        self._drop_row(key)
        self.dead.pop(key, None)

    def clear(self) -> None:
        """Hold nothing at all."""
        for held in (self.live, self.hot, self.stamps, self.dead, self._hashes):
            held.clear()
        self.buckets[:] = [0] * BUCKETS
        self.root = 0

    def expire_tombstones(self, before: int) -> int:
        """Drop the tombstones of rows that died before a hybrid time; how many went."""
        gone = list(itertools.takewhile(lambda key: self.dead[key].time < before, self.dead))
        for key in gone:
            del self.dead[key]
        return len(gone)

    def bucket(self, key: K) -> int:
        """The number of the key's bucket, the same on every node."""
        return key_hash(self._keys.encode(key)) % BUCKETS

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

    def same(self, key: K, entity: V | None) -> bool:
        """Whether this is the content that is held for the key (``None``: absent).

        What counts is the content that was put in, whatever somebody has made of the object since.
        """
        hashed = self._hashes.get(key)
        if entity is None or hashed is None:
            return entity is None and hashed is None
        try:
            content = self._rows.encode(entity)
        except InvalidEntityError:  # which whoever puts it in is told
            return False
        return content_hash(self._keys.encode(key), content) == hashed

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
        hashed = content_hash(self._keys.encode(key), content)
        return content if hashed == self._hashes[key] else None

    def intact(self, key: K) -> bool:
        """Whether there is a row for the key, as it was put in: nobody has changed the object in place."""
        return key in self.live and self.content(key) is not None

    def known(self) -> Iterator[K]:
        """Every key with a row or a tombstone, as of now."""
        return iter([*self.live, *self.dead])

    def sort(self, buckets: Mapping[int, dict[K, None]]) -> Iterator[None]:
        """Put the keys that are known into these buckets, some at a time; not those that come meanwhile."""
        for count, key in enumerate(self.known() if buckets else (), 1):
            keys = buckets.get(self.bucket(key))
            if keys is not None:
                keys[key] = None
            if count % SORT_SLICE == 0:
                yield

    def _drop_row(self, key: K) -> None:
        hashed = self._hashes.pop(key, None)
        if hashed is not None:
            self._count(self._keys.encode(key), -hashed)
            del self.live[key], self.stamps[key]
            self.hot.pop(key, None)

    def _count(self, key_bytes: bytes, difference: int) -> None:
        bucket = key_hash(key_bytes) % BUCKETS
        self.buckets[bucket] = (self.buckets[bucket] + difference) & MASK
        self.root = (self.root + difference) & MASK
