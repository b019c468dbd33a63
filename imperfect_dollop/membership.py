"""A node's life on the broker: it connects, receives and sends for as long as the link lasts, and connects again.

Everything goes out through one loop in one order, so that a heartbeat never overtakes the events whose numbers it
vouches for. If a message is not taken, the link counts as lost, and what was under way is sent again over the next
one. Siblings tell repeated events by their numbers.
"""

from __future__ import annotations

import functools
import logging
import random
import time
from collections import Counter
from collections.abc import AsyncGenerator, Callable, Sequence
from contextlib import aclosing
from typing import Final

import anyio
import anyio.lowlevel

from .broker import Broker, Delivery, Gap, Link
from .clock import monotonic
from .errors import BrokerUnavailableError, ClosedError, ProtocolError
from .freshness import Backoff
from .pipeline import Outgoing, Pipeline
from .replica.counts import MESSAGE_REASONS
from .replica.identity import is_foreign
from .replica.members import Members, bearable
from .replica.messages import (
    Ask,
    Events,
    Heartbeat,
    Phase,
    Refuse,
    RepositoryState,
    Take,
    decode,
    encode,
)
from .replica.seal import Seal
from .sealed import SealedLink
from .seat import ROUND_TRIP_SECONDS, Seat
from .stall import StallWatch

__all__ = ["Membership"]

logger: Final = logging.getLogger(__name__)

SHORTEST_TIMEOUT: Final = 1.0
"""Seconds that a broker has for taking a message, at least; otherwise as long as a member may be silent."""

RECONNECT_PAUSE: Final = 0.1
LONGEST_PAUSE: Final = 5.0
"""Seconds before the next attempt to connect, doubling from the first to the longest."""

BEAT_SPACING: Final = 0.05
"""Seconds between two heartbeats, at least: well below the time for which a newcomer waits for them."""

MOST_BEATS: Final = 10
"""Heartbeats that a node may send instead of one, if it has much to tell, also where that is more than is bearable."""

BREATH: Final = 500
"""Events, or messages, taken in before the event loop gets its turn."""

MAX_FOREIGN_SAID: Final = 100
"""Identities of other sources that the log names."""

FOREIGN_ADVICE: Final = (
    "Give each database a namespace= of its own; if both are one database under two addresses, give both sources the"
    " same identity="
)
"""What to do about a member that reads another source."""

ADVICE: Final = {
    "unsigned": "somebody in this namespace has no secret; give all nodes the same",
    "forged": "somebody has another secret, or tampers with messages; give all nodes the same",
    "stale": "sent again over a new link, or somebody's clock is off by more than a minute, or old messages are played"
    " again",
    "signed": "others in this namespace have a secret and this node has none; give all nodes the same",
}
"""What to say of messages that are rejected for a reason."""


