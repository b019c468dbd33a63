"""Ten systems over one table: each has a repository, a node, a connection to the broker and an engine of its own.

They share a process and its event loop, so that one clock says when a write returned and when each of them
showed it.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import statistics
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Final, NamedTuple, TypeAlias

from sqlalchemy.ext.asyncio import create_async_engine

from imperfect_dollop import Node, Repository
from imperfect_dollop.demo.database import Database, Student, students_table
from imperfect_dollop.demo.member import until
from imperfect_dollop.replica.messages import WRITTEN, Events
from imperfect_dollop.replica.stamp import seconds
from imperfect_dollop.session import Session
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource

SYSTEMS: Final = 10

ROWS: Final = 10_000

CONNECTIONS: Final = 4
"""Of each system to the database: a MariaDB takes 151 in all, and other tests may want some."""

PATIENCE: Final = 20.0
"""Seconds after which something that has not happened will not happen."""

Write: TypeAlias = tuple[int, Student | None]
"""A key, and what a write has left there; no two writes of a test leave the same."""


class Moments(NamedTuple):
    """Of a write, by `time.time`."""

    committed: float
    """When its writer learnt that the database has it: the time in its event's stamp."""
    shown: float
    """When a sibling showed it."""


class Observed(Repository[int, Student]):
    """Notes when a sibling's writes are shown here: right after the call that takes in their message.

    Nothing polls, and nobody can have had a turn in between, so what is noted is the first moment at which a reader
    could have seen the row, to some microseconds. The wait for the nine other systems is in it: all share a thread.
    """

    shown: dict[Write, Moments]

    def attach(self, *arguments: Any, **named: Any) -> Session[int, Student]:
        session = super().attach(*arguments, **named)
        receive, replica = session.receive, session.replica
        self.shown = {}

        def observed(events: Events) -> None:
            receive(events)
            now = time.time()
            for event in events.events:
                if event.kind in WRITTEN and not replica.cold:
                    key = replica.keys.decode(event.key)
                    moments = Moments(seconds(event.stamp.time), now)
                    self.shown.setdefault((key, replica.table.live.get(key)), moments)

        session.receive = observed  # type: ignore[method-assign]
        return session


class System:
    """One of the ten."""

    def __init__(self, name: str, broker: str, namespace: str, database: Database) -> None:
        self.name = name
        self.engine = create_async_engine(database.url, pool_size=CONNECTIONS, max_overflow=0)
        table = students_table(database.table)
        self.students = Observed(
            Student,
            source=SQLAlchemySource(self.engine, table, entity=Student, version_column="version"),
            version="version",
            name="students",
        )
        self.node = Node(broker, self.students, namespace=namespace, name=name)

    async def start(self) -> None:
        await self.node.__aenter__()

    async def stop(self) -> None:
        await self.node.__aexit__(None, None, None)
        await self.engine.dispose()

    def shows(self, rows: Iterable[Write]) -> bool:
        """Whether these rows are as they were written."""
        return all(self.students.peek(key) == row for key, row in rows)

    def differs(self, wanted: Mapping[int, Student]) -> list[int]:
        """The keys in which it does not hold just these rows."""
        return sorted({key for key, _ in self.students.items() ^ wanted.items()})


