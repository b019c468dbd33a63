"""Who else is there, as far as heartbeats tell; who to ask for a snapshot; whose turn it is to load.

The same heartbeats tell whether this node can be heard at all: its own come back to it.

Nobody is asked who would: what a node must know to choose is in the heartbeats, and a newcomer's first heartbeat
is answered by everybody's next, at once.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterator
from typing import Final

import xxhash

from .messages import Heartbeat, Phase, RepositoryState

__all__ = ["ALIVE_BEATS", "Member", "Members", "bearable", "interval"]

ALIVE_BEATS: Final = 3
"""Heartbeats that may be missing before a member counts as gone."""

LONGEST_LAG: Final = 10
"""How many times longer own heartbeats may be on their way while others' messages arrive."""

MAX_MEMBERS: Final = 10_000

MANY_BEATS: Final = 20_000
"""Heartbeats a second that a broker has to deliver, at most. Each node hears each, so without a bound that would grow
with the square of their number."""

RAREST: Final = 60.0
"""Seconds between two heartbeats, at most, however many nodes there are, unless more are asked for; nor is anybody
waited for who promises less. More than a thousand nodes, or who pretends to be as many, cost the broker more."""


def bearable(nodes: int) -> float:
    """Seconds between two heartbeats of each of so many nodes that a broker can deliver without effort."""
    return nodes * nodes / MANY_BEATS


def interval(nodes: int, shortest: float) -> float:
    """Seconds between two heartbeats of each of so many nodes, of which none sends more than one in `shortest`."""
    return max(shortest, min(RAREST, bearable(nodes)))


class Member:
    """One other node: its last heartbeat, when that came (monotonic seconds), and over the how many-th link.

    `timely`: whether that is one of those that count, as they come at their time; `counted`: when the last of these
    came.
    """

    __slots__ = ("beat", "counted", "heard", "link", "timely")

    def __init__(self, beat: Heartbeat, heard: float, link: int) -> None:
        self.beat: Heartbeat = beat
        self.heard: float = heard
        self.counted: float = heard
        self.link: int = link
        self.timely: bool = True

    def state(self, repository: str) -> RepositoryState | None:
        """What it said about a repository, if it has one of that name."""
        for state in self.beat.repositories:
            if state.repository == repository:
                return state
        return None


