"""Rows, events and replicas for the tests of the core. Times are seconds after `NOW`."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable
from typing import Final

import msgspec

from imperfect_dollop.codecs import EntityCodec, KeyCodec, content_hash, key_hash
from imperfect_dollop.replica.effects import Compare, Effect, Reread, Resend, Resync, Settled
from imperfect_dollop.replica.messages import (
    Chunk,
    DeadRow,
    Event,
    Events,
    Footer,
    Header,
    Kind,
    Phase,
    RepositoryState,
    Run,
)
from imperfect_dollop.replica.replica import Replica
from imperfect_dollop.replica.stamp import ABSENT, Stamp, at
from imperfect_dollop.replica.table import BUCKETS

NOW: Final = 1_700_000_000.0


@dataclasses.dataclass(frozen=True, slots=True)
class Row:
    id: int
    version: int = 1
    text: str = ""


KEYS: Final[KeyCodec[int]] = KeyCodec(int)
ROWS: Final = EntityCodec(Row)


def make(origin: str = "a", *, whole: bool = True) -> Replica[int, Row]:
    """A replica, empty and warm."""
    return Replica(
        origin,
        KEYS,
        ROWS,
        key_of=lambda row: row.id,
        version_of=lambda row: row.version,
        whole=whole,
    )


def time(second: float) -> int:
    return at(NOW + second)


def stamp(version: int, second: float, origin: str = "b") -> Stamp:
    return Stamp(version, time(second), origin)


def event(kind: Kind, key: int, row: Row | None, own: Stamp, base: Stamp = ABSENT) -> Event:
    return Event(kind, KEYS.encode(key), None if row is None else ROWS.encode(row), own, base)


def create(row: Row, second: float, base: Stamp = ABSENT, origin: str = "b") -> Event:
    return event(Kind.CREATE, row.id, row, stamp(row.version, second, origin), base)


def update(row: Row, second: float, base: Stamp, origin: str = "b") -> Event:
    return event(Kind.UPDATE, row.id, row, stamp(row.version, second, origin), base)


def delete(key: int, version: int, second: float, base: Stamp, origin: str = "b") -> Event:
    return event(Kind.DELETE, key, None, stamp(version, second, origin), base)


def confirm(began: float, answered: float, origin: str = "b") -> Event:
    """That a complete load began and was answered at these seconds."""
    return Event(Kind.CONFIRM, b"", None, stamp(0, answered, origin), stamp(0, began, origin))


def found(
    key: int, row: Row | None, own: Stamp, base: Stamp, answers: Iterable[Stamp] = ()
) -> Event:
    one = event(Kind.FOUND, key, row, own, base)
    return msgspec.structs.replace(one, answers=tuple(answers))


def batch(
    *events: Event, first: int = 1, origin: str = "b", fingerprint: str = ROWS.fingerprint
) -> Events:
    return Events(origin, "rows", fingerprint, first, list(events))


def give(
    replica: Replica[int, Row],
    *events: Event,
    second: float = 100.0,
    origin: str = "b",
    fingerprint: str = ROWS.fingerprint,
) -> list[Effect]:
    """The next events of an origin arrive; what comes of them."""
    first = replica.progress.vector.get(origin, 0) + 1
    message = batch(*events, first=first, origin=origin, fingerprint=fingerprint)
    return replica.receive(message, NOW + second)


def load_all(
    replica: Replica[int, Row], *rows: Row, second: float = 0.0, during: Iterable[Event] = ()
) -> list[Event]:
    """A complete load that began at `second` finds these rows; `during` arrives before it ends."""
    load = replica.begin_load(NOW + second)
    for one in during:
        give(replica, one)
    differences = [
        one for piece in replica.replace(load, {row.id: row for row in rows}) for one in piece
    ]
    replica.end_load(load)
    return differences


def reread(
    replica: Replica[int, Row], key: int, row: Row | None, second: float
) -> tuple[bool, Event | None]:
    """A read of one key that began at `second` finds this."""
    load = replica.begin_load(NOW + second)
    try:
        return replica.loaded(load, key, row)
    finally:
        replica.end_load(load)


def holds(replica: Replica[int, Row], *rows: Row) -> bool:
    """Whether exactly these rows are shown."""
    return replica.table.live == {row.id: row for row in rows}


def doubts(effects: Iterable[Effect]) -> set[object]:
    return {key for effect in effects if isinstance(effect, Reread) for key in effect.keys}


def settled(effects: Iterable[Effect]) -> set[object]:
    return {key for effect in effects if isinstance(effect, Settled) for key in effect.keys}


def resends(effects: Iterable[Effect]) -> list[tuple[str, int, int]]:
    return [
        (effect.origin, effect.first, effect.last)
        for effect in effects
        if isinstance(effect, Resend)
    ]


def compares(effects: Iterable[Effect]) -> list[str]:
    return [effect.origin for effect in effects if isinstance(effect, Compare)]


def resyncs(effects: Iterable[Effect]) -> bool:
    return any(isinstance(effect, Resync) for effect in effects)


def state(
    replica: Replica[int, Row],
    members: Iterable[str] = ("a", "b"),
    *,
    phase: Phase = Phase.READY,
    clean: bool = True,
    kept: int = 1,
) -> RepositoryState:
    """What a replica's heartbeat says."""
    return RepositoryState(
        "rows",
        replica.rows.fingerprint,
        phase,
        replica.whole,
        clean,
        replica.sequence,
        replica.progress.hash(list(members), replica.origin, replica.sequence),
        replica.table.root,
        len(replica.table.live),
        replica.confirmed,
        0,
        kept,
    )


def recomputed(replica: Replica[int, Row]) -> tuple[int, list[int]]:
    """Root and buckets of the digest, from nothing but the rows."""
    buckets = [0] * BUCKETS
    for key, row in replica.table.live.items():
        part = content_hash(key_hash(KEYS.encode(key)), ROWS.encode(row))
        bucket = replica.table.bucket(key)
        buckets[bucket] = (buckets[bucket] + part) % 2**64
    return sum(buckets) % 2**64, buckets


def adds_up(replica: Replica[int, Row]) -> bool:
    """Whether its digest is that of its rows."""
    return (replica.table.root, replica.table.buckets) == recomputed(replica)


def equal(one: Replica[int, Row], other: Replica[int, Row]) -> bool:
    """Whether both hold the same rows, and the digest of the one is right."""
    return one.table.live == other.table.live and adds_up(one)


# -- frames ----------------------------------------------------------------------------------------

FOOTER: Final = Footer({"b": 1}, 0, 0, clean=True)


def header(*buckets: int, address: str = "t1", fingerprint: str = ROWS.fingerprint) -> Header:
    return Header(address, fingerprint, {"b": 1}, 0, list(buckets))


def chunk(
    *buckets: int,
    live: Iterable[Row | bytes] = (),
    runs: list[Run] | None = None,
    dead: Iterable[int | DeadRow] = (),
    more: bool = False,
) -> Chunk:
    """Rows and graves of ``b``, or such as no donor sends."""
    contents = [one if isinstance(one, bytes) else ROWS.encode(one) for one in live]
    return Chunk(
        list(buckets),
        more,
        {"b": 1},
        ["b"],
        contents,
        [Run(1, time(1), 0)] * len(contents) if runs is None else runs,
        [
            one if isinstance(one, DeadRow) else DeadRow(KEYS.encode(one), 1, time(1), 0)
            for one in dead
        ],
    )
