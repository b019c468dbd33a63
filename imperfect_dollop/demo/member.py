"""A node of the demo, as the steps know it, and the one that does the work."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from typing import Any, Final, Literal, Protocol, TypeAlias

import msgspec

from .. import DollopError, Node, NotReadyError, Repository, Stats
from ..sources.sqlalchemy import SQLAlchemySource
from .database import Student, counted_engine, students_table

__all__ = ["Answers", "Figures", "Kind", "LocalMember", "Member", "Setup", "Written", "until"]

EAGER_POLLS: Final = 20
"""Looks, one in each turn of the event loop, before a wait becomes a slow one: an event that nothing
holds up is there after a few turns, and how long it took is to be measured."""

PAUSES: Final = (0.001, 0.02)
"""Seconds between two looks of a slow wait, at least and at most; between them, a tenth of the wait so far.
All processes of the demo wait on the same few cores."""

Kind: TypeAlias = Literal["create", "update", "delete"]


class Setup(msgspec.Struct, frozen=True, kw_only=True):
    """What a member is made from."""

    name: str
    broker: str
    namespace: str
    database: str
    """A URL."""
    table: str
    log: str | None = None
    """For a process of its own: the level from which on it shows the library's log."""


class Figures(msgspec.Struct, frozen=True, kw_only=True):
    """A member as it was when it was looked at last."""

    state: str = "closed"
    entities: int = 0
    digest: str = ""
    """Of all that it holds, as the node reports it; empty while it is not open."""
    agreed: bool = False
    """Whether the node has seen that all replicas agree."""
    members: int = 0
    """Live nodes that it knows of, itself included."""
    failure: str | None = None
    """What it has to say of a broker that is away."""
    last_source_read: float = 0.0
    """When what it holds was last compared with the table, by whichever node; 0 for never."""
    read_source: bool = False
    """Whether its own last read of the source has succeeded."""
    whole_reads: int = 0
    """How often it has asked for the whole table, counted where the statements reach the driver."""
    stats: Stats = msgspec.field(default_factory=Stats)


class Written(msgspec.Struct, frozen=True):
    """A write that has returned."""

    stored: Student | None
    at: float
    """By `time.perf_counter`, which all processes of a machine share."""


class Answers(msgspec.Struct, frozen=True):
    """Reads that were answered right."""

    right: int
    seconds: float
    """For all that were asked for."""


class Member(Protocol):
    """A node with a repository and an engine that nobody else uses, in whatever process.

    What it raises are `DollopError`s, where the repository does; `MemberDiedError` where its process has ended.
    """

    name: str
    figures: Figures

    async def open(self) -> None:
        """It is there, and has done nothing yet."""
        ...

    async def start(self) -> None:
        """Join the others."""
        ...

    async def leave(self) -> None:
        """Leave in order, with a last look. Raises nothing: it may be gone already."""
        ...

    async def crash(self) -> None:
        """End as abruptly as can be, with a last look before it. Raises nothing."""
        ...

    async def write(self, kind: Kind, student: Student) -> Written:
        """Do this to the row, through the repository."""
        ...

    async def refresh(self) -> None:
        """Have the repository refreshed."""
        ...

    async def shows(self, key: int, wanted: Student | None, patience: float) -> float | None:
        """Wait until its row of this key is this one, or there is none if none is wanted.

        The moment at which it was seen, by `time.perf_counter`; ``None`` after `patience` seconds.
        """
        ...

    async def differs(self, wanted: Mapping[int, Student], patience: float) -> list[int]:
        """Wait until it holds these rows and no others.

        The keys in which it still differs after `patience` seconds.
        """
        ...

    async def answers(self, wanted: Mapping[int, Student]) -> Answers:
        """Ask it for each of these rows."""
        ...

    async def look(self) -> Figures:
        """How it is now; kept as `figures`."""
        ...