class Membership:
    """One run of a node on its broker. `run` is its loop."""

    def __init__(
        self,
        broker: Broker,
        seats: Sequence[Seat],
        *,
        namespace: str,
        origin: str,
        name: str,
        heartbeat: float,
        seal: Seal | None = None,
    ) -> None:
        self.origin = origin
        self.name = name
        self._pipeline: Pipeline | None = None
        self.failure: str | None = None  # why the broker is away
        self.rejections: Counter[str] = Counter(dict.fromkeys(MESSAGE_REASONS, 0))
        self.members: Members = Members(origin, heartbeat, returning=LONGEST_PAUSE)
        self.listening: bool = False  # our own messages come back
        self._listening_since = 0.0  # monotonic
        self.stalls: StallWatch = StallWatch(name)
        self.attempted: anyio.Event = anyio.Event()  # the first attempt to connect has ended
        self.closed: bool = False
        self.serving: bool = False  # the repositories have begun to load
        self._broker = broker
        self._namespace = namespace
        self._seal = seal
        self._seats = {seat.name: seat for seat in seats}
        self._position: str | None = None  # where the next link may go on
        self._away_since = 0.0  # monotonic
        self.links: int = 0  # that were made
        self._backoff = Backoff(RECONNECT_PAUSE, LONGEST_PAUSE)
        self._stop_serving: Callable[[], object] = lambda: None  # ends what is done on the link
        self._beats = 0
        self._first_beat = 1  # of this link
        self._beat_due = 0.0
        self._beaten = 0.0  # monotonic, when the last heartbeat was made
        self._beat_spacing = min(BEAT_SPACING, heartbeat / 20)
        self._leaving = False
        self._foreign_said: set[tuple[str, str]] = set()  # repositories and identities, in the log
        self._crowd = False  # whether it was said that there are many
        self._work = anyio.Event()
        self._news = anyio.Event()
        self._progress = anyio.Event()  # a batch was sent

    @property
    def heartbeat(self) -> float:
        """Seconds between two heartbeats, as of now."""
        return self.members.heartbeat

    @property
    def link(self) -> Link | None:
        """The link, while there is one."""
        return None if self._pipeline is None else self._pipeline.link

    @property
    def up(self) -> bool:
        """Whether there is a link."""
        return self._pipeline is not None

    @property
    def alone(self) -> bool:
        """Whether the broker knows that no other node has a link in this namespace."""
        return getattr(self.link, "alone", False)

    @property
    def away(self) -> str | None:
        """Why there is no link; ``None`` while there is one."""
        return None if self.up else self.failure or "not connected yet"

    # -- for the seats ---------------------------------------------------------------------------

    @property
    def listened(self) -> float:
        """Seconds for which everything that was sent has arrived here; 0 while nothing does."""
        return monotonic() - self._listening_since if self.listening else 0.0

    def wake(self) -> None:
        """There is something to send."""
        self._work.set()

    def beat_now(self) -> None:
        """Something has changed that the others should know before the next heartbeat is due.

        At once, unless the last heartbeat is only just gone: when a fleet starts, one answers many newcomers.
        """
        pause = min(bearable(self.members.nodes), self.heartbeat / MOST_BEATS)
        self._beat_due = min(self._beat_due, self._beaten + max(self._beat_spacing, pause))
        self._work.set()

    async def introduced(self, wait: float) -> None:
        """Wait until this node has listened for `wait` seconds: every live node answers a newcomer at once.

        Until the link is lost, or for `ROUND_TRIP_SECONDS` where own heartbeats do not come back.
        """
        with anyio.move_on_after(ROUND_TRIP_SECONDS):
            while self.up and not self.listening:
                await self.news(ROUND_TRIP_SECONDS)
        while self.up and self.listening and (left := wait - self.listened) > 0:
            await self.news(left)

    async def news(self, timeout: float) -> None:
        """Wait until something is heard of the members, for at most `timeout` seconds."""
        with anyio.move_on_after(timeout):
            await self._news.wait()

    async def round_trip(self, timeout: float) -> None:
        """Wait until a heartbeat that is sent from now on has come back, for at most `timeout` seconds.

        Then everything has been read that was published before it: also after this process has
        stood still, when timers are over before what waits in the queue was looked at.
        """
        target = self._beats + 1
        self.beat_now()
        with anyio.move_on_after(timeout):
            while self.members.echo < target and self.up:
                await self._news.wait()

    async def publish(self, payload: bytes) -> None:
        """Hand one message to the broker.

        Raises `BrokerUnavailableError`; the link counts as lost then.
        """
        pipeline = self._pipeline
        if pipeline is None:
            raise BrokerUnavailableError(f"{self.name}: the broker is away: {self.failure}")
        try:
            await pipeline.publish(payload)
        except BrokerUnavailableError as error:
            if pipeline is self._pipeline:
                self._link_lost(str(error))
            raise

    # -- one link after another ------------------------------------------------------------------

    async def run(self) -> None:
        """Connect, receive and send, connect again; never returns."""
        while True:
            try:
                async with self._broker.connect(
                    self._namespace, self.origin, after=self._position
                ) as link:
                    try:
                        await self._serve(self._connected(self._sealed(link)))
                    finally:
                        self._position = link.position
            except BrokerUnavailableError as error:
                self._link_lost(str(error))
            except Exception as error:  # a bug, which the supervisor logs; for now there is no link
                self._link_lost(f"{type(error).__name__}: {error}")
                raise
            finally:
                self._pipeline = None
                self.attempted.set()
            await anyio.sleep(self._backoff.failed(random.random()))

    def _sealed(self, link: Link) -> Link:
        if self._seal is None:
            return link
        resumed = self._position is not None
        return SealedLink(link, self._seal, resumed=resumed, rejected=self._rejected)

    async def _serve(self, pipeline: Pipeline) -> None:
        """Send and receive until the link is lost."""
        async with aclosing(self._outgoing()) as outgoing, anyio.create_task_group() as group:
            self._stop_serving = group.cancel_scope.cancel
            pipeline.start(group, outgoing, self._link_lost)
            try:
                await self._take_in(pipeline.link)
                self._link_lost("the connection was closed")
            except BrokerUnavailableError as error:
                self._link_lost(str(error))

    # -- sending ---------------------------------------------------------------------------------

    async def _outgoing(self) -> AsyncGenerator[Outgoing, None]:
        """What is queued, a batch of each repository in turn, and a heartbeat when it is time, while the link lasts."""
        for seat in self._seats.values():
            seat.rewind()
        while True:
            self._work = anyio.Event()
            idle = True
            for seat in self._seats.values():
                batch = seat.next_batch()
                if batch is not None:
                    idle = False
                    yield self._batch(seat, batch)
            if monotonic() >= self._beat_due:
                # What has a number is what the heartbeat vouches for.
                while packed := [seat for seat in self._seats.values() if seat.packed]:
                    seat = packed[0]
                    if (batch := seat.next_batch()) is not None:
                        yield self._batch(seat, batch)
                self._look_around(monotonic())
                if not self.up:
                    return
                beat = self._heartbeat()
                yield Outgoing(encode(beat), functools.partial(self._beat_taken, beat.number))
            elif idle:
                with anyio.move_on_after(max(0.0, self._beat_due - monotonic())):
                    await self._work.wait()

    def _batch(self, seat: Seat, batch: Events) -> Outgoing:
        def taken() -> None:
            seat.taken(batch)
            self._progress.set()
            self._progress = anyio.Event()

        return Outgoing(encode(batch), taken)

    def _beat_taken(self, number: int) -> None:
        """From now on it can come back."""
        self.members.beat(number, monotonic())

    def _heartbeat(self) -> Heartbeat:
        self._beats += 1
        return Heartbeat(
            origin=self.origin,
            name=self.name,
            number=self._beats,
            time=max((seat.replica.clock.time for seat in self._seats.values()), default=0),
            leaving=self._leaving,
            every=self.heartbeat,
            repositories=[
                seat.session.state_for(
                    [*self.members.of(seat.name), self.origin],
                    seat.kept,
                    all_numbered=seat.all_numbered,
                )
                for seat in self._seats.values()
            ],
        )

    def _look_around(self, now: float) -> None:
        """Who has not been heard of, and whether this node is; and when it is time for the next heartbeat."""
        gone = self.members.expire(now)
        self._beaten, self._beat_due = now, now + self.heartbeat
        if self.members.crowded and not self._crowd:
            self._crowd = True
            logger.info(
                "%s: with %d nodes heartbeats come every %.1f s or less often, so that the broker can deliver them;"
                " what is noticed by them is noticed as much later",
                self.name,
                self.members.nodes,
                self.heartbeat,
            )
        for origin, name in gone.items():
            self._gone(origin, name, vanished=True)
        for seat in self._seats.values():
            seat.session.looked_around(self.members.of(seat.name))
        if self.members.deaf(now):
            self._link_lost("own heartbeats do not come back")

    async def flushed(self) -> None:
        """Wait until everything queued so far, at least, was handed to the broker."""
        goals = [(seat, seat.queued) for seat in self._seats.values()]
        while any(seat.handed_over < goal for seat, goal in goals):
            if self.closed:
                raise ClosedError(f"{self.name} was closed before everything was sent")
            await self._progress.wait()

    def close(self) -> None:
        """Tell whoever still waits."""
        self.closed = True
        self._progress.set()

    async def leave(self) -> None:
        """Say goodbye. Raises `BrokerUnavailableError`."""
        self._leaving = True
        await self.publish(encode(self._heartbeat()))

    # -- receiving -------------------------------------------------------------------------------

    async def _take_in(self, link: Link) -> None:
        taken = 0
        async with aclosing(link.deliveries()) as deliveries:
            async for delivery in deliveries:
                try:
                    taken += self._deliver(delivery)
                except Exception:
                    # A bug of ours, or an application's; what the message said is lost with it.
                    logger.exception("%s: a message could not be taken in", self.name)
                    self._missed("a message could not be taken in")
                if taken >= BREATH:
                    taken = 0
                    await anyio.lowlevel.checkpoint()

    def _deliver(self, delivery: Delivery) -> int:
        """Take one delivery in; roughly how much work it was."""
        self.members.anything(monotonic())
        if isinstance(delivery, Gap):
            self._missed(delivery.reason)
            return 1
        return self._message(delivery.payload)

    def _message(self, payload: bytes) -> int:
        try:
            message = decode(payload)
        except ProtocolError as error:
            self._rejected(error)
            return 1
        if isinstance(message, Events):
            seat = self._seats.get(message.repository)
            if seat is not None and message.origin != self.origin:
                seat.receive(message)
            return len(message.events)
        if isinstance(message, Heartbeat):
            self._heard(message)
        elif isinstance(message, Ask):
            seat = self._seats.get(message.repository)
            if message.origin == self.origin and seat is not None:
                seat.missed(message)
        elif isinstance(message, Take):
            seat = self._seats.get(message.repository)
            if message.donor == self.origin and seat is not None:
                seat.asked(message)
        elif isinstance(message, Refuse):
            for seat in self._seats.values():
                seat.refused(message)
        return 1

    def _rejected(self, error: ProtocolError) -> None:
        self.rejections[error.reason] = count = self.rejections[error.reason] + 1
        advice = ADVICE.get(error.reason)
        level = logging.INFO if advice is None else logging.WARNING
        logger.log(
            # The first, the tenth, the hundredth: whoever floods the broker does not flood the log.
            level if str(count).rstrip("0") == "1" else logging.DEBUG,
            "%s: rejected a message: %s%s%s",
            self.name,
            error,
            f" ({count} for that reason)" if count > 1 else "",
            "" if advice is None else f": {advice}",
        )

    def _heard(self, beat: Heartbeat) -> None:
        if beat.origin == self.origin:
            if beat.number > self._beats:
                return  # a stranger's
            self.members.echoed(beat.number)
            if beat.number >= self._first_beat:  # only now is it certain that the link works
                self._backoff.succeeded()
            if not self.listening:
                self.listening, self._listening_since = True, monotonic()
                for own in self._seats.values():
                    own.session.upkeep.donor_appeared()
            self._pulse()
            return
        before = self.members.alive.get(beat.origin)
        if before is not None and beat.number <= before.beat.number:
            return  # sent again
        copies_before = set() if before is None else _copies(before.beat)
        if self.members.heard(beat, monotonic()):
            logger.info("%s: %s has joined", self.name, beat.name)
            self.beat_now()
        if beat.leaving and before is not None:
            self._gone(beat.origin, beat.name, vanished=False)
        if not beat.leaving and beat.origin not in self.members.alive:
            return  # there are more than are counted; what is noted of members would never be forgotten again
        for own in self._seats.values():
            own.replica.clock.observe(beat.time, time.time())
        member = self.members.alive.get(beat.origin)
        timely = member is None or member.timely
        everybody = [*self.members.alive, self.origin]  # made once: there may be many repositories
        new_copies = {name for name, _ in _copies(beat) - copies_before}
        for state in beat.repositories:
            seat = self._seats.get(state.repository)
            if seat is None:
                continue
            if is_foreign(state.identity, seat.replica.identity):
                self._heard_foreign(beat, state, seat)
            else:
                if before is None and state.fingerprint != seat.replica.rows.fingerprint:
                    logger.warning(
                        "%s: %s has another shape of %s: until all run one version, each reads from the source"
                        " what the other writes",
                        self.name,
                        beat.name,
                        state.repository,
                    )
                members = everybody
                if seat.name in self.members.foreign:
                    members = [*self.members.of(seat.name), self.origin]
                seat.session.heard(
                    beat.origin,
                    state,
                    members,
                    all_numbered=seat.all_numbered,
                    timely=timely,
                )
                if state.repository in new_copies:
                    seat.session.upkeep.donor_appeared()
        self._pulse()

    def _heard_foreign(self, beat: Heartbeat, state: RepositoryState, seat: Seat) -> None:
        """A member reads another source for a repository: nothing that it says of the repository counts here."""
        if beat.origin not in self.members.alive:
            return  # it is leaving
        if not self.members.set_foreign(seat.name, beat.origin, state.identity):
            return
        said = (seat.name, state.identity)
        if said not in self._foreign_said and len(self._foreign_said) < MAX_FOREIGN_SAID:
            self._foreign_said.add(said)
            logger.warning(
                "%s: %s reads another source for %s and exchanges no rows with this node: here %s, there %s. %s",
                self.name,
                beat.name,
                seat.name,
                seat.replica.identity,
                state.identity,
                FOREIGN_ADVICE,
            )
        seat.session.note_state()

    # -- the link --------------------------------------------------------------------------------

    def _connected(self, link: Link) -> Pipeline:
        if self.failure is None:
            logger.info("%s: connected to the broker, namespace %r", self.name, self._namespace)
        else:
            away = monotonic() - self._away_since
            logger.warning("%s: the broker is back after %.1f s", self.name, away)
        timeout = max(SHORTEST_TIMEOUT, self.members.patience)
        pipeline = self._pipeline = Pipeline(link, timeout)
        self.failure = None
        self.links += 1
        self._first_beat = self._beats + 1
        self.members.connected(monotonic())
        if self._position is None and (self.links > 1 or self.serving):
            self._missed("nothing was heard until the connection to the broker was made")
        self._note_states()
        self.beat_now()
        self.attempted.set()
        return pipeline

    def _link_lost(self, reason: str) -> None:
        """The link, if there was one, is lost."""
        reason = reason or BrokerUnavailableError.__name__  # a broker need not say why
        if self.up and (blocked := self.stalls.blocked()):
            reason = (
                f"the link was lost while the event loop was blocked for {blocked:.1f} s: {reason}"
            )
            logger.info("%s: %s; connecting again", self.name, reason)
            self._away_since = monotonic()
        elif self.up or self.failure is None:
            logger.warning("%s: the broker is away: %s", self.name, reason)
            self._away_since = monotonic()
        elif reason != self.failure:
            logger.info("%s: the broker is still away: %s", self.name, reason)
        self.failure = reason
        self._pipeline = None
        self.listening = False
        self._note_states()
        self._stop_serving()
        self._pulse()

    def _note_states(self) -> None:
        for seat in self._seats.values():
            seat.session.note_state()

    def _missed(self, reason: str) -> None:
        for seat in self._seats.values():
            seat.session.lost(reason)

    def _gone(self, origin: str, name: str, *, vanished: bool) -> None:
        logger.info("%s: %s has %s", self.name, name, "vanished" if vanished else "gone")
        seats = self._seats.values()
        foreign = [seat for seat in seats if self.members.is_foreign(seat.name, origin)]
        self.members.forget(origin)
        for seat in seats:
            if seat in foreign:
                seat.session.note_state()
            else:
                seat.gone(origin, vanished=vanished)
        self._pulse()

    def _pulse(self) -> None:
        self._news.set()
        self._news = anyio.Event()


def _copies(beat: Heartbeat) -> set[tuple[str, bool]]:
    """The repositories of which a node has a copy, and whether it vouches for it."""
    return {
        (state.repository, state.clean)
        for state in beat.repositories
        if state.phase in (Phase.READY, Phase.REFRESHING)
    }
