"""One repository's place in a node: what it sends, what it asks of its siblings, what it gives them."""

from __future__ import annotations

import functools
import logging
import random
import secrets
from collections import OrderedDict, deque
from collections.abc import Collection
from typing import TYPE_CHECKING, Any, Final

import anyio

from .broker import Link
from .clock import monotonic
from .errors import BrokerUnavailableError
from .exchange import BUSY, MAX_DONATIONS, Comparing, Inquiry, Joining, give
from .freshness import Backoff
from .outbox import Outbox
from .replica.effects import Effect, Resend
from .replica.identity import is_foreign
from .replica.messages import Ask, Event, Events, Refuse, Take, encode
from .replica.replica import Replica
from .replica.ring import Ring
from .replica.snapshot import MAX_QUARANTINED_BYTES, Donor, quarantined_keys
from .session import Session
from .supervisor import Supervisor

if TYPE_CHECKING:
    from .membership import Membership

__all__ = ["Seat"]

logger: Final = logging.getLogger(__name__)

SETTLE_SECONDS: Final = 0.02
"""How long a joiner that has found a donor waits for a fresher one: a few round trips."""

VANISHED_BEATS: Final = 2
"""Of the three for which a member that counts as gone has said nothing, those in which it has written nothing either: a
load that began in them has found what it left. So others may find that one later, and their clocks lag behind."""

TURN_BEATS: Final = 3
"""Heartbeats for which nobody has begun to load, after which a node loads out of turn."""

MAX_ANSWERING: Final = 1_000
"""Siblings that are answered at the same time when they ask for a snapshot, nearly all of them with a refusal."""

MOST_NUMBERED: Final = 16
"""Batches of numbered events that may wait for a broker that is slow, before this node gives no snapshots: twice what
is on its way to the broker at a time."""

UNCLEAN_BEATS: Final = 2
"""Heartbeats for which a newcomer waits for a sibling to vouch for its copy again before it asks the source."""

MAX_TRIED: Final = 3
"""Siblings that have come to nothing, each after up to five seconds of silence, before a newcomer asks the source."""

BUSY_PAUSE: Final = 0.05
LONGEST_BUSY_PAUSE: Final = 1.0
BUSY_SECONDS: Final = 30.0
"""Pauses before a donor is asked again that is busy, and how long that may go on before it counts as no donor. Each
round of a large fleet's start has `MAX_DONATIONS` + 1 times as many donors as the one before."""

ROUND_TRIP_SECONDS: Final = 5.0
"""The longest wait for an own heartbeat to come back before it is concluded that there is no donor. A link over which
nothing comes back at all is lost before that."""


