"""The rows and tombstones of some buckets, packed for another replica and unpacked by it.

Many rows at a time, and each step for all of them: what is left of Python for a single row is what a snapshot costs.
"""

from __future__ import annotations

from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from ..errors import ProtocolError
from .messages import Chunk, DeadRow, LiveRow
from .replica import Replica
from .stamp import Stamp
from .table import BUCKETS

__all__ = ["CHUNK_BYTES", "ChunkMaker", "Rows", "Stamps", "dead_rows", "live_rows"]

K = TypeVar("K")
V = TypeVar("V")

CHUNK_BYTES: Final = 64 << 10
"""A chunk is closed past this: large enough to hide a round trip, small enough to encode in under a millisecond."""

ROW_BYTES: Final = 16
"""What a row takes beside its content, about; a tombstone half as much again."""

MAX_SHARED: Final = 10_000
"""Stamps that are remembered for the rows to come; where each row has its own it would be for nothing."""

Stamps: TypeAlias = dict[tuple[int, int, str], Stamp]
"""By what they say: most rows were loaded at once, and share one."""


class _Numbers(dict[str, int]):
    """A number for each name, in the order in which they come."""

    def __missing__(self, name: str) -> int:
        self[name] = number = len(self)
        return number


class ChunkMaker(Generic[K, V]):
    """Rows of a chunk in the making; no await may come between the first row and the last."""

    def __init__(self, replica: Replica[K, V], room: int) -> None:
        self._replica = replica
        self._origins = _Numbers()
        self._room = room
        self.buckets: list[int] = []
        self.altered: K | None = (
            None  # a row that somebody has changed in place: what the source had is not known
        )
        self._live: list[LiveRow] = []
        self._dead: list[DeadRow] = []

    @property
    def full(self) -> bool:
        """Whether it is to be closed."""
        return self._room <= 0

    def add(self, keys: list[K]) -> list[K]:
        """Put in what is held for these keys now, at least of one; returns those for which there was no room."""
        table, origins = self._replica.table, self._origins
        left = [key for key in keys if key not in table.live]
        while left:
            key = left.pop()
            if key in table.dead:
                key_bytes, stamp = self._replica.keys.encode(key), table.dead[key]
                number = origins[stamp.origin]
                self._dead.append(DeadRow(key_bytes, stamp.version, stamp.time, number))
                self._room -= len(key_bytes) + ROW_BYTES * 3 // 2
                if self.full:
                    break
        live = [key for key in keys if key in table.live]
        if self.full or not live:
            return left + live
        contents, stamps, self.altered = table.contents(live, self._room)
        self._live += [
            LiveRow(content, stamp.time, origins[stamp.origin])
            for content, stamp in zip(contents, stamps, strict=True)
        ]
        self._room -= sum(map(len, contents)) + ROW_BYTES * len(contents)
        return left + live[len(contents) :]

    def made(self, vector: dict[str, int], *, more: bool) -> Chunk:
        """The chunk; `more` if the last bucket goes on in the next one."""
        return Chunk(self.buckets, more, vector, list(self._origins), self._live, self._dead)


class Rows(NamedTuple, Generic[K, V]):
    """What a chunk has of live rows, each place in these lists one row."""

    keys: list[K]
    of_keys: list[int]
    """Their hashes."""
    entities: list[V]
    stamps: list[Stamp]
    contents: list[bytes]


def live_rows(
    replica: Replica[K, V], chunk: Chunk, stamps: Stamps, areas: int = BUCKETS
) -> Rows[K, V]:
    """The rows of a chunk. Raises `ProtocolError` if one of them is unusable. `stamps` are kept for the next chunk.

    `areas`: how many there are of what the chunk calls its buckets.
    """
    contents = [row.content for row in chunk.live]
    entities = replica.rows.decode_all(contents)
    try:
        keys, versions = replica.identify(entities)
        of_keys = replica.table.hashes_of(keys)
    except Exception as error:  # the application's functions, on content from outside
        raise ProtocolError(f"a row without a usable key: {error}") from error
    names = [
        (version, row.time, _origin(chunk, row.origin))
        for version, row in zip(versions, chunk.live, strict=True)
    ]
    if len(stamps) > MAX_SHARED:
        stamps.clear()
    for name in set(names).difference(stamps):
        stamps[name] = Stamp(*name)
    _check_buckets(chunk, of_keys, areas)
    return Rows(keys, of_keys, entities, [stamps[name] for name in names], contents)


def dead_rows(
    replica: Replica[K, V], chunk: Chunk, areas: int = BUCKETS
) -> list[tuple[K, int, Stamp]]:
    """The tombstones of a chunk, each with its key's hash. As `live_rows`."""
    keys = [replica.keys.decode(row.key) for row in chunk.dead]
    stamps = [Stamp(row.version, row.time, _origin(chunk, row.origin)) for row in chunk.dead]
    of_keys = replica.table.hashes_of(keys)
    _check_buckets(chunk, of_keys, areas)
    return list(zip(keys, of_keys, stamps, strict=True))


def _check_buckets(chunk: Chunk, of_keys: list[int], areas: int) -> None:
    strangers = {of_key % areas for of_key in of_keys}.difference(chunk.buckets)
    if strangers:
        raise ProtocolError(f"a row of bucket {min(strangers)} in a chunk of others")


def _origin(chunk: Chunk, number: int) -> str:
    try:
        return chunk.origins[number]
    except IndexError as error:
        raise ProtocolError("a row of an origin that the chunk does not name") from error
