"""What a test and its worker processes say to each other: JSON, one message to a line."""

from __future__ import annotations

from enum import StrEnum
from typing import Any, Final, TypeAlias

import msgspec

from .history import Record


class Point(StrEnum):
    """Where a worker may be told to kill itself."""

    COMMITTED = "committed"
    """Between the source's commit of a write and the event to the siblings."""
    GIVING = "giving"
    """As the donor of a snapshot."""
    TAKING = "taking"
    """As its joiner."""


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """The first line that a worker reads: which node it is."""

    name: str
    broker: str
    database: str
    table: str
    namespace: str
    keys: int
    """Reads look at keys below this."""
    heartbeat: float = 0.3
    ttl: float = 120.0
    backlog: int | None = None
    """Messages that the broker keeps for a node that is slow; ``None`` for as many as it does by default."""
    fatal: Point | None = None
    fatal_after: int = 0
    """Chunks that get through before a worker dies at `fatal`."""
    secret: str | None = None


class Order(msgspec.Struct, frozen=True):
    """Do something, and say what came of it."""

    number: int
    verb: str
    arguments: dict[str, Any]


class Reply(msgspec.Struct, frozen=True, tag="reply"):
    """What came of an order; order 0 is to join."""

    number: int
    result: Any = None
    error: str | None = None
    """The name of the exception's class."""
    message: str = ""


class Seen(msgspec.Struct, frozen=True, tag="seen"):
    """What the node has shown since the last of these."""

    records: list[Record]


Report: TypeAlias = Reply | Seen

READY: Final = 0
"""The number of the reply that says that the node has been entered."""

_encoder = msgspec.json.Encoder()


def line(message: msgspec.Struct) -> bytes:
    return _encoder.encode(message) + b"\n"
