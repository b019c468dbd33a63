"""What nodes say to each other, and the frames of a snapshot.

msgpack arrays decoded into the types declared here, with limits on every size: whatever else arrives is
a `ProtocolError` and nothing more. Entities and keys travel as bytes of their own, so that a message
can be understood even where an entity in it cannot.
"""

from __future__ import annotations

from enum import IntEnum
from typing import Annotated, Final, TypeAlias, TypeGuard, TypeVar

import msgspec

from ..errors import ProtocolError
from .stamp import MAX_NAME, Int63, Name, Stamp

__all__ = [
    "FOR_ALL",
    "MAX_ANSWERS",
    "MAX_BATCH",
    "MAX_ENTITY",
    "MAX_MESSAGE",
    "MAX_NAME",
    "MAX_ORIGINS",
    "MAX_REPOSITORIES",
    "NOT_COMPARABLE",
    "SEALED",
    "WITHOUT_CONTENT",
    "WRITTEN",
    "Ask",
    "Chunk",
    "Event",
    "Events",
    "Footer",
    "Frame",
    "Header",
    "Heartbeat",
    "Kind",
    "News",
    "Phase",
    "Refuse",
    "RepositoryState",
    "Take",
    "decode",
    "decode_frame",
    "encode",
    "is_name",
]

T = TypeVar("T")

MAX_MESSAGE: Final = 8 << 20
"""Bytes of one message or frame: above what we send, below what would hurt."""

MAX_ENTITY: Final = 1 << 20
"""Bytes of an entity that an event carries. A larger one is announced, and read from the source."""

MAX_BATCH: Final = 500
"""Events in one message: past that a larger message gains nothing and holds the loop for longer."""

MAX_BEAT_SECONDS: Final = 3_600.0
"""Between two heartbeats: three of them missing, and a node counts as gone."""

MAX_REPOSITORIES: Final = 1_000
"""Repositories of a node: what one heartbeat can tell of."""

MAX_ORIGINS: Final = 10_000
"""Runs of nodes that are remembered: how far each was taken in."""

MAX_ROWS: Final = 1 << 16
"""Rows of one chunk, and origins of them: many times what we send."""

MAX_ANSWERS: Final = 16
"""Stamps that one re-read answers: more than there are writers who race for one row, each some 50 bytes."""

MAX_BUCKETS: Final = 1 << 16
"""Buckets that a message can name."""

SEALED: Final = b"\xc1"
"""Begins a message in an envelope, see `seal`: the one byte that msgpack leaves unused."""

Word = Annotated[int, msgspec.Meta(ge=0)]
Vector = Annotated[
    dict[Name, Int63], msgspec.Meta(max_length=MAX_ORIGINS + 1)
]  # its maker and others
Buckets = Annotated[list[Int63], msgspec.Meta(max_length=MAX_BUCKETS)]


class Kind(IntEnum):
    """What an event says."""

    CREATE = 1
    UPDATE = 2
    DELETE = 3
    FOUND = 4
    """A load found that the row is now this (or absent): nobody here wrote it."""
    REREAD = 5
    """The row's content is not in the event: read it from the source."""
    FORGET = 6
    """Drop the key from memory (on demand), as after `invalidate`."""
    CLEAR = 7
    """Drop everything and load anew."""
    CONFIRM = 8
    """A complete load was answered at the stamp's time, and began at the base's; its differences came before this."""


FOR_ALL: Final = (Kind.CLEAR, Kind.CONFIRM)
"""Kinds of events that are about no key."""

WITHOUT_CONTENT: Final = (Kind.REREAD, Kind.FORGET)
"""Kinds of events that only name a key."""

WRITTEN: Final = (Kind.CREATE, Kind.UPDATE, Kind.DELETE)
"""Kinds of events whose stamp was drawn when the source had just committed."""


class Phase(IntEnum):
    """How far a node's copy of a repository is."""

    COLD = 0
    LOADING = 1
    READY = 2
    REFRESHING = 3