class Members:
    """The other nodes of the namespace by origin. `now` is monotonic seconds.

    `heartbeat`: seconds between two of this node's heartbeats, at least. With many nodes there is more time between
    them, see `MANY_BEATS`. Each heartbeat says when the next one comes, so whoever waits for it knows for how long.
    `returning`: seconds that a member may take longer to be heard again where this node had to connect anew, as it may
    have had to as well.
    """

    def __init__(self, origin: str, heartbeat: float, returning: float = 0.0) -> None:
        self.origin = origin
        self.heartbeat: float = heartbeat  # as of the last look at the others
        self._shortest = heartbeat
        self._returning = returning
        self._looked = float("inf")  # when `expire` was last called
        self._unanswered: deque[list[float]] = deque()  # own heartbeats: number, when sent
        self._heard = 0.0  # when anything was last heard
        self._link = 0  # how many there were
        self.echo: int = 0  # the last own heartbeat that has come back
        self.alive: dict[str, Member] = {}
        # By repository, the members that read another source than this node: the identity of that by origin.
        self.foreign: dict[str, dict[str, str]] = {}

    @property
    def patience(self) -> float:
        """Seconds in which an own heartbeat has to come back."""
        return ALIVE_BEATS * self.heartbeat

    @property
    def nodes(self) -> int:
        """How many there are, this one included."""
        return len(self.alive) + 1

    @property
    def crowded(self) -> bool:
        """Whether there are so many that heartbeats come less often."""
        return self.heartbeat > self._shortest

    # -- whether this node is heard --------------------------------------------------------------

    def connected(self, now: float) -> None:
        """A new link: what was sent on the last one will not come back."""
        self._unanswered.clear()
        self._heard = now
        self._link += 1

    def beat(self, number: int, now: float) -> None:
        """The broker has taken an own heartbeat, which may have come back already."""
        if number > self.echo:
            self._unanswered.append([number, now])

    def echoed(self, number: int) -> None:
        """An own heartbeat has come back, and with it all before it."""
        self.echo = max(self.echo, number)
        while self._unanswered and self._unanswered[0][0] <= number:
            self._unanswered.popleft()

    def anything(self, now: float) -> None:
        """Whatever it was, it has come over the link."""
        self._heard = now

    def deaf(self, now: float) -> bool:
        """Whether the link only looks alive: own heartbeats do not come back, nor does anything else.

        A link that is behind brings at least the others' messages; but not for ever.
        """
        waited = now - self._unanswered[0][1] if self._unanswered else 0.0
        silent = now - self._heard > self.patience
        return waited > (self.patience if silent else LONGEST_LAG * self.patience)

    # -- the others ------------------------------------------------------------------------------

    def heard(self, beat: Heartbeat, now: float) -> bool:
        """Take in a heartbeat; True if it is a newcomer's."""
        if beat.leaving:
            self.alive.pop(beat.origin, None)
            return False
        known = self.alive.get(beat.origin)
        if known is None:
            if len(self.alive) >= MAX_MEMBERS:
                return False
            self.alive[beat.origin] = Member(beat, now, self._link)
            return True
        if beat.number > known.beat.number:
            known.beat, known.heard, known.link = beat, now, self._link
            known.timely = now - known.counted >= self.heartbeat / 2
            if known.timely:
                known.counted = now
        return False

    def expire(self, now: float) -> dict[str, str]:
        """Drop the members that have not been heard of for too long; their names by origin.

        To be called once a heartbeat; when the next one is due is known afterwards. Should this node itself have stood
        still since the last call, that is not held against the others, nor against the link: what was said meanwhile is
        still waiting to be read. The same goes for the time in which there was no link.
        """
        stood_still = now - self._looked - 2 * self.heartbeat
        self._looked = now
        # Before anybody is dropped, so that who is has been silent for three of these.
        self.heartbeat = interval(self.nodes, self._shortest)
        if stood_still > 0:
            # At most until now: what was heard in the future would be believed for that much longer.
            self._heard = min(now, self._heard + stood_still)
            for sent in self._unanswered:
                sent[1] = min(now, sent[1] + stood_still)
            for member in self.alive.values():
                member.heard = min(now, member.heard + stood_still)
        gone = {
            origin: member.beat.name
            for origin, member in self.alive.items()
            if now - member.heard > self._patience_with(member)
        }
        for origin in gone:
            del self.alive[origin]
        return gone

    def _patience_with(self, member: Member) -> float:
        silence = ALIVE_BEATS * max(self.heartbeat, min(RAREST, member.beat.every))
        return silence if member.link == self._link else silence + self._returning

    # -- those of one repository -----------------------------------------------------------------

    def set_foreign(self, repository: str, origin: str, identity: str) -> bool:
        """A live member reads another source for a repository; False where that was known."""
        of_repository = self.foreign.setdefault(repository, {})
        known = origin in of_repository
        of_repository[origin] = identity
        return not known

    def is_foreign(self, repository: str, origin: str) -> bool:
        """Whether a member reads another source for a repository."""
        return origin in self.foreign.get(repository, ())

    def forget(self, origin: str) -> None:
        """Drop what `set_foreign` has noted of a member that is gone."""
        for repository in [name for name, origins in self.foreign.items() if origin in origins]:
            del self.foreign[repository][origin]
            if not self.foreign[repository]:
                del self.foreign[repository]

    def of(self, repository: str) -> Collection[str]:
        """The origins of the live members, without those that read another source for this repository."""
        foreign = self.foreign.get(repository)
        if not foreign:
            return self.alive.keys()
        return [origin for origin in self.alive if origin not in foreign]

    def all_heard(self, repository: str) -> bool:
        """Whether every member of this repository was heard over this link."""
        return all(self.alive[origin].link == self._link for origin in self.of(repository))

    def horizon(self, repository: str, own: int) -> int:
        """The hybrid time up to which every live node of this repository has been heard."""
        return min((self.alive[origin].beat.time for origin in self.of(repository)), default=own)

    def any_of(self, repository: str, fingerprint: str) -> bool:
        """Whether somebody has a repository of this name, source and shape, whole or not."""
        states = (self.alive[origin].state(repository) for origin in self.of(repository))
        return any(state is not None and state.fingerprint == fingerprint for state in states)

    def copies(self, repository: str, fingerprint: str) -> Iterator[tuple[str, RepositoryState]]:
        """What the others say of a repository, where they mean the same by it and hold it whole."""
        for origin in self.of(repository):
            state = self.alive[origin].state(repository)
            if state is not None and state.whole and state.fingerprint == fingerprint:
                yield origin, state

    def donor(
        self, repository: str, fingerprint: str, *, clean: bool, without: Collection[str]
    ) -> str | None:
        """The freshest complete copy; among equals one that differs from joiner to joiner.

        Of those that were heard over this link: what the others had before the last one was lost says little.
        """
        ranked = [
            # Rendezvous hashing spreads many joiners over many donors.
            (state.clean, state.confirmed, _draw(self.origin, origin), origin)
            for origin, state in self.copies(repository, fingerprint)
            if origin not in without
            and self.alive[origin].link == self._link
            and state.phase in (Phase.READY, Phase.REFRESHING)
            and (state.clean or not clean)
        ]
        return max(ranked)[-1] if ranked else None

    def loading(self, repository: str, fingerprint: str) -> bool:
        """Whether some member that is cold reads the whole of a repository from the source."""
        return any(
            state.phase is Phase.LOADING for _, state in self.copies(repository, fingerprint)
        )

    def refreshing(self, repository: str, fingerprint: str, failures: int) -> bool:
        """Whether some member that has a copy reads everything anew, and is likely to succeed.

        Not one for which the source has failed more often in a row than the `failures` of this node: it may hang in one
        attempt after another.
        """
        return any(
            state.phase is Phase.REFRESHING and state.failures <= failures
            for _, state in self.copies(repository, fingerprint)
        )

    def ahead(self, repository: str, fingerprint: str, failures: int) -> int:
        """How many of the nodes that hold a copy would load anew before this one.

        In the same order as `first_in_line`.
        """
        return sum(
            (state.failures, origin) < (failures, self.origin)
            for origin, state in self.copies(repository, fingerprint)
            if state.phase in (Phase.READY, Phase.REFRESHING)
        )

    def first_in_line(self, repository: str, fingerprint: str, failures: int) -> bool:
        """Whether of all nodes that are cold it is this one's turn to load.

        Those that have failed less often go first, so that a node that cannot reach the source
        does not keep the others waiting.
        """
        return all(
            (failures, self.origin) < (state.failures, origin)
            for origin, state in self.copies(repository, fingerprint)
            if state.phase is Phase.COLD
        )


def _draw(one: str, other: str) -> int:
    return xxhash.xxh3_64_intdigest(f"{one}:{other}".encode())
