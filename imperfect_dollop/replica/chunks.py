"""The rows and tombstones of some buckets, packed for another replica and unpacked by it.

Many rows at a time, and each step for all of them: what is left of Python for a single row is what a snapshot costs.
"""

from __future__ import annotations

import itertools
from typing import Final, Generic, NamedTuple, TypeAlias, TypeVar

from ..errors import ProtocolError
from .messages import Chunk, DeadRow, Run
from .replica import Replica
from .stamp import ABSENT, Stamp
from .table import BUCKETS

__all__ = ["CHUNK_BYTES", "ChunkMaker", "Rows", "Stamps", "dead_rows", "live_rows"]

K = TypeVar("K")
V = TypeVar("V")

CHUNK_BYTES: Final = 64 << 10
"""A chunk is closed past this: large enough to hide a round trip, small enough to encode in under a millisecond."""

ROW_BYTES: Final = 16
"""What a row takes beside its content, at most; a tombstone half as much again."""

MAX_SHARED: Final = 10_000
"""Stamps that are remembered for the rows to come; where each row has its own it would be for nothing."""

Stamps: TypeAlias = dict[Stamp, Stamp]
"""Each is the one object of its kind: most rows were loaded at once, and share it."""


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
        self._live: list[bytes] = []
        self._stamps: list[Stamp] = []  # of these
        self._dead: list[DeadRow] = []

    @property
    def full(self) -> bool:
        """Whether it is to be closed."""
        return self._room <= 0

    def add(self, keys: list[K]) -> list[K]:
        """Put in what is held for these keys now, at least of one; returns those for which there was no room."""
        table, origins = self._replica.table, self._origins
        live, left = keys, []
        if not all(map(table.live.__contains__, keys)):
            live = [key for key in keys if key in table.live]
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
        if self.full or not live:
            return left + live
        contents, stamps, self.altered = table.contents(live, self._room)
        self._live += contents
        self._stamps += stamps
        self._room -= sum(map(len, contents)) + ROW_BYTES * len(contents)
        return left + live[len(contents) :]

    def made(self, vector: dict[str, int], *, more: bool) -> Chunk:
        """The chunk; `more` if the last bucket goes on in the next one."""
        runs: list[Run] = []
        rows, last = 0, ABSENT
        for stamp, together in itertools.groupby(self._stamps):
            if rows and (stamp.time != last.time or stamp.origin != last.origin):
                runs.append(Run(rows, last.time, self._origins[last.origin]))
                rows = 0
            rows += len(list(together))  # of one version, or of several
            last = stamp
        if rows:
            runs.append(Run(rows, last.time, self._origins[last.origin]))
        return Chunk(self.buckets, more, vector, list(self._origins), self._live, runs, self._dead)


class Rows(NamedTuple, Generic[K, V]):
    """What a chunk has of live rows, each place in these lists one row."""

    keys: list[K]
    of_keys: list[int]
    """Their hashes."""
    areas: list[int]
    """Of each the bucket, or the leaf."""
    entities: list[V]
    stamps: list[Stamp]
    contents: list[bytes]


def live_rows(
    replica: Replica[K, V], chunk: Chunk, stamps: Stamps, areas: int = BUCKETS
) -> Rows[K, V]:
    """The rows of a chunk. Raises `ProtocolError` if one of them is unusable. `stamps` are kept for the next chunk.

    `areas`: how many there are of what the chunk calls its buckets.
    """
    if sum(run.rows for run in chunk.runs) != len(chunk.live):
        raise ProtocolError("a chunk with more or fewer rows than it says")
    entities = replica.rows.decode_all(chunk.live)
    try:
        keys, versions = replica.identify(entities)
        of_keys = replica.table.hashes_of(keys)
    except Exception as error:  # the application's functions, on content from outside
        raise ProtocolError(f"a row without a usable key: {error}") from error
    places = _areas_of(chunk, of_keys, areas)
    return Rows(keys, of_keys, places, entities, _stamps_of(chunk, versions, stamps), chunk.live)


def _stamps_of(chunk: Chunk, versions: list[int], stamps: Stamps) -> list[Stamp]:
    """Of each row its stamp, from what the chunk says of many and the version that the row has."""
    if len(stamps) > MAX_SHARED:
        stamps.clear()
    found: list[Stamp] = []
    for run in chunk.runs:
        origin = _origin(chunk, run.origin)
        of_run = versions[len(found) : len(found) + run.rows]
        by_version: dict[int, Stamp] = {}
        for version in set(of_run):
            stamp = Stamp(version, run.time, origin)
            by_version[version] = stamps.setdefault(stamp, stamp)
        found += map(by_version.__getitem__, of_run)
    return found


def dead_rows(
    replica: Replica[K, V], chunk: Chunk, areas: int = BUCKETS
) -> list[tuple[K, int, Stamp]]:
    """The tombstones of a chunk, each with its key's hash. As `live_rows`."""
    keys = [replica.keys.decode(row.key) for row in chunk.dead]
    stamps = [Stamp(row.version, row.time, _origin(chunk, row.origin)) for row in chunk.dead]
    of_keys = replica.table.hashes_of(keys)
    _areas_of(chunk, of_keys, areas)
    return list(zip(keys, of_keys, stamps, strict=True))


def _areas_of(chunk: Chunk, of_keys: list[int], areas: int) -> list[int]:
    """The bucket, or the leaf, of each; one of those that the chunk has."""
    places = [of_key % areas for of_key in of_keys]
    strangers = set(places).difference(chunk.buckets)
    if strangers:
        raise ProtocolError(f"a row of bucket {min(strangers)} in a chunk of others")
    return places


def _origin(chunk: Chunk, number: int) -> str:
    try:
        return chunk.origins[number]
    except IndexError as error:
        raise ProtocolError("a row of an origin that the chunk does not name") from error
