"""One run of a repository, from when it is opened until it is closed: its replica and what serves it.

A repository that is opened again gets a new session with a new origin, and starts cold.
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections.abc import Callable, Collection
from typing import Any, Final, Generic, TypeVar

import anyio

from .clock import monotonic
from .config import fault_in_count, fault_in_seconds, is_number
from .filling import Filling, Place
from .loading import KeyLoads
from .on_demand import Ages
from .quarantine import QuarantineLog
from .replica.messages import NOT_COMPARABLE, Event, Events, Phase, RepositoryState
from .replica.replica import Replica
from .replica.stamp import at, seconds
from .scrub import Scrub
from .siblings import Siblings
from .sourcing import Reader
from .stats import Info, State, Stats
from .supervisor import Supervisor
from .upkeep import Upkeep
from .writing import Writer

__all__ = ["Options", "Session"]

logger: Final = logging.getLogger(__name__)

K = TypeVar("K")
V = TypeVar("V")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """The checked settings of a repository; see `Repository` for what they mean."""

    preload: bool
    versioned: bool
    ttl: float | None
    jitter: float
    retry_after: float
    hard_timeout: float | None
    missing_ttl: float
    max_entries: int | None
    bootstrap: tuple[Place, ...]
    can_reread: bool

    def fault(self) -> str | None:
        """What is wrong with a setting, or with two of them together."""
        for name in ("ttl", "hard_timeout", "retry_after", "missing_ttl"):
            never = name in ("ttl", "hard_timeout")
            fault = fault_in_seconds(name, getattr(self, name), never=never)
            if fault is not None:
                return fault
        if not is_number(self.jitter):
            return f"jitter={self.jitter!r} must be seconds"
        if self.ttl is None and self.jitter:
            return f"jitter={self.jitter!r} spreads the refreshes of ttl, which is None"
        if self.ttl is not None and not 0 <= self.jitter <= self.ttl:
            return f"jitter={self.jitter!r} must be from 0 to ttl={self.ttl!r} seconds"
        if self.max_entries is not None and self.preload:
            return "max_entries bounds what is loaded on demand; preload=True holds all rows"
        if self.max_entries is not None:
            fault = fault_in_count("max_entries", self.max_entries)
            if fault is not None:
                return fault
        if self.preload and not self.bootstrap:
            return "bootstrap=() leaves a cold node nowhere to look"
        for place in self.bootstrap:
            if place not in ("sibling", "source") and not callable(place):
                return f"bootstrap entry {place!r} is neither 'sibling', 'source' nor a function"
        return None


ANSWERING: Final = (State.READY, State.DEGRADED)
"""States in which there is something to answer with."""

OVER: Final = {
    "source": "the source answers again",
    "broker": "the broker is back",
    "events": "what was missed has been made up for",
    "identity": "no member reads another source any more",
    "rows": "no row is quarantined any more",
}
"""What to say when a cause is gone."""

SWEEP_SECONDS: Final = 10.0
"""Between two looks for tombstones that are old enough."""


class Session(Generic[K, V]):
    """What runs while a repository is open. `siblings` is ``None`` where it is used alone."""

    def __init__(
        self,
        reader: Reader[K, V],
        options: Options,
        *,
        owner: object,
        keep: Callable[[V], V],
        supervisor: Supervisor,
        origin: str,
        siblings: Siblings | None,
        node: str | None,
        away: Callable[[], str | None],
        identity: str | None = None,
    ) -> None:
        self.name: str = reader.name
        self.node = node
        self.label: str = self.name if node is None else f"{node}: {self.name}"  # for the log
        self.options = options
        self.stats: Stats = Stats()
        self.closed: bool = False
        self._supervisor = supervisor
        self._siblings = siblings
        self._away = away  # why the broker is, while it is
        self._said: tuple[State, frozenset[str]] = (State.CLOSED, frozenset())
        self.replica: Replica[K, V] = Replica(
            origin,
            reader.keys,
            reader.rows,
            key_of=lambda entity: reader.complete(entity, "an event brought"),
            version_of=reader.version_of,
            identify=reader.identify,
            whole=options.preload,
            identity=identity,
        )
        self.upkeep: Upkeep[K, V] = Upkeep(
            self.replica,
            reader,
            self.stats,
            siblings=siblings,
            bootstrap=options.bootstrap,
            owner=owner,
            label=self.label,
            ttl=options.ttl,
            jitter=options.jitter,
            retry_after=options.retry_after,
            can_reread=options.can_reread,
        )
        self.filling: Filling[K, V] = self.upkeep.filling
        self.ages: Ages[K, V] = Ages(
            self.replica,
            self.stats,
            ttl=options.ttl,
            jitter=options.jitter,
            missing_ttl=options.missing_ttl,
            max_entries=options.max_entries,
        )
        self._quarantine_log = QuarantineLog(self.label, self.replica.table.quarantined)
        self.scrub: Scrub[K, V] = Scrub(self.replica, self.upkeep, self.stats, label=self.label)
        self.upkeep.on_altered = self.scrub.found
        self.upkeep.on_change = self.note_state
        held = _ignore if options.preload else self.ages.held
        self.upkeep.on_reread = held
        self.loads: KeyLoads[K, V] = KeyLoads(
            self.replica,
            reader,
            self.upkeep,
            self.stats,
            spawn=supervisor.spawn,
            publish=self.publish,
            held=held,
        )
        self.writer: Writer[K, V] = Writer(
            self.replica,
            reader,
            self.upkeep,
            self.stats,
            supervisor=supervisor,
            versioned=options.versioned,
            timeout=options.hard_timeout,
            publish=self.publish,
            held=held,
            outdate=self.loads.outdate,
            altered=self.scrub.found,
            keep=keep,
        )
        if options.preload:
            self.replica.go_cold()
        else:
            self.upkeep.on_doubt_of_all = self._all_in_doubt
            self.upkeep.on_cold = self._dropped
            self.upkeep.phase = Phase.READY

    def start(self) -> None:
        """Begin the background work."""
        self.note_state()
        self._supervisor.keep(self.upkeep.run, name=f"upkeep of {self.label}")
        self._supervisor.keep(self._sweep, name=f"sweeping of {self.label}")
        self._supervisor.keep(self.scrub.run, name=f"scrubbing of {self.label}")
        if not self.options.preload:
            self._supervisor.keep(self.ages.run, name=f"ages of {self.label}")

    async def started(self) -> None:
        """Wait until there is data, or the first attempt to get it has failed."""
        if self.options.preload:
            await self.filling.attempted()

    async def drain(self) -> None:
        """Take no new work, and wait for the writes under way.

        Of those that may have been done, and were not looked at since, the siblings are told, who can.
        """
        self.closed = True
        try:
            await self.writer.drained()
        finally:
            self._hand_over()

    def _hand_over(self) -> None:
        for event in self.replica.hand_over(time.time()):
            self.publish(event)

    def _all_in_doubt(self) -> None:
        """Something was missed (on demand): everything is read again, when somebody asks for it."""
        self.ages.expire_all()
        self._hand_over()

    def _dropped(self) -> None:
        """Nothing is held any more (on demand), and nothing is read again before somebody asks."""
        self.ages.drop()
        self._hand_over()

    def close(self) -> None:
        """Tell whoever still waits."""
        self.closed = True
        self.writer.close()
        self.upkeep.close()
        self.note_state()

    def publish(self, event: Event) -> None:
        """Queue an event for the siblings, if there can be any."""
        if self._siblings is not None:
            self._siblings.publish(event)

    # -- what the node brings and asks -----------------------------------------------------------

    def receive(self, events: Events) -> None:
        """Events of a sibling."""
        self.stats.events_received += len(events.events)
        self.upkeep.take(self.replica.receive(events, time.time()))
        if self._quarantine_log.changed:
            self.note_state()

    def heard(
        self,
        origin: str,
        peer: RepositoryState,
        members: Collection[str],
        *,
        all_numbered: bool,
        timely: bool,
    ) -> None:
        """What a sibling's heartbeat says of this repository; `timely` if it has not come between two others.

        `all_numbered`: whether all events of this node have a number.
        """
        clean = self.upkeep.clean and all_numbered
        moment = monotonic()
        self.upkeep.take(
            self.replica.heard(origin, peer, members, clean=clean, moment=moment, timely=timely)
        )
        # Whoever knows that a member has vanished may leave before anybody has looked for what that one wrote last.
        replica = self.replica
        if peer.wanted and replica.whole and replica.clock.observe(peer.wanted, time.time()):
            self.upkeep.want_load(peer.wanted)

    def gone(self, origin: str, *, silent: float | None) -> None:
        """A member has left; or has vanished, after so many seconds in which it cannot have written.

        What it wrote before, at the last, may be known to nobody but the source.
        """
        self.replica.left(origin)
        if silent is not None:
            # By the time that it is: where nothing happens, the replica's clock stands still. It goes on from there, so
            # that what it calls later is, should the wall clock be set back.
            now = self.replica.clock.tick(time.time())
            self.upkeep.look_after(now - at(silent), silent)

    def lost(self, reason: str) -> None:
        """Messages may have been lost."""
        self.upkeep.take(self.replica.lost(reason))

    async def _sweep(self) -> None:
        """Forget what no longer matters, now and then; never returns."""
        while True:
            await anyio.sleep(SWEEP_SECONDS)
            now = time.time()
            siblings = self._siblings
            if siblings is None:
                self.replica.sweep(now, at(now), ())
            else:
                self.replica.sweep(now, siblings.horizon(), siblings.members())

    def looked_around(self, members: Collection[str]) -> None:
        """These members are there. To be called once a heartbeat."""
        self.upkeep.take(self.replica.looked_around(members))
        self.replica.agreement.look(monotonic(), sure=self.upkeep.clean and self._in_view)

    def state_for(
        self, members: Collection[str], kept: int, *, all_numbered: bool = True
    ) -> RepositoryState:
        """What this node's heartbeat says of this repository; from event `kept` on it can send its events again.

        `all_numbered`: whether all events of this node have a number.
        """
        replica, table = self.replica, self.replica.table
        progress = replica.progress.hash(members, replica.origin, replica.sequence)
        return RepositoryState(
            repository=self.name,
            fingerprint=replica.rows.fingerprint,
            phase=self.upkeep.phase,
            whole=replica.whole,
            clean=self.upkeep.clean,
            sequence=replica.sequence,
            progress=progress if all_numbered else NOT_COMPARABLE,
            digest=table.root,
            entities=len(table.live),
            confirmed=replica.confirmed,
            failures=self.upkeep.health.failures,
            kept=kept,
            wanted=self.upkeep.repairs.wanted,
            identity=replica.identity,
        )

    # -- what the application asks ---------------------------------------------------------------

    @property
    def state(self) -> State:
        """What can be promised to a reader."""
        if self.closed:
            return State.CLOSED
        if self.replica.cold:
            return State.LOADING if self.filling.trying else State.COLD
        return State.DEGRADED if self.causes() else State.READY

    def causes(self) -> dict[str, str]:
        """What keeps it from being simply ready, by the kind of it."""
        causes: dict[str, str] = {}
        upkeep = self.upkeep
        if upkeep.health.failure is not None:
            causes["source"] = str(upkeep.health.failure).removeprefix(f"{self.name}: ")
        if (away := self._away()) is not None:
            causes["broker"] = away
        if upkeep.repairs.known is not None:
            causes["events"] = upkeep.repairs.known
        if self._siblings is not None and (foreign := self._siblings.foreign()):
            causes["identity"] = "nothing is exchanged with " + "; ".join(
                f"{', '.join(names)}, which reads {identity}" for identity, names in foreign.items()
            )
        if quarantined := self.replica.table.quarantined:
            key, reason = next(iter(quarantined.items()))
            causes["rows"] = (
                f"{len(quarantined)} quarantined, the first with the key {key!r}: {reason}"
            )
        return causes

    def note_state(self) -> None:
        """Say in the log what has become of it, if that is another state, or has another kind of cause, than before."""
        self._quarantine_log.note()
        causes = self.causes()
        state = self.state
        if state is State.LOADING and "source" in causes:
            state = State.COLD  # one more attempt is no news
        if state is State.CLOSED:
            causes = {}
        if state is State.LOADING:
            causes = {"events": "everything was dropped"} if self._said[0] in ANSWERING else {}
        said = (state, frozenset(causes))
        before, self._said = self._said, said
        if said == before:
            return
        words = [f"{kind}: {cause}" for kind, cause in causes.items()]
        if state in ANSWERING:
            if before[0] not in ANSWERING:
                filled = f"filled by {self.filling.filled_by}" if self.options.preload else "opened"
                words.insert(0, filled)
            elif state is State.READY:
                words = [text for kind, text in OVER.items() if kind in before[1]]
        cause = "; ".join(words)
        warn = "source" in causes and "source" not in before[1]
        logger.log(
            logging.WARNING if warn else logging.INFO,
            "%s is %s%s%s",
            self.label,
            state,
            ": " if cause else "",
            cause,
            extra={
                "dollop": {
                    "node": self.node,
                    "repository": self.name,
                    "state": str(state),
                    "cause": cause,
                }
            },
        )

    def info(self) -> Info:
        """See `Info`."""
        stale_for = self._stale_for()
        if self.options.preload:
            confirmed = self.replica.confirmed
            last, age = (seconds(confirmed) if confirmed else None), self.upkeep.age.seconds
        else:
            age = self.ages.since_last_read
            last = None if age is None else time.time() - age
        return Info(
            entities=len(self.replica.table.live),
            last_source_read=last,
            source_alive_since=self.upkeep.health.alive_since,
            data_age=age,
            stale_since=None if stale_for is None else time.time() - stale_for,
        )

    @property
    def agreed(self) -> bool | None:
        """Whether all replicas agree: False when one, perhaps this one, is wrong or may be; ``None``: not known."""
        if not self._in_view:
            return None
        return self.replica.agreement.agreed if self.upkeep.clean else False

    @property
    def agreed_since(self) -> float | None:
        """Since when they agree, in seconds since the epoch; ``None`` if they do not, or that is not known."""
        return _epoch(self.replica.agreement.since) if self.agreed else None

    @property
    def agreed_at(self) -> float | None:
        """When that was last proven of each, in seconds since the epoch."""
        return _epoch(self.replica.agreement.proven)

    @property
    def _in_view(self) -> bool:
        """Whether there is a whole copy here, and all that there are elsewhere have been heard of."""
        replica, siblings = self.replica, self._siblings
        here = replica.whole and not replica.cold and not self.closed
        return here and (siblings is None or siblings.in_view())

    def counted(self, hits: int) -> Stats:
        """The counters as of now, those of the replica and `hits` that nobody else has counted included."""
        counts = self.replica.counts
        return dataclasses.replace(
            self.stats,
            hits=self.stats.hits + hits,
            applied=counts.applied,
            ignored=counts.ignored,
            duplicates=counts.duplicates,
            doubts=counts.doubts,
            gaps=counts.gaps,
            mended=counts.mended,
            quarantined=len(self.replica.table.quarantined),
            shared=counts.shared,
            rejected=counts.rejections.total(),
            rejections=dict(counts.rejections),
            propagation=counts.propagation.copy(),
        )

    def _stale_for(self) -> float | None:
        """Seconds by which the whole set is older than `ttl`; ``None`` if it is not."""
        age, ttl = self.upkeep.age.seconds, self.options.ttl
        return age - ttl if age is not None and ttl is not None and age > ttl else None


def _epoch(moment: float | None) -> float | None:
    """A monotonic time in seconds since the epoch, to the millisecond: however the clock was set, that long ago."""
    return None if moment is None else round(time.time() - (monotonic() - moment), 3)


def _ignore(key: Any) -> None:
    """Where the whole set is held, nothing is to be noted for a key."""