class Fleet:
    """All of them. `chance` draws which one does what."""

    def __init__(self, broker: str, database: Database, chance: random.Random) -> None:
        self.database = database
        self.chance = chance
        self.systems: list[System] = []
        self.gone: list[System] = []
        self.first: dict[int, Student] = {
            key: Student(key, f"Student {key}", "Paris") for key in range(ROWS)
        }
        """What is in the table before anybody writes."""
        self.written: dict[int, Student | None] = {}
        """What the last write of each key has left there."""
        self.returned: dict[Write, float] = {}
        """When each write returned, by `time.time`."""
        self._broker = broker
        self._namespace = f"fleet-{secrets.token_hex(6)}"

    # -- who is there ----------------------------------------------------------------------------

    async def start(self, names: Iterable[str]) -> list[System]:
        """New systems, all at once."""
        new = [System(name, self._broker, self._namespace, self.database) for name in names]
        self.systems += new
        await together(system.start() for system in new)
        return new

    async def stop(self, systems: Iterable[System]) -> None:
        """They leave, all at once."""
        leaving = list(systems)
        self.gone += leaving
        self.systems = [system for system in self.systems if system not in leaving]
        await together(system.stop() for system in leaving)

    def any(self) -> System:
        return self.chance.choice(self.systems)

    def some(self, count: int) -> list[Student]:
        """Rows of the table, as it was in the beginning."""
        return self.chance.sample(list(self.first.values()), count)

    # -- what they do ----------------------------------------------------------------------------

    async def write(self, key: int, writing: Awaitable[Student | None]) -> None:
        """Carry out a write, and note when it returned and what it has left."""
        row = await writing
        self.returned[key, row] = time.time()
        self.written[key] = row

    async def seen(self) -> None:
        """Wait until every system shows what was written."""
        written = self.written.items()
        await until(lambda: all(system.shows(written) for system in self.systems), PATIENCE)
        hidden = [system.name for system in self.systems if not system.shows(written)]
        assert not hidden, f"not all that was written is on {hidden} after {PATIENCE:g} s"

    def counted(self, *names: str) -> dict[str, int]:
        """Figures of `Stats`, each summed over all systems that there ever were."""
        stats = [system.students.stats for system in (*self.gone, *self.systems)]
        return {name: sum(getattr(each, name) for each in stats) for name in names}

    # -- how it went -----------------------------------------------------------------------------

    async def judge(self) -> None:
        """All copies agree, with each other and with the table, and nothing had to be made good."""
        nodes = [system.node for system in self.systems]
        await together(node.flush() for node in nodes)
        await eventually(lambda: all(map(in_step, nodes)), "all are clean and ready")
        await eventually(lambda: len({digest(node) for node in nodes}) == 1, "equal digests")
        await eventually(lambda: all(len(node.members) == SYSTEMS for node in nodes), "all there")
        table = await self.database.rows()
        differing = {system.name: system.differs(table) for system in self.systems}
        assert not any(differing.values()), differing
        crashes = [node.status()["crashes"] for node in nodes]
        assert not any(crashes), crashes
        # The first to start has read the table, everybody else has copied a sibling, then or later.
        copies = len(self.systems) + len(self.gone) - 1
        wanted = {"full_loads": 1, "snapshots": copies, "gaps": 0, "rejected": 0}
        counted = self.counted(*wanted)
        assert counted == wanted, counted

    def report(self, record: Callable[[str, object], None]) -> None:
        """Record how long the writes of a test took to all ten, none of which had to be repaired.

        Of writes at the same time it is also how long they queue up for the one thread of all systems; a benchmark
        measures what is between two processes. A write that all show before its caller has a turn took 0.
        """
        writes, others = len(self.returned), SYSTEMS - 1
        wanted = {"writes": writes, "events_sent": writes, "applied": writes * others}
        wanted |= {"doubts": 0, "loads": 0}
        counted = self.counted(*wanted)
        assert counted == wanted, counted
        from_return: list[float] = []
        from_commit: list[float] = []
        for write, returned in self.returned.items():
            moments = [
                system.students.shown[write]
                for system in self.systems
                if write in system.students.shown
            ]
            assert len(moments) == others, write
            last = max(each.shown for each in moments)
            from_return.append(max(0.0, last - returned))
            from_commit.append(last - moments[0].committed)
        record("until all show it, from the write's return", figures(from_return))
        record("until all show it, from its commit", figures(from_commit))


def figures(samples: list[float]) -> str:
    percentiles = statistics.quantiles(samples, n=100, method="inclusive")
    p50, p99, worst = (1_000 * each for each in (percentiles[49], percentiles[98], max(samples)))
    return f"p50 {p50:.1f} ms, p99 {p99:.1f} ms, worst {worst:.1f} ms of {len(samples):,} writes"


def in_step(node: Node) -> bool:
    students = node.status()["repositories"]["students"]
    return bool(students["clean"]) and students["state"] == "ready"


def digest(node: Node) -> str:
    return str(node.status()["repositories"]["students"]["digest"])


async def together(works: Iterable[Coroutine[Any, Any, object]]) -> None:
    """All at once; the first that fails ends the others."""
    async with asyncio.TaskGroup() as tasks:
        for work in works:
            tasks.create_task(work)


async def eventually(condition: Callable[[], bool], what: str) -> None:
    assert await until(condition, PATIENCE) is not None, f"not in {PATIENCE:g} s: {what}"


@asynccontextmanager
async def fleet_of_a_test(
    broker: str, database: Database, chance: random.Random
) -> AsyncIterator[Fleet]:
    """Ten systems, started together over a full table, for as long as the block runs."""
    fleet = Fleet(broker, database, chance)
    async with database:
        await database.fill(fleet.first.values())
        try:
            await fleet.start(f"system {number}" for number in range(SYSTEMS))
            yield fleet
        finally:
            await fleet.stop(fleet.systems)
