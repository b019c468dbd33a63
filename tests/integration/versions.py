"""Two versions of an application over one table: what each takes its columns for, and nodes of either.

They differ in all ways at once. The old class has `house`, which the new one has not; the new one has `city`;
`grade` is a number to the old and a letter to the new; and the column `name` is `title` to the new.
"""

from __future__ import annotations

import itertools
import random
import time
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any, Final, TypeAlias

import anyio
from sqlalchemy import (
    Column,
    Dialect,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    insert,
    text,
)
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from imperfect_dollop import Node, Repository
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource

from .history import History, Past, Saw, Shown
from .rows import POSTGRESQL
from .watch import Watch
from .worker import REFUSED

LETTERS: Final = "ABCDEF"

HEARTBEAT: Final = 0.2

NOTE: Final = (
    # The columns of `name` are those that the history of the fault tests takes.
    *(
        statement.replace("NEW.mark", "NEW.name").replace("OLD.mark", "OLD.name")
        for statement in POSTGRESQL[1:]
    ),
    "INSERT INTO {name}_past (id, mark, version, gone) SELECT id, name, version, false FROM {name}",
)
"""What writes down every commit, in the order of each key: see `rows`."""


@dataclass(frozen=True, slots=True)
class OldRow:
    id: int
    name: str
    grade: int = 0
    house: str = "attic"
    version: int = 0

    @property
    def mark(self) -> str:
        """What no other write has left."""
        return self.name


@dataclass(frozen=True, slots=True)
class NewRow:
    id: int
    title: str
    grade: str = "A"
    city: str = "Paris"
    version: int = 0

    @property
    def mark(self) -> str:
        """What no other write has left."""
        return self.title


AnyRow: TypeAlias = OldRow | NewRow


class Letter(TypeDecorator[str]):
    """A number that is shown as a letter."""

    impl = Integer
    cache_ok = True

    def process_bind_param(self, value: str | None, dialect: Dialect) -> int | None:
        return None if value is None else LETTERS.index(value)

    def process_result_value(self, value: int | None, dialect: Dialect) -> str | None:
        return None if value is None else LETTERS[value]


def whole_table(name: str) -> Table:
    """As it is in the database: columns that one version does not know have a default there."""
    return Table(
        name,
        MetaData(),
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("name", String(80), nullable=False),
        Column("grade", Integer, nullable=False, server_default="0"),
        Column("house", String(80), nullable=False, server_default="attic"),
        Column("city", String(80), nullable=False, server_default="Paris"),
        Column("version", Integer, nullable=False),
    )


def old_table(name: str) -> Table:
    return Table(
        name,
        MetaData(),
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("name", String(80), nullable=False),
        Column("grade", Integer, nullable=False),
        Column("house", String(80), nullable=False),
        Column("version", Integer, nullable=False),
    )


def new_table(name: str) -> Table:
    return Table(
        name,
        MetaData(),
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("name", String(80), key="title", nullable=False),
        Column("grade", Letter, nullable=False),
        Column("city", String(80), nullable=False),
        Column("version", Integer, nullable=False),
    )


class Counted(SQLAlchemySource[Any]):
    """Notes how many keys each call asks for."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self.asked: list[int] = []

    def bind(self, entity: type[Any], **_: Any) -> Counted:
        return self  # it was built for this class

    async def load(self, key: Any, /) -> Any:
        self.asked.append(1)
        return await super().load(key)

    async def load_many(self, keys: Sequence[Any], /) -> list[Any]:
        self.asked.append(len(keys))
        return await super().load_many(keys)


def _changed(row: AnyRow, mark: str) -> AnyRow:
    """With another mark, and in each version's own field too."""
    if isinstance(row, OldRow):
        return replace(row, name=mark, house=mark)
    return replace(row, title=mark, city=mark)


class Process:
    """One node of one version, with an engine and a connection to the broker of its own."""

    def __init__(
        self, school: School, name: str, kind: type[AnyRow], settings: dict[str, Any]
    ) -> None:
        self.name = name
        self.kind = kind
        self.engine = create_async_engine(school.database, pool_size=3, max_overflow=0)
        table = old_table(school.name) if kind is OldRow else new_table(school.name)
        self.source = Counted(self.engine, table, entity=kind, version_column="version")
        self.rows: Repository[int, Any] = Repository(
            kind, source=self.source, version="version", name="rows", **settings
        )
        self.node = Node(
            school.broker, self.rows, namespace=school.name, name=name, heartbeat=HEARTBEAT
        )

        self.watch = Watch(self.rows, school.rows)
        self.written = 0
        self.failed: list[str] = []
        self._numbers = itertools.count()

    async def look(self) -> None:
        """Read all the time; never returns."""
        await self.watch.run(lambda: None)

    async def write(self, chance: random.Random) -> None:
        """Write a row, whichever; a refusal is no failure where others write too."""
        key = chance.randrange(self.watch.keys)
        mark = f"{self.name}:{next(self._numbers)}"
        try:
            held = self.rows.peek(key)
            if held is None:
                made = OldRow(key, mark) if self.kind is OldRow else NewRow(key, mark)
                self._wrote(await self.rows.create(made))
            elif chance.random() < 0.2:
                self.watch.note(Saw.DELETING, key, None)
                await self.rows.delete(key)
                self.watch.note(Saw.DELETED, key, None)
            else:
                self._wrote(await self.rows.update(_changed(held, mark)))
            self.written += 1
        except REFUSED:
            return
        except Exception as error:  # whatever it is, the test is told of it
            self.failed.append(repr(error))

    def _wrote(self, stored: Any) -> None:
        self.watch.note(Saw.WROTE, stored.id, stored)
        self.watch.look(stored.id)

    async def start(self) -> None:
        await self.node.__aenter__()

    async def stop(self) -> None:
        await self.node.__aexit__(None, None, None)
        await self.engine.dispose()

    @property
    def clean(self) -> bool:
        status = self.node.status()["repositories"]["rows"]
        return bool(status["clean"]) and status["state"] == "ready" and not status["unsent"]

    @property
    def digest(self) -> str:
        return str(self.node.status()["repositories"]["rows"]["digest"])


