"""What is measured of a node and its repositories: names, meanings, and where each value is read.

Nothing is counted here. The library counts in plain numbers as it works, and they are read when somebody asks. Names
follow Prometheus' conventions (https://prometheus.io/docs/practices/naming/). Labels are few and bounded: a
repository's name, never a key.
"""

from __future__ import annotations

import dataclasses
import math
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final, Literal, NamedTuple, Self, TypeAlias

from .. import __version__
from ..node import Node
from ..repository import Repository
from ..stats import Histogram, Info, NodeStats, State, Stats

__all__ = ["FAMILIES", "Family", "Figures", "Labels", "Value"]

Labels: TypeAlias = dict[str, str]
Value: TypeAlias = float | Histogram
Read: TypeAlias = "Callable[[Figures], Iterable[tuple[Labels, Value]]]"


@dataclasses.dataclass(frozen=True, slots=True)
class RepositoryFigures:
    """Of one repository, as of one moment."""

    name: str
    state: State
    info: Info
    stats: Stats

    @classmethod
    def of(cls, repository: Repository[Any, Any]) -> Self:
        """As of now."""
        return cls(repository.name, repository.state, repository.info(), repository.stats)


@dataclasses.dataclass(frozen=True, slots=True)
class Figures:
    """All that is read of a node, as of one moment."""

    node: str
    state: State
    stats: NodeStats
    repositories: list[RepositoryFigures]

    @classmethod
    def of(cls, node: Node) -> Self:
        """As of now."""
        repositories = [RepositoryFigures.of(repository) for repository in node.repositories]
        return cls(node.name, node.state, node.stats, repositories)


class Family(NamedTuple):
    """One metric, with a sample for each repository, or for each node."""

    name: str
    kind: Literal["counter", "gauge", "histogram"]
    doc: str
    read: Read
    """The labels and the value of each sample of a node, without the namespace, which all have."""


def _of_each(read: Callable[[RepositoryFigures], Value]) -> Read:
    """One sample for each repository."""
    return lambda figures: [
        ({"repository": each.name}, read(each)) for each in figures.repositories
    ]


def _by(label: str, **reads: Callable[[Stats], float]) -> Read:
    """A sample of each repository's counters for each of `reads`, whose names are the values of `label`."""

    def samples(figures: Figures) -> Iterator[tuple[Labels, Value]]:
        for repository in figures.repositories:
            for value, read in reads.items():
                yield {"repository": repository.name, label: value}, read(repository.stats)

    return samples


def _of_node(read: Callable[[NodeStats], float]) -> Read:
    """One sample."""
    return lambda figures: [({}, read(figures.stats))]


def _states(state: State) -> Iterator[tuple[Labels, Value]]:
    """A sample for every state, of which one is 1: a change is seen as such, and states can be counted."""
    for each in State:
        yield {"state": str(each)}, float(each is state)


def _node_states(figures: Figures) -> Iterator[tuple[Labels, Value]]:
    return _states(figures.state)


def _repository_states(figures: Figures) -> Iterator[tuple[Labels, Value]]:
    for repository in figures.repositories:
        for labels, value in _states(repository.state):
            yield {"repository": repository.name, **labels}, value


def _rejected_events(figures: Figures) -> Iterator[tuple[Labels, Value]]:
    for repository in figures.repositories:
        for reason, count in repository.stats.rejections.items():
            yield {"repository": repository.name, "reason": reason}, count


def _rejected_messages(figures: Figures) -> Iterator[tuple[Labels, Value]]:
    for reason, count in figures.stats.rejections.items():
        yield {"reason": reason}, count


def _unsent(figures: Figures) -> Iterator[tuple[Labels, Value]]:
    for name, count in figures.stats.unsent.items():
        yield {"repository": name}, count


def _agreed(figures: Figures) -> Iterator[tuple[Labels, Value]]:
    for name, agreed in figures.stats.agreed.items():
        yield {"repository": name}, math.nan if agreed is None else float(agreed)


def _node_info(figures: Figures) -> Iterator[tuple[Labels, Value]]:
    yield {"node": figures.node, "version": __version__}, 1.0


