"""The nodes of the demo, and what they show."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Final

import anyio

from .. import DollopError, Node, NotReadyError, Repository
from ..sources.sqlalchemy import SQLAlchemySource
from .database import STUDENTS, Database, Student
from .options import Options

__all__ = ["Cluster", "Member", "until"]

EAGER_POLLS: Final = 200
"""Looks, one in each turn of the event loop, before a wait becomes a slow one: an event that nothing
holds up is there after a few turns, and how long it took is to be measured."""

PAUSE: Final = 0.01
"""Seconds between two looks of a slow wait."""


async def until(condition: Callable[[], bool], patience: float) -> bool:
    """Wait for a condition, for `patience` seconds at most; whether it came about."""
    deadline = time.monotonic() + patience
    polls = 0
    while not condition():
        if time.monotonic() >= deadline:
            return False
        polls += 1
        await asyncio.sleep(0 if polls < EAGER_POLLS else PAUSE)
    return True


class Member:
    """A node with a repository and an engine that nobody else uses, as in a process of its own."""

    def __init__(self, name: str, database: Database, broker: str, namespace: str) -> None:
        self.name = name
        self._engine = database.engine(name)
        self.students: Repository[int, Student] = Repository(
            Student,
            source=SQLAlchemySource(
                self._engine, STUDENTS, entity=Student, version_column="version"
            ),
            version="version",
            name="students",
        )
        self._node = Node(broker, self.students, namespace=namespace, name=name)

    async def start(self) -> None:
        """Join the others."""
        await self._node.__aenter__()

    async def stop(self) -> None:
        """Leave, and forget everything."""
        await self._node.__aexit__(None, None, None)
        await self._engine.dispose()

    def rows(self) -> dict[int, Student]:
        """What it holds; nothing, as long as it cannot say."""
        try:
            return dict(self.students.items())
        except NotReadyError:
            return {}

    def shows(self, key: int, wanted: Student | None) -> bool:
        """Whether its row of this key is this one, or there is none if none is wanted."""
        try:
            return self.students.peek(key) == wanted
        except NotReadyError:
            return False

    async def answers(self, wanted: Mapping[int, Student]) -> int:
        """How many of these rows it returns as they are here when asked for them one by one."""
        await asyncio.sleep(
            0
        )  # reads of what is in memory never wait, and the others want their turn
        right = 0
        for key, student in wanted.items():
            try:
                right += await self.students.get(key) == student
            except DollopError:
                return right
        return right

    @property
    def digest(self) -> str:
        """Of all that it holds, as the node reports it; empty while it is not open."""
        repositories: dict[str, Any] = self._node.status().get("repositories", {})
        return str(repositories["students"]["digest"]) if repositories else ""

    @property
    def last_source_read(self) -> float:
        """When what it holds was last compared with the table, by whichever node; 0 for never."""
        return self.students.info().last_source_read or 0.0


class Cluster:
    """The members that are there now. Leaving it stops them all."""

    def __init__(self, options: Options, database: Database) -> None:
        self.members: list[Member] = []
        self._gone: list[Member] = []
        self._database = database
        self._broker = options.broker
        self._namespace = (
            f"demo-{secrets.token_hex(4)}"  # another demo on the same broker is not met
        )

    async def __aenter__(self) -> Cluster:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            await self.stop(list(self.members))

    async def start(self, names: Iterable[str]) -> list[Member]:
        """New members, started at the same time."""
        new = [Member(name, self._database, self._broker, self._namespace) for name in names]
        self.members = sorted([*self.members, *new], key=lambda member: member.name)
        async with anyio.create_task_group() as starting:
            for member in new:
                starting.start_soon(member.start)
        return new

    async def stop(self, members: Iterable[Member]) -> None:
        """They leave."""
        for member in members:
            self.members.remove(member)
            self._gone.append(member)
            await member.stop()

    def all_show(self, key: int, wanted: Student | None) -> bool:
        """Whether all show this row, or all do not, see `Member.shows`."""
        return all(member.shows(key, wanted) for member in self.members)

    def showing(self, key: int, wanted: Student | None) -> int:
        """How many of them do."""
        return sum(member.shows(key, wanted) for member in self.members)

    def all_hold(self, wanted: Mapping[int, Student]) -> bool:
        """Whether all hold these rows and no others."""
        return all(member.rows() == wanted for member in self.members)

    def holding(self, wanted: Mapping[int, Student]) -> int:
        """How many of them do."""
        return sum(member.rows() == wanted for member in self.members)

    @property
    def counted(self) -> dict[str, int]:
        """Counters of the repositories, summed over all members that there ever were."""
        total: Counter[str] = Counter()
        for member in (*self._gone, *self.members):
            stats = member.students.stats
            for name in ("writes", "snapshots", "full_loads", "applied", "doubts", "gaps"):
                total[name] += getattr(stats, name)
        return dict(total)
