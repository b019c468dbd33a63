"""Counters and the figures that `Repository.info` gives."""

from __future__ import annotations

import dataclasses
from enum import StrEnum

from .replica.counts import EVENT_REASONS, MESSAGE_REASONS, PROPAGATION_BOUNDS, Histogram

__all__ = ["Histogram", "Info", "NodeStats", "State", "Stats"]


class State(StrEnum):
    """What a repository can do for a reader. Compares equal to its plain text."""

    CLOSED = "closed"
    """Not open: calls raise `ClosedError`."""
    COLD = "cold"
    """Nothing is held, and the last attempt to fill it failed; the next one is due soon."""
    LOADING = "loading"
    """Nothing is held yet; asynchronous reads wait."""
    READY = "ready"
    """Everything is held and, as far as is known, in step."""
    DEGRADED = "degraded"
    """Answering from memory, but source or broker is away, or something that was missed is still
    to be repaired."""


@dataclasses.dataclass(slots=True)
class Stats:
    """Plain counters since the repository was opened; seconds are floats."""

    hits: int = 0
    """Keys answered from memory by `get` and `get_many`, and calls of `get_all`; not the reads that never wait."""
    misses: int = 0
    """Reads of a key that was not in memory; where the whole set is held, of an absent key."""
    stale_served: int = 0
    """Hits that were answered with data older than `ttl`."""
    loads: int = 0
    """Reads of the source by key, each for one or many keys."""
    full_loads: int = 0
    """Reads of the whole set from the source."""
    load_failures: int = 0
    """Reads of the source that failed, of either kind."""
    load_seconds: float = 0.0
    """Spent in `loads`."""
    full_load_seconds: float = 0.0
    """Spent in `full_loads`."""
    writes: int = 0
    """Creates, updates and deletes that the source has committed."""
    conflicts: int = 0
    """Writes that the source refused because of another version or a constraint."""
    snapshots: int = 0
    """Copies of the whole set taken from siblings."""
    snapshot_seconds: float = 0.0
    """Spent taking copies; those that came to nothing included."""
    snapshot_bytes: int = 0
    """Received for copies, and for comparisons; for those that came to nothing as well."""
    snapshots_given: int = 0
    """Copies of the whole set given to siblings."""
    snapshot_seconds_given: float = 0.0
    """Spent giving copies, and what differs in them; what came to nothing included."""
    snapshot_bytes_given: int = 0
    """Sent for copies, and for comparisons; for those that came to nothing as well."""
    evictions: int = 0
    """Entries dropped to stay within `max_entries`."""
    events_sent: int = 0
    """Events handed to the broker."""
    events_received: int = 0
    """Events of siblings that were taken in."""
    applied: int = 0
    """Events that changed what is held."""
    ignored: int = 0
    """Events that changed nothing: their content was held already, or in doubt, or of a row not held here."""
    duplicates: int = 0
    """Events that had been taken in before."""
    doubts: int = 0
    """Keys that had to be read again: the order of events was in doubt, or a write had failed."""
    shared: int = 0
    """Those of them that a sibling's read has settled."""
    gaps: int = 0
    """Times that something was noticed to be missing."""
    events_resent: int = 0
    """Events sent again to siblings that had missed them."""
    comparisons: int = 0
    """Times that the copy was compared with a sibling's, to the end, bucket by bucket."""
    mended: int = 0
    """Rows that such a comparison has put right without the source."""
    quarantined: int = 0
    """Rows that are quarantined now: the source has them and they cannot be held, see `Repository.quarantined`."""
    mutated: int = 0
    """Rows that were found changed in place by somebody."""
    repairs: int = 0
    """Times that the whole set was compared, with a sibling or the source, because something was missing."""
    rejected: int = 0
    """Events that could not be read or believed."""
    rejections: dict[str, int] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(EVENT_REASONS, 0)
    )
    """The same by reason: ``schema`` (of another shape), ``clock`` (too far in the future), ``numbers``, ``key``,
    ``malformed``."""
    propagation: Histogram = dataclasses.field(
        default_factory=lambda: Histogram(PROPAGATION_BOUNDS)
    )
    """Seconds from a sibling's commit until the event was applied here, by both hosts' clocks."""


@dataclasses.dataclass(frozen=True, slots=True)
class NodeStats:
    """A node's figures as of now; counters since it was opened."""

    broker_up: bool = False
    """Whether there is a connection to the broker."""
    connections: int = 0
    """Connections to the broker that were made."""
    members: int = 0
    """Live nodes, this one included."""
    inbox: int = 0
    """Messages that have arrived and are still to be taken in."""
    unsent: dict[str, int] = dataclasses.field(default_factory=dict[str, int])
    """Events that wait for the broker, by repository."""
    agreed: dict[str, bool | None] = dataclasses.field(default_factory=dict[str, bool | None])
    """Whether all replicas agree, as far as is seen from here, by repository: False when one is known to differ, or
    may; ``None`` where it is not known."""
    rejections: dict[str, int] = dataclasses.field(
        default_factory=lambda: dict.fromkeys(MESSAGE_REASONS, 0)
    )
    """Messages, and frames of copies, that were not let in, by reason: ``malformed``, ``oversized``; where this node
    has a secret ``unsigned``, ``forged``, ``stale`` (heard before, or too old); where it has none ``signed``."""
    crashes: int = 0
    """Background tasks that ended in an error that nobody had foreseen: a bug, see the log."""


@dataclasses.dataclass(frozen=True, slots=True)
class Info:
    """How fresh a repository is. Times are seconds since the epoch, ages seconds."""

    entities: int
    """Rows in memory."""
    last_source_read: float | None
    """When the last complete read of the source began, by whichever node; on demand, the last read here."""
    source_alive_since: float | None
    """Since when every read of the source by this node has succeeded; ``None`` while it fails, or
    was not read yet."""
    data_age: float | None
    """Seconds since `last_source_read`; events that came later are newer still."""
    stale_since: float | None
    """Since when the data is older than `ttl`; ``None`` if it is not."""