def _data_age(repository: RepositoryFigures) -> float:
    age = repository.info.data_age
    return math.nan if age is None else age


def _source_age(repository: RepositoryFigures) -> float:
    since = repository.info.source_alive_since
    return math.nan if since is None else max(0.0, time.time() - since)


FAMILIES: Final = (
    # -- a repository: what it holds and how fresh that is
    Family(
        "dollop_entities",
        "gauge",
        "Rows in memory.",
        _of_each(lambda each: each.info.entities),
    ),
    Family(
        "dollop_data_age_seconds",
        "gauge",
        "Seconds since the last complete read of the source began on any node; on demand, since the last read here.",
        _of_each(_data_age),
    ),
    Family(
        "dollop_source_connection_age_seconds",
        "gauge",
        "Seconds for which every read of the source by this node has succeeded. NaN while it fails or was not read.",
        _of_each(_source_age),
    ),
    Family(
        "dollop_repository_state",
        "gauge",
        "1 for the state that the repository is in, 0 for the others.",
        _repository_states,
    ),
    Family(
        "dollop_agreed",
        "gauge",
        "1 while all replicas agree, 0 while one is known to be wrong or may be. NaN while it is not known.",
        _agreed,
    ),
    # -- reads
    Family(
        "dollop_hits_total",
        "counter",
        "Keys answered from memory by get and get_many, and calls of get_all.",
        _of_each(lambda each: each.stats.hits),
    ),
    Family(
        "dollop_misses_total",
        "counter",
        "Reads of a key that was not in memory.",
        _of_each(lambda each: each.stats.misses),
    ),
    Family(
        "dollop_stale_served_total",
        "counter",
        "Hits that were answered with data older than ttl.",
        _of_each(lambda each: each.stats.stale_served),
    ),
    Family(
        "dollop_evictions_total",
        "counter",
        "Rows dropped to stay within max_entries.",
        _of_each(lambda each: each.stats.evictions),
    ),
    # -- the source
    Family(
        "dollop_loads_total",
        "counter",
        "Reads of the source that were begun: of keys, or of all rows.",
        _by("kind", keys=lambda stats: stats.loads, all=lambda stats: stats.full_loads),
    ),
    Family(
        "dollop_load_seconds_total",
        "counter",
        "Seconds spent in reads of the source.",
        _by(
            "kind",
            keys=lambda stats: stats.load_seconds,
            all=lambda stats: stats.full_load_seconds,
        ),
    ),
    Family(
        "dollop_load_failures_total",
        "counter",
        "Reads of the source that failed.",
        _of_each(lambda each: each.stats.load_failures),
    ),
    Family(
        "dollop_writes_total",
        "counter",
        "Creates, updates and deletes that the source has committed.",
        _of_each(lambda each: each.stats.writes),
    ),
    Family(
        "dollop_conflicts_total",
        "counter",
        "Writes that the source refused because of another version or a constraint.",
        _of_each(lambda each: each.stats.conflicts),
    ),
    # -- events
    Family(
        "dollop_events_sent_total",
        "counter",
        "Events that the broker has taken.",
        _of_each(lambda each: each.stats.events_sent),
    ),
    Family(
        "dollop_events_received_total",
        "counter",
        "Events of siblings.",
        _of_each(lambda each: each.stats.events_received),
    ),
    Family(
        "dollop_events_applied_total",
        "counter",
        "Events that changed what is held.",
        _of_each(lambda each: each.stats.applied),
    ),
    Family(
        "dollop_events_ignored_total",
        "counter",
        "Events that changed nothing: held already, in doubt, or of a row not held here.",
        _of_each(lambda each: each.stats.ignored),
    ),
    Family(
        "dollop_events_duplicate_total",
        "counter",
        "Events that had been taken in before.",
        _of_each(lambda each: each.stats.duplicates),
    ),
    Family(
        "dollop_events_rejected_total",
        "counter",
        "Events that could not be read or believed, by reason.",
        _rejected_events,
    ),
    Family(
        "dollop_propagation_seconds",
        "histogram",
        "Seconds from a sibling's commit until the event was applied here, by both hosts' clocks.",
        _of_each(lambda each: each.stats.propagation),
    ),
    Family(
        "dollop_outbox_events",
        "gauge",
        "Events that wait for the broker.",
        _unsent,
    ),
    # -- loss and repair
    Family(
        "dollop_doubts_total",
        "counter",
        "Keys that had to be read again because what is right was in doubt.",
        _of_each(lambda each: each.stats.doubts),
    ),
    Family(
        "dollop_doubts_shared_total",
        "counter",
        "Keys in doubt that a sibling's read of the source has settled.",
        _of_each(lambda each: each.stats.shared),
    ),
    Family(
        "dollop_gaps_total",
        "counter",
        "Times that something was noticed to be missing.",
        _of_each(lambda each: each.stats.gaps),
    ),
    Family(
        "dollop_quarantined_rows",
        "gauge",
        "Rows of the source that this node cannot hold.",
        _of_each(lambda each: each.stats.quarantined),
    ),
    Family(
        "dollop_mutated_total",
        "counter",
        "Rows that were found changed in place by somebody.",
        _of_each(lambda each: each.stats.mutated),
    ),
    Family(
        "dollop_repairs_total",
        "counter",
        "Times that everything was compared, with a sibling or the source, because something was missing.",
        _of_each(lambda each: each.stats.repairs),
    ),
    Family(
        "dollop_events_resent_total",
        "counter",
        "Events sent again to siblings that had missed them.",
        _of_each(lambda each: each.stats.events_resent),
    ),
    Family(
        "dollop_comparisons_total",
        "counter",
        "Times that the copy was compared with a sibling's, to the end, bucket by bucket.",
        _of_each(lambda each: each.stats.comparisons),
    ),
    Family(
        "dollop_rows_mended_total",
        "counter",
        "Rows that such a comparison has put right without the source.",
        _of_each(lambda each: each.stats.mended),
    ),
    Family(
        "dollop_snapshots_total",
        "counter",
        "Copies of the whole set, taken from siblings and given to them.",
        _by(
            "direction",
            taken=lambda stats: stats.snapshots,
            given=lambda stats: stats.snapshots_given,
        ),
    ),
    Family(
        "dollop_snapshot_seconds_total",
        "counter",
        "Seconds spent in taking and giving copies, those that came to nothing included.",
        _by(
            "direction",
            taken=lambda stats: stats.snapshot_seconds,
            given=lambda stats: stats.snapshot_seconds_given,
        ),
    ),
    Family(
        "dollop_snapshot_bytes_total",
        "counter",
        "Bytes received and sent for copies, those that came to nothing included.",
        _by(
            "direction",
            taken=lambda stats: stats.snapshot_bytes,
            given=lambda stats: stats.snapshot_bytes_given,
        ),
    ),
    # -- the node
    Family(
        "dollop_node_info",
        "gauge",
        "Always 1: the node's name, and the version of this library.",
        _node_info,
    ),
    Family(
        "dollop_node_state",
        "gauge",
        "1 for the worst state of its repositories, 0 for the others.",
        _node_states,
    ),
    Family(
        "dollop_members",
        "gauge",
        "Live nodes of the namespace, this one included.",
        _of_node(lambda stats: stats.members),
    ),
    Family(
        "dollop_broker_up",
        "gauge",
        "Whether there is a connection to the broker.",
        _of_node(lambda stats: stats.broker_up),
    ),
    Family(
        "dollop_broker_connections_total",
        "counter",
        "Connections to the broker that were made.",
        _of_node(lambda stats: stats.connections),
    ),
    Family(
        "dollop_inbox_messages",
        "gauge",
        "Messages that have arrived and are still to be taken in.",
        _of_node(lambda stats: stats.inbox),
    ),
    Family(
        "dollop_messages_rejected_total",
        "counter",
        "Messages, and frames of copies, that were not let in, by reason.",
        _rejected_messages,
    ),
    Family(
        "dollop_crashes_total",
        "counter",
        "Background tasks that ended in an error that nobody had foreseen.",
        _of_node(lambda stats: stats.crashes),
    ),
)
"""All metrics, each once."""
