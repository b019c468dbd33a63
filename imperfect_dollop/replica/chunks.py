"""The rows and tombstones of some buckets, packed for another replica and unpacked by it."""

from __future__ import annotations

from typing import Final, Generic, TypeAlias, TypeVar

from ..errors import ProtocolError
from .messages import Chunk, DeadRow, LiveRow
from .replica import Replica
from .stamp import Stamp

__all__ = ["CHUNK_BYTES", "ChunkMaker", "Stamps", "decoded"]

K = TypeVar("K")
V = TypeVar("V")

CHUNK_BYTES: Final = 64 << 10
"""A chunk is closed past this: large enough to hide a round trip, small enough to encode in under a millisecond."""

MAX_SHARED: Final = 10_000
"""Stamps that are remembered for the rows to come; where each row has its own it would be for nothing."""


class ChunkMaker(Generic[K, V]):
    """Rows of a chunk in the making; no await may come between the first row and the last."""

    def __init__(self, replica: Replica[K, V]) -> None:
        self._replica = replica
        self._origins: dict[str, int] = {}
        self.buckets: list[int] = []
        self.size: int = 0
        self._live: list[LiveRow] = []
        self._dead: list[DeadRow] = []

    def add(self, key: K) -> bool:
        """Put in what is held for the key now. False if that is not known: the object was changed in place."""
        table = self._replica.table
        stamp = table.stamp(key)
        origin = self._origins.setdefault(stamp.origin, len(self._origins))
        if key in table.live:
            content = table.content(key)
            if content is None:
                return False
            self._live.append(LiveRow(content, stamp.time, origin))
            self.size += len(content) + 16
        elif key in table.dead:
            key_bytes = self._replica.keys.encode(key)
            self._dead.append(DeadRow(key_bytes, stamp.version, stamp.time, origin))
            self.size += len(key_bytes) + 24
        return True

    def made(self, vector: dict[str, int], *, more: bool) -> Chunk:
        """The chunk; `more` if the last bucket goes on in the next one."""
        return Chunk(self.buckets, more, vector, list(self._origins), self._live, self._dead)


Stamps: TypeAlias = dict[tuple[int, int, str], Stamp]


def decoded(
    replica: Replica[K, V], chunk: Chunk, stamps: Stamps
) -> list[tuple[int, K, V | None, Stamp]]:
    """The entries of a chunk, each with its bucket. Raises `ProtocolError` if one of them is unusable.

    Most rows were loaded at once: equal stamps are one, kept in `stamps` for the next chunk.
    """
    rows: list[tuple[int, K, V | None, Stamp]] = []
    if len(stamps) > MAX_SHARED:
        stamps.clear()
    for row in chunk.live:
        entity = replica.rows.decode(row.content)
        try:
            key, version = replica.key_of(entity), replica.version_of(entity)
            bucket = replica.table.bucket(key)
        except Exception as error:  # the application's functions, on content from outside
            raise ProtocolError(f"a row without a usable key: {error}") from error
        rows.append((bucket, key, entity, _stamp(chunk, version, row, stamps)))
    for grave in chunk.dead:
        key = replica.keys.decode(grave.key)
        stamp = _stamp(chunk, grave.version, grave, stamps)
        rows.append((replica.table.bucket(key), key, None, stamp))
    asked = set(chunk.buckets)
    for bucket, *_ in rows:
        if bucket not in asked:
            raise ProtocolError(f"a row of bucket {bucket} in a chunk of others")
    return rows


def _stamp(chunk: Chunk, version: int, row: LiveRow | DeadRow, stamps: Stamps) -> Stamp:
    try:
        origin = chunk.origins[row.origin]
    except IndexError as error:
        raise ProtocolError("a row of an origin that the chunk does not name") from error
    name = version, row.time, origin
    stamp = stamps.get(name)
    if stamp is None:
        stamp = stamps[name] = Stamp(*name)
    return stamp
