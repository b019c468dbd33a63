"""What a run of the soak is to be, and what its members are told."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import msgspec

HEARTBEAT: Final = 1.0
"""Seconds: the default of a node."""


@dataclass(frozen=True, kw_only=True)
class Settings:
    """Of a whole run. Times are seconds."""

    seed: int
    """Of the faults and of what each process does; how they interleave is up to the machine."""
    seconds: float
    """For which there are writes and faults."""
    nodes: int = 10
    share: float = 0.3
    """Of the nodes that are harmed at a time, at most. Beside them the broker or the database may be, for all."""
    steady: float = 0.3
    """Of the nodes that are never ended, so that their memory is seen to the end of the run."""
    keys: int = 400
    """Of each of the two tables."""
    held: int = 200
    """Rows that the repository holds that loads by key: some of them go all the time."""
    ttl: float = 15.0
    pause: float = 0.5
    """Between two writes of one writer; a node has two for each table."""
    gap: float = 1.5
    """Between the beginnings of two faults, on average."""
    member: str = "tests.soak.member"
    """The module that each process runs."""


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """The first line that a process reads: which life of which node it is."""

    name: str
    broker: str
    database: str
    whole: str
    """The table of the repository that holds it all."""
    lookup: str
    """The table of the one that loads by key."""
    namespace: str
    records: str
    """The path of the files of records, less the name of the repository."""
    seed: int
    keys: int
    held: int
    ttl: float
    pause: float
