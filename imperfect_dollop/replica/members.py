"""Who else is there, as far as heartbeats tell; who to ask for a snapshot; whose turn it is to load.

Nobody is asked who would: what a node must know to choose is in the heartbeats, and a newcomer's first heartbeat
is answered by everybody's next, at once.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

import xxhash

from .messages import Heartbeat, Phase, RepositoryState

__all__ = ["ALIVE_BEATS", "Member", "Members"]

ALIVE_BEATS: Final = 3
"""Heartbeats that may be missing before a member counts as gone."""

MAX_MEMBERS: Final = 10_000


class Member:
    """One other node: its last heartbeat, and when that came (monotonic seconds)."""

    __slots__ = ("beat", "heard")

    def __init__(self, beat: Heartbeat, heard: float) -> None:
        self.beat: Heartbeat = beat
        self.heard: float = heard

    def state(self, repository: str) -> RepositoryState | None:
        """What it said about a repository, if it has one of that name."""
        for state in self.beat.repositories:
            if state.repository == repository:
                return state
        return None


class Members:
    """The other nodes of the namespace by origin. `now` is monotonic seconds."""

    def __init__(self, origin: str, heartbeat: float) -> None:
        self.origin = origin
        self.patience: float = ALIVE_BEATS * heartbeat
        self.alive: dict[str, Member] = {}

    def heard(self, beat: Heartbeat, now: float) -> bool:
        """Take in a heartbeat; True if it is a newcomer's."""
        if beat.leaving:
            self.alive.pop(beat.origin, None)
            return False
        known = self.alive.get(beat.origin)
        if known is None:
            if len(self.alive) >= MAX_MEMBERS:
                return False
            self.alive[beat.origin] = Member(beat, now)
            return True
        if beat.number > known.beat.number:
            known.beat, known.heard = beat, now
        return False

    def expire(self, now: float) -> dict[str, str]:
        """Drop the members that have not been heard of for too long; their names by origin."""
        gone = {
            origin: member.beat.name
            for origin, member in self.alive.items()
            if now - member.heard > self.patience
        }
        for origin in gone:
            del self.alive[origin]
        return gone

    def horizon(self, own: int) -> int:
        """The hybrid time up to which every live node has been heard."""
        return min((member.beat.time for member in self.alive.values()), default=own)

    def donor(
        self, repository: str, fingerprint: str, *, clean: bool, without: Collection[str]
    ) -> str | None:
        """The freshest complete copy; among equals one that differs from joiner to joiner."""
        best: tuple[bool, int, int] | None = None
        chosen = None
        for origin, member in self.alive.items():
            state = member.state(repository)
            if (
                state is None
                or origin in without
                or state.fingerprint != fingerprint
                or state.phase not in (Phase.READY, Phase.REFRESHING)
                or (clean and not state.clean)
            ):
                continue
            # Rendezvous hashing spreads many joiners over many donors.
            draw = xxhash.xxh3_64_intdigest(f"{self.origin}:{origin}".encode())
            rank = (state.clean, state.confirmed, draw)
            if best is None or rank > best:
                best, chosen = rank, origin
        return chosen

    def loading(self, repository: str, phase: Phase = Phase.LOADING) -> bool:
        """Whether some member reads the whole of a repository from the source."""
        return any(
            state.phase is phase
            for member in self.alive.values()
            if (state := member.state(repository)) is not None
        )

    def first_in_line(self, repository: str, fingerprint: str, failures: int) -> bool:
        """Whether of all nodes that are cold it is this one's turn to load.

        Those that have failed less often go first, so that a node that cannot reach the source
        does not keep the others waiting.
        """
        me = (failures, self.origin)
        return all(
            me < (state.failures, origin)
            for origin, member in self.alive.items()
            if (state := member.state(repository)) is not None
            and state.phase is Phase.COLD
            and state.fingerprint == fingerprint
        )