async def until(
    condition: Callable[[], bool], patience: float, *, eager_polls: int = 0
) -> float | None:
    """Wait for a condition, for `patience` seconds at most; the moment at which it was seen to hold."""
    began = time.perf_counter()
    polls = 0
    least, most = PAUSES
    while not condition():
        waited = time.perf_counter() - began
        if waited >= patience:
            return None
        polls += 1
        eager = polls <= eager_polls
        await asyncio.sleep(0 if eager else min(max(least, waited / 10), most))
    return time.perf_counter()


class LocalMember:
    """A `Member` in this process."""

    def __init__(self, setup: Setup) -> None:
        self.name: str = setup.name
        self.figures: Figures = Figures()
        self._whole_reads = 0
        self._engine = counted_engine(setup.database, setup.table, self._note_whole_read)
        table = students_table(setup.table)
        self._students: Repository[int, Student] = Repository(
            Student,
            source=SQLAlchemySource(self._engine, table, entity=Student, version_column="version"),
            version="version",
            name="students",
        )
        self._node = Node(setup.broker, self._students, namespace=setup.namespace, name=setup.name)

    def _note_whole_read(self) -> None:
        self._whole_reads += 1

    async def open(self) -> None:
        """See `Member`, as for all of the following."""

    async def start(self) -> None:
        """Enter the node."""
        await self._node.__aenter__()

    async def leave(self) -> None:
        """Leave the node."""
        await self.look()
        await self._node.__aexit__(None, None, None)
        await self._engine.dispose()

    async def crash(self) -> None:
        """Leave: who shares a process with others cannot end more abruptly."""
        await self.leave()

    async def write(self, kind: Kind, student: Student) -> Written:
        """Write, and note when that returned."""
        stored: Student | None = None
        if kind == "create":
            stored = await self._students.create(student)
        elif kind == "update":
            stored = await self._students.update(student)
        else:
            await self._students.delete(student.id)
        return Written(stored, time.perf_counter())

    async def refresh(self) -> None:
        """Refresh."""
        await self._students.refresh()

    async def shows(self, key: int, wanted: Student | None, patience: float) -> float | None:
        """Peek again and again."""

        def shown() -> bool:
            try:
                return self._students.peek(key) == wanted
            except NotReadyError:
                return False

        return await until(shown, patience, eager_polls=EAGER_POLLS)

    async def differs(self, wanted: Mapping[int, Student], patience: float) -> list[int]:
        """Compare again and again."""
        await until(lambda: self._rows() == wanted, patience)
        rows = self._rows()
        keys = rows.keys() | wanted.keys()
        return sorted(key for key in keys if rows.get(key) != wanted.get(key))

    def _rows(self) -> dict[int, Student]:
        """What it holds; nothing, as long as it cannot say."""
        try:
            return dict(self._students.items())
        except NotReadyError:
            return {}

    async def answers(self, wanted: Mapping[int, Student]) -> Answers:
        """Read one row after the other."""
        # Reads of what is in memory never wait, and the others want their turn.
        await asyncio.sleep(0)
        began = time.perf_counter()
        right = 0
        for key, student in wanted.items():
            try:
                right += await self._students.get(key) == student
            except DollopError:
                break
        return Answers(right, time.perf_counter() - began)

    async def look(self) -> Figures:
        """Take the figures of node and repository."""
        status = self._node.status()
        repositories: dict[str, Any] = status.get("repositories", {})
        info = self._students.info()
        self.figures = Figures(
            state=str(self._students.state),
            entities=info.entities,
            digest=str(repositories["students"]["digest"]) if repositories else "",
            agreed=bool(repositories) and repositories["students"]["agreed"] is True,
            members=len(self._node.members),
            failure=status.get("broker", {}).get("failure"),
            last_source_read=info.last_source_read or 0.0,
            read_source=info.source_alive_since is not None,
            whole_reads=self._whole_reads,
            stats=self._students.stats,
        )
        return self.figures