class Event(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """One change of one key. `content` is the entity's bytes; ``None`` where the row is absent.

    `base` is the stamp that the writer's replica held for the key when the write began. `answers`: of what a re-read
    found, the stamps that it is later than, see `disputes`.
    """

    kind: Kind
    key: bytes
    content: bytes | None
    stamp: Stamp
    base: Stamp
    answers: Annotated[tuple[Stamp, ...], msgspec.Meta(max_length=MAX_ANSWERS)] = ()


class Events(msgspec.Struct, array_like=True, frozen=True, tag="e"):
    """Consecutive events of one origin in one repository, numbered from `first` upwards.

    `identity_tag`: of the source that the origin reads and writes, see `identity`.
    """

    origin: Name
    repository: Name
    fingerprint: Name
    first: Int63
    events: Annotated[list[Event], msgspec.Meta(min_length=1, max_length=MAX_BATCH)]
    identity_tag: Name = ""


NOT_COMPARABLE: Final = 0
"""In the place of a hash of what was taken in."""


class RepositoryState(msgspec.Struct, array_like=True, frozen=True):
    """What a heartbeat says about one repository.

    `sequence` is the number of the last event sent, `progress` a hash of how far all others' events were
    taken in, or `NOT_COMPARABLE` where the copy contains what has no number yet,
    `digest` the content's. `confirmed` is when the last complete load began (hybrid time).
    `clean` is false while something is known to be missing, or in doubt. `whole`: every row is held. `failures`: how
    often in a row the source has failed. From number `kept` on the node can send its events again. `wanted`: a complete
    load is to begin after this hybrid time (0: none), since the source may have what no node has told of. `identity`:
    of the node's source, in words; empty where it is not known.
    """

    repository: Name
    fingerprint: Name
    phase: Phase
    whole: bool
    clean: bool
    sequence: Int63
    progress: Word
    digest: Word
    entities: Int63
    confirmed: Int63
    failures: Int63
    kept: Int63
    wanted: Int63 = 0
    identity: Name = ""


class Heartbeat(msgspec.Struct, array_like=True, frozen=True, tag="h"):
    """A node is there (or is `leaving`). `number` counts its heartbeats; the next comes in `every` seconds at most."""

    origin: Name
    name: Name
    number: Int63
    time: Int63
    leaving: bool
    every: Annotated[float, msgspec.Meta(gt=0, le=MAX_BEAT_SECONDS)]
    repositories: Annotated[list[RepositoryState], msgspec.Meta(max_length=MAX_REPOSITORIES)]


class Ask(msgspec.Struct, array_like=True, frozen=True, tag="a"):
    """Events `first` to `last` of `origin` did not arrive at somebody: it is to send them again.

    `identity_tag`: of the source of the node that asks.
    """

    origin: Name
    repository: Name
    first: Int63
    last: Int63
    identity_tag: Name = ""


class Take(msgspec.Struct, array_like=True, frozen=True, tag="t"):
    """`origin` asks `donor` to send these buckets of a repository to the transfer `address`.

    With `digests`, those of its own buckets (`Table.digests`), it asks for the buckets that differ. With both, where
    `digests` are those of the leaves of each of these buckets (`Table.leaves`), for the leaves that differ.
    `identity_tag`: of the source of `origin`.
    """

    origin: Name
    donor: Name
    repository: Name
    fingerprint: Name
    address: Name
    buckets: Buckets
    digests: Annotated[bytes, msgspec.Meta(max_length=8 * MAX_BUCKETS)] = b""
    identity_tag: Name = ""


class Refuse(msgspec.Struct, array_like=True, frozen=True, tag="r"):
    """The donor's answer to a `Take` that it cannot serve."""

    origin: Name
    address: Name
    reason: Name


News: TypeAlias = Events | Heartbeat | Ask | Take | Refuse


class Header(msgspec.Struct, array_like=True, frozen=True, tag="H"):
    """Opens a snapshot. `vector`: the last event of each origin that the donor had applied.

    `buckets`: those that are to come, or leaves where these were asked for. `identity_tag`: of the donor's source.
    """

    address: Name
    fingerprint: Name
    vector: Vector
    confirmed: Int63
    buckets: Buckets
    identity_tag: Name = ""


class Differ(msgspec.Struct, array_like=True, frozen=True, tag="D"):
    """Instead of rows: these buckets differ, and have so many that leaves had better be compared."""

    buckets: Buckets


class Run(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """So many live rows, one after the other, are of this time; `origin` is an index into the chunk's `origins`.

    Most rows were loaded at once: a chunk has few of these. Key and version are in the content of each row.
    """

    rows: Annotated[int, msgspec.Meta(ge=1, le=MAX_ROWS)]
    time: Int63
    origin: Int63


class DeadRow(msgspec.Struct, array_like=True, frozen=True, gc=False):
    """A tombstone."""

    key: bytes
    version: Int63
    time: Int63
    origin: Int63


class Chunk(msgspec.Struct, array_like=True, frozen=True, tag="C"):
    """Whole buckets, or leaves, as of `vector`; the last of them goes on in the next chunk if `more`.

    `live` are the contents of rows, and `runs` together as many.
    """

    buckets: Buckets
    more: bool
    vector: Vector
    origins: Annotated[list[Name], msgspec.Meta(max_length=MAX_ROWS)]
    live: Annotated[list[bytes], msgspec.Meta(max_length=MAX_ROWS)]
    runs: Annotated[list[Run], msgspec.Meta(max_length=MAX_ROWS)]
    dead: Annotated[list[DeadRow], msgspec.Meta(max_length=MAX_ROWS)]


class Footer(msgspec.Struct, array_like=True, frozen=True, tag="F"):
    """Closes a snapshot: everything asked for was sent. `digest` is the donor's content at `vector`."""

    vector: Vector
    digest: Word
    entities: Int63
    clean: bool
    quarantined: list[bytes] = []
    """Keys of rows that the donor has quarantined; of a snapshot, not of a comparison."""


Frame: TypeAlias = Header | Differ | Chunk | Footer

_encoder = msgspec.msgpack.Encoder()
_news: msgspec.msgpack.Decoder[News] = msgspec.msgpack.Decoder(News)
_frame: msgspec.msgpack.Decoder[Frame] = msgspec.msgpack.Decoder(Frame)

encode: Final = _encoder.encode


def decode(payload: bytes) -> News:
    """The message in `payload`. Raises `ProtocolError` unless it is one."""
    return _decoded(_news, payload)


def decode_frame(payload: bytes) -> Frame:
    """The snapshot frame in `payload`. Raises `ProtocolError` unless it is one."""
    return _decoded(_frame, payload)


def is_name(value: object) -> TypeGuard[str]:
    """Whether it can be a name on the wire: 1 to `MAX_NAME` characters that can be encoded."""
    if not isinstance(value, str) or not 0 < len(value) <= MAX_NAME:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


def _decoded(decoder: msgspec.msgpack.Decoder[T], payload: bytes) -> T:
    if len(payload) > MAX_MESSAGE:
        raise ProtocolError(
            f"{len(payload)} bytes in one message; the limit is {MAX_MESSAGE}", reason="oversized"
        )
    if payload.startswith(SEALED):
        raise ProtocolError("a message with a signature", reason="signed")
    try:
        return decoder.decode(payload)
    except (msgspec.MsgspecError, ValueError, RecursionError, OverflowError) as error:
        raise ProtocolError(f"not a message of this protocol: {error}") from error
