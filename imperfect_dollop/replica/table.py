"""What one replica holds: live rows, tombstones, their stamps, and the digest of the content.

`Table.live` is a plain dict, and the very one that reads look into; it is never replaced by another. The
digest is a sum over the hashes of all live rows, per bucket and over all, kept up to date with every
change: equal sums mean equal content, in whatever order it came about.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Final, Generic, TypeVar

from ..codecs import EntityCodec, KeyCodec, content_hash, key_hash
from ..errors import InvalidEntityError
from .stamp import ABSENT, Stamp

__all__ = ["BUCKETS", "Table"]

K = TypeVar("K")
V = TypeVar("V")

BUCKETS: Final = 1_024
"""A power of two. At a million rows a bucket that differs costs a thousand row hashes to look into."""

MASK: Final = 2**64 - 1


class Table(Generic[K, V]):
    """Entries by key. Knows no rule about which state is the newer one."""

    __slots__ = ("_keys", "_rows", "buckets", "dead", "live", "root", "stamps")

    def __init__(self, keys: KeyCodec[K], rows: EntityCodec[V]) -> None:
        self._keys = keys
        self._rows = rows
        self.live: dict[K, V] = {}
        self.stamps: dict[K, Stamp] = {}
        self.dead: dict[K, Stamp] = {}
        self.buckets: list[int] = [0] * BUCKETS
        self.root: int = 0

    def stamp(self, key: K) -> Stamp:
        """The stamp of what is held for the key, tombstones included; `ABSENT` if nothing is."""
        return self.stamps.get(key) or self.dead.get(key) or ABSENT

    def put(self, key: K, entity: V, stamp: Stamp) -> None:
        """Hold this row. Raises `InvalidEntityError`, and changes nothing, if it has no bytes."""
        key_bytes = self._keys.encode(key)
        gained = content_hash(key_bytes, self._rows.encode(entity))
        self._count(key, key_bytes, gained)
        self.dead.pop(key, None)
        self.live[key] = entity
        self.stamps[key] = stamp

    def bury(self, key: K, stamp: Stamp) -> None:
        """Hold a tombstone instead of a row."""
        self._count(key, self._keys.encode(key), 0)
        self.live.pop(key, None)
        self.stamps.pop(key, None)
        self.dead.pop(key, None)  # the newest tombstone stands last
        self.dead[key] = stamp

    def restamp(self, key: K, stamp: Stamp) -> None:
        """The same content, known by a newer stamp."""
        if key in self.live:
            self.stamps[key] = stamp
        elif key in self.dead:
            self.dead[key] = stamp

    def forget(self, key: K) -> None:
        """Hold nothing for the key, not even a tombstone."""
        self._count(key, self._keys.encode(key), 0)
        self.live.pop(key, None)
        self.stamps.pop(key, None)
        self.dead.pop(key, None)

    def clear(self) -> None:
        """Hold nothing at all."""
        self.live.clear()
        self.stamps.clear()
        self.dead.clear()
        self.buckets[:] = [0] * BUCKETS
        self.root = 0

    def expire_tombstones(self, before: int, most: int) -> int:
        """Drop tombstones older than a hybrid time, and the oldest beyond `most`; how many went."""
        gone: list[K] = []
        surplus = len(self.dead) - most
        for key, stamp in self.dead.items():
            if stamp.time >= before and len(gone) >= surplus:
                break
            gone.append(key)
        for key in gone:
            del self.dead[key]
        return len(gone)

    def bucket(self, key: K) -> int:
        """The number of the key's bucket, the same on every node."""
        return key_hash(self._keys.encode(key)) % BUCKETS

    def same(self, one: V | None, other: V | None) -> bool:
        """Whether two states of a row have the same content (``None``: absent)."""
        if one is None or other is None:
            return one is other
        if one is other:
            return True
        try:
            return self._rows.encode(one) == self._rows.encode(other)
        except InvalidEntityError:  # mutated in place into what has no bytes
            return False

    def known(self) -> Iterator[K]:
        """Every key with a row or a tombstone, as of now."""
        yield from list(self.live)
        yield from list(self.dead)

    def _count(self, key: K, key_bytes: bytes, gained: int) -> None:
        held = self.live.get(key)
        lost = 0
        if held is not None:
            # Should somebody have mutated the entity in place, the digest is off from here on, which the
            # siblings notice; that must not keep the row from being replaced.
            with contextlib.suppress(InvalidEntityError):
                lost = content_hash(key_bytes, self._rows.encode(held))
        bucket = key_hash(key_bytes) % BUCKETS
        self.buckets[bucket] = (self.buckets[bucket] + gained - lost) & MASK
        self.root = (self.root + gained - lost) & MASK