class School:
    """The table, and the nodes over it."""

    def __init__(self, broker: str, database: str) -> None:
        self.broker = broker
        self.database = database
        self.name = f"versions_{random.randbytes(6).hex()}"
        self.table = whole_table(self.name)
        self.rows = 0
        self.noting = False
        self.processes: list[Process] = []
        self._engine: AsyncEngine = create_async_engine(database, poolclass=NullPool)

    async def start(self, name: str, kind: type[AnyRow], **settings: Any) -> Process:
        process = Process(self, name, kind, settings)
        self.processes.append(process)
        await process.start()
        return process

    async def stop(self, process: Process) -> None:
        self.processes.remove(process)
        await process.stop()

    def of(self, kind: type[AnyRow]) -> list[Process]:
        return [process for process in self.processes if process.kind is kind]

    async def fill(self, count: int) -> None:
        self.rows = count
        async with self._engine.begin() as connection:
            await connection.run_sync(self.table.create)
            rows = [{"id": key, "name": f"seed:{key}", "version": 0} for key in range(count)]
            await connection.execute(insert(self.table), rows)

    async def columns(self, key: int) -> dict[str, Any] | None:
        """What the database has of a row, past every version."""
        async with self._engine.connect() as connection:
            found = await connection.execute(self.table.select().where(self.table.c.id == key))
            row = found.one_or_none()
            return None if row is None else dict(row._mapping)

    async def execute(self, statement: Any) -> Any:
        async with self._engine.begin() as connection:
            return await connection.execute(statement)

    async def truth(self) -> dict[type[AnyRow], dict[int, AnyRow]]:
        """All rows, as each version would see them."""
        async with self._engine.connect() as connection:
            found = (await connection.execute(self.table.select())).all()
        return {
            OldRow: {r.id: OldRow(r.id, r.name, r.grade, r.house, r.version) for r in found},
            NewRow: {
                r.id: NewRow(r.id, r.name, LETTERS[r.grade], r.city, r.version) for r in found
            },
        }

    async def note_all(self) -> None:
        """Keep all that a row ever is from now on (PostgreSQL only)."""
        self.noting = True
        for statement in NOTE:
            await self.execute(text(statement.format(name=self.name)))

    async def history(self) -> History:
        """What has ever been in the table, since `note_all`."""
        past = text(f"SELECT id, mark, version, gone, at FROM {self.name}_past ORDER BY seq")
        async with self._engine.connect() as connection:
            found = await connection.execute(past)
        return History(
            Past(row.id, None if row.gone else Shown(row.mark, row.version), row.at)
            for row in found
        )

    async def agree(self) -> None:
        """Wait until every node holds the table as its class sees it, is clean, and has the digest of its kind."""
        for process in self.processes:
            await process.node.flush()
        truth = await self.truth()

        def agreed() -> bool:
            return all(
                process.clean and dict(process.rows.items()) == truth[process.kind]
                for process in self.processes
            ) and all(len({process.digest for process in self.of(kind)}) <= 1 for kind in truth)

        def told() -> str:
            return str(
                {
                    process.name: (
                        process.clean,
                        process.digest,
                        [
                            (key, truth[process.kind].get(key), process.rows.peek(key))
                            for key in truth[process.kind].keys() | set(process.rows.keys())
                            if truth[process.kind].get(key) != process.rows.peek(key)
                        ][:3],
                    )
                    for process in self.processes
                }
            )

        await eventually(agreed, told)

    async def close(self) -> None:
        for process in self.processes:
            await process.stop()
        async with self._engine.begin() as connection:
            await connection.run_sync(self.table.drop, checkfirst=True)
            if self.noting:
                await connection.execute(text(f"DROP TABLE {self.name}_past"))
                await connection.execute(text(f"DROP FUNCTION {self.name}_note"))
        await self._engine.dispose()


async def eventually(
    condition: Callable[[], bool], what: Callable[[], object], patience: float = 20.0
) -> None:
    deadline = time.monotonic() + patience
    while not condition():
        assert time.monotonic() < deadline, f"not within {patience:g} s: {what()}"
        await anyio.sleep(0.01)


def total(processes: Iterable[Process], name: str) -> int:
    """A figure of `Stats`, over several nodes."""
    return sum(getattr(process.rows.stats, name) for process in processes)


@asynccontextmanager
async def school_of_a_test(broker: str, database: str) -> AsyncIterator[School]:
    school = School(broker, database)
    try:
        yield school
    finally:
        await school.close()