class Seat:
    """Implements `imperfect_dollop.siblings.Siblings` for one repository of a node."""

    session: Session[Any, Any]
    membership: Membership

    def __init__(
        self, name: str, supervisor: Supervisor, *, outbox: int, offer_wait: float
    ) -> None:
        self.name = name
        self.outbox: Outbox = Outbox(outbox)
        self.ring: Ring = Ring()
        self.donating: int = 0
        self._answering = 0
        # Batches sent again lately, by their first numbers: when (monotonic), the longest ago first.
        self._resent: OrderedDict[int, float] = OrderedDict()
        self._supervisor = supervisor
        self._offer_wait = offer_wait
        # Numbered, and not known to have been taken; each with how many events were queued before it.
        self._batches: deque[tuple[int, Events]] = deque()
        self._under_way = 0  # how many of them, from the first on, are being handed over
        self._asking: Inquiry | None = None

    @property
    def replica(self) -> Replica[Any, Any]:
        """The replica of the session."""
        return self.session.replica

    # -- out -------------------------------------------------------------------------------------

    @property
    def unsent(self) -> int:
        """Events that the broker has not taken yet."""
        return len(self.outbox) + sum(len(batch.events) for _, batch in self._batches)

    @property
    def queued(self) -> int:
        """Events that were ever queued."""
        return self.outbox.added

    @property
    def handed_over(self) -> int:
        """How many of them, from the first on, no longer wait."""
        return self._batches[0][0] if self._batches else self.outbox.gone

    def publish(self, event: Event) -> None:
        """Queue an event for the siblings."""
        self.outbox.add(event)
        self.membership.wake()

    @property
    def all_numbered(self) -> bool:
        """Whether all that was changed here has a number: if not, the copy is ahead of what numbers say of it."""
        return not self.outbox

    @property
    def kept(self) -> int:
        """The number of the first event from which on all can be sent again."""
        return self.ring.kept(self.replica.sequence)

    @property
    def packed(self) -> bool:
        """Whether events that have a number already wait to be handed over."""
        return self._under_way < len(self._batches)

    def next_batch(self) -> Events | None:
        """What to hand over next, if anything waits."""
        if not self.packed and not self._number():
            return None
        self._under_way += 1
        return self._batches[self._under_way - 1][1]

    def taken(self, batch: Events) -> None:
        """The broker has taken a batch."""
        place = next(place for place, (_, one) in enumerate(self._batches) if one is batch)
        del self._batches[place]
        self._under_way -= 1
        self.session.stats.events_sent += len(batch.events)

    def rewind(self) -> None:
        """What was under way on a link that is lost has to be handed over again, in the same order."""
        self._under_way = 0

    def _number(self) -> bool:
        """Pack the next events that wait; False if none do."""
        before = self.outbox.gone
        events, skipped = self.outbox.batch()
        self.replica.skip(skipped)
        if events:
            batch = self.replica.pack(self.name, events)
            self._batches.append((before, batch))
            self.ring.add(batch)
        return bool(events)

    def _number_all(self) -> None:
        while self._number():
            pass

    # -- in --------------------------------------------------------------------------------------

    def receive(self, events: Events) -> None:
        """Events of a sibling."""
        self.session.receive(events)
        if self._asking is not None:
            self._asking.arrived()

    def asked(self, take: Take) -> None:
        """A sibling wants a snapshot."""
        if self._answering >= MAX_ANSWERING:
            return  # whoever asks that often is answered by its time-out
        self._answering += 1
        self._supervisor.spawn(self._answer, take, name=f"snapshot of {self.name}")

    def missed(self, ask: Ask) -> None:
        """A sibling has not got some of this node's events. They are sent to all: others may have missed them too."""
        now = monotonic()
        while (
            self._resent and next(iter(self._resent.values())) < now - self.membership.heartbeat / 2
        ):
            self._resent.popitem(last=False)
        if is_foreign(ask.identity_tag, self.replica.identity_tag):
            return
        # Several ask at once, for ranges that overlap: what is on its way is not sent for each of them.
        batches = [
            batch
            for batch in self.ring.between(ask.first, ask.last)
            if batch.first not in self._resent
        ]
        if batches and self._answering < MAX_ANSWERING:
            self._resent.update(dict.fromkeys((batch.first for batch in batches), now))
            self._answering += 1
            self._supervisor.spawn(self._resend, batches, name=f"events of {self.name}")

    async def _resend(self, batches: list[Events]) -> None:
        try:
            for batch in batches:
                await self.membership.publish(encode(batch))
                self.session.stats.events_resent += len(batch.events)
        except BrokerUnavailableError as error:
            logger.info("%s: missed events were not sent again: %s", self.session.label, error)
        finally:
            self._answering -= 1

    def refused(self, refuse: Refuse) -> None:
        """A donor does not give."""
        if self._asking is not None and refuse.address == self._asking.address:
            self._asking.refused(refuse.reason)

    def gone(self, origin: str, *, vanished: bool) -> None:
        """A member has left, or has `vanished` without a word."""
        silent = VANISHED_BEATS * self.membership.heartbeat
        self.session.gone(origin, silent=silent if vanished else None)
        if self._asking is not None and self._asking.donor == origin:
            self._asking.refused("it has left")

    async def _answer(self, take: Take) -> None:
        try:
            reason = self._why_not(take)
            if reason is None:
                await self._give(take)
            else:
                refusal = Refuse(self.membership.origin, take.address, reason)
                await self.membership.publish(encode(refusal))
        except BrokerUnavailableError as error:
            logger.info("%s: a snapshot was not taken to its end: %s", self.session.label, error)
        finally:
            self._answering -= 1

    def _why_not(self, take: Take) -> str | None:
        replica = self.replica
        if is_foreign(take.identity_tag, replica.identity_tag):
            return "another source"
        if take.fingerprint != replica.rows.fingerprint:
            return "another schema"
        if replica.cold or not replica.whole or self.session.closed:
            return "no copy here"
        if sum(map(len, quarantined_keys(replica))) > MAX_QUARANTINED_BYTES:
            return "too many rows are quarantined"
        # A donor gives everything that waits a number, and what has one is no longer merged nor given up.
        if self.donating >= MAX_DONATIONS or len(self._batches) > MOST_NUMBERED:
            return BUSY
        return None

    async def _give(self, take: Take) -> None:
        link, replica = self.membership.link, self.replica
        if link is None:
            return
        donor = Donor(
            replica,
            take,
            clean=lambda: self.session.upkeep.clean and not replica.cold,
            number=self._number_all,
        )
        self.donating += 1
        try:
            await give(link, donor, take.address, self.session.stats)
        finally:
            self.donating -= 1
            self.session.scrub.found(donor.altered)

    # -- Siblings --------------------------------------------------------------------------------

    def ask(self, missing: Resend) -> None:
        """Ask an origin for events that have not come."""
        tag = self.replica.identity_tag
        ask = Ask(missing.origin, self.name, missing.first, missing.last, tag)
        self._supervisor.spawn(self._ask, ask, name=f"what was missed of {self.name}")

    async def _ask(self, ask: Ask) -> None:
        try:
            await self.membership.publish(encode(ask))
        except BrokerUnavailableError as error:
            logger.info("%s: missed events were not asked for: %s", self.session.label, error)

    def changed(self) -> None:
        """The phase has changed."""
        self.membership.beat_now()

    def refreshing(self, failures: int) -> bool:
        """Whether a sibling loads everything, for which the source has not failed more often than here."""
        fingerprint = self.replica.rows.fingerprint
        return self.membership.members.refreshing(self.name, fingerprint, failures)

    def members(self) -> Collection[str]:
        """The origins of the other live nodes that may exchange rows with this one."""
        return self.membership.members.of(self.name)

    def foreign(self) -> dict[str, list[str]]:
        """The identities of other sources that live nodes read, each with the names of the nodes."""
        members = self.membership.members
        found: dict[str, list[str]] = {}
        for origin, identity in members.foreign.get(self.name, {}).items():
            if (member := members.alive.get(origin)) is not None:
                found.setdefault(identity, []).append(member.beat.name)
        return {identity: sorted(found[identity]) for identity in sorted(found)}

    def horizon(self) -> int:
        """The hybrid time up to which every live node was heard."""
        return self.membership.members.horizon(self.name, self.replica.clock.time)

    async def snapshot(self, *, clean: bool, tried: set[str]) -> list[Effect] | None:
        """Ask the freshest sibling for its copy, then the next one; ``None`` if none has one.

        Not those that were `tried` before, to which others are added that had none; nor, for a `clean` copy, more than
        `MAX_TRIED`: then it is this node that is not heard, and there is the source. A node that has just begun to
        listen gives the others `offer_wait` seconds to be heard.
        """
        membership, fingerprint = self.membership, self.replica.rows.fingerprint
        await membership.introduced(0.0)
        if membership.link is None:
            return None  # what waits goes on being merged, and given up when it is too much
        self._number_all()  # a copy has to contain what was written here before everything was dropped
        joining = Joining(
            self.replica, self.name, label=self.session.label, stats=self.session.stats
        )
        settled = looked_again = False
        settles_by = 0.0
        backoff = Backoff(BUSY_PAUSE, LONGEST_BUSY_PAUSE)
        patient_until = monotonic() + BUSY_SECONDS
        while membership.link is not None and membership.listening:
            if clean and len(tried) >= MAX_TRIED:
                return None
            donor = membership.members.donor(self.name, fingerprint, clean=clean, without=tried)
            if donor is not None and not settled:
                settled = True
                await anyio.sleep(SETTLE_SECONDS)
                continue
            if donor is not None:
                effects = await self._take(joining, membership.link, donor)
                if effects is not None:
                    return effects
                if joining.busy and monotonic() < patient_until:
                    await anyio.sleep(backoff.failed(random.random()))
                else:
                    tried.add(donor)
                continue
            left = self._offer_wait - membership.listened
            if not clean or membership.members.loading(self.name, fingerprint):
                return None
            if membership.alone:
                return None
            if left > 0:
                await membership.news(left)
            elif not looked_again:
                looked_again = True
                await membership.round_trip(ROUND_TRIP_SECONDS)
                settles_by = monotonic() + UNCLEAN_BEATS * membership.heartbeat
            elif (wait := settles_by - monotonic()) > 0 and self._copy_that_settles(tried):
                await membership.news(wait)
            else:
                return None
        return None

    def _copy_that_settles(self, tried: set[str]) -> bool:
        """Whether a sibling has a copy for which it does not vouch now, as while it reads a key again."""
        members, fingerprint = self.membership.members, self.replica.rows.fingerprint
        return members.donor(self.name, fingerprint, clean=False, without=tried) is not None

    async def compare(self, origin: str | None) -> list[Effect] | None:
        """Compare with the copy of `origin`, or with the freshest clean one; ``None`` if nothing came of it."""
        membership, fingerprint = self.membership, self.replica.rows.fingerprint
        comparing = Comparing(
            self.replica,
            self.name,
            label=self.session.label,
            stats=self.session.stats,
            clean=origin is None,
            caught_up=functools.partial(membership.round_trip, ROUND_TRIP_SECONDS),
        )
        tried: set[str] = set()
        backoff = Backoff(BUSY_PAUSE, LONGEST_BUSY_PAUSE)
        patient_until = monotonic() + BUSY_SECONDS
        while membership.link is not None:
            donor = origin or membership.members.donor(
                self.name, fingerprint, clean=True, without=tried
            )
            if donor is None or donor in tried or donor not in membership.members.alive:
                break
            self._number_all()  # what has no number yet could not be said to have been seen there
            effects = await self._take(comparing, membership.link, donor)
            if effects is not None:
                return effects
            if comparing.busy and monotonic() < patient_until:
                await anyio.sleep(backoff.failed(random.random()))
            else:
                tried.add(donor)
        return None

    async def _take(
        self, asking: Joining | Comparing, link: Link, donor: str
    ) -> list[Effect] | None:
        self._asking = asking
        name = self.membership.members.alive[donor].beat.name
        try:
            return await asking.take(link, donor, name, secrets.token_hex(16))
        finally:
            self._asking = None

    def hearing(self) -> bool:
        """Whether own messages come back."""
        return self.membership.listening

    def audience(self) -> bool:
        """Whether a member has a repository of this name and shape."""
        return self.membership.members.any_of(self.name, self.replica.rows.fingerprint)

    def in_view(self) -> bool:
        """Whether this node has listened for so long that all must have said what they have, and all have."""
        membership = self.membership
        all_heard = membership.members.all_heard(self.name)
        return membership.listened >= membership.heartbeat and all_heard

    def donor(self) -> bool:
        """Whether a sibling has a copy that it vouches for."""
        fingerprint, members = self.replica.rows.fingerprint, self.membership.members
        donor = members.donor(self.name, fingerprint, clean=True, without=())
        return donor is not None and self.hearing()

    def place(self, failures: int) -> float:
        """Seconds for which this node lets others go first; 0 for the first in line, and while it is cut off."""
        membership = self.membership
        if not membership.up:
            return 0.0
        if not membership.listening or (
            membership.listened < membership.heartbeat
            and not membership.members.all_heard(self.name)
        ):
            return membership.heartbeat  # then all have said what they have
        ahead = membership.members.ahead(self.name, self.replica.rows.fingerprint, failures)
        # Half a beat off its own heartbeats: they may tell another node that its turn has come.
        return 0.0 if not ahead else (TURN_BEATS + ahead - 0.5) * membership.heartbeat

    async def turn(self, failures: int) -> bool:
        """Wait for this node's turn to load; False as soon as a sibling has a copy."""
        membership = self.membership
        fingerprint = self.replica.rows.fingerprint
        heartbeat = membership.heartbeat
        waited, last = 0.0, monotonic()
        while membership.up and waited <= TURN_BEATS * heartbeat:
            members = membership.members
            if members.donor(self.name, fingerprint, clean=True, without=()) is not None:
                return False
            if members.loading(self.name, fingerprint):
                waited = 0.0
            elif members.first_in_line(self.name, fingerprint, failures):
                return True
            await membership.news(heartbeat)
            now = monotonic()
            waited += min(now - last, heartbeat)  # a process that stood still has not waited
            last = now
        return True
