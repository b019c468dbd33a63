"""The source of the demo: a table of students that no other run has, and a count of what it is asked for."""

from __future__ import annotations

import dataclasses
import secrets
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final, Self

import anyio
from sqlalchemy import Column, Integer, MetaData, String, Table, event, select, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from .urls import SQLITE, async_url

__all__ = ["Database", "Student", "counted_engine", "students_table"]

BUSY_SECONDS: Final = 30
"""How long a writer waits for another one's transaction: SQLite has one writer at a time."""

STATEMENT_SECONDS: Final = 30
"""For a statement of the demo's own: a table that somebody keeps locked ends the demo, and hangs nothing."""


@dataclasses.dataclass(frozen=True, slots=True)
class Student:
    """A row of the table."""

    id: int
    name: str
    city: str
    version: int = 0


def students_table(name: str) -> Table:
    """The table, as SQLAlchemy sees it."""
    return Table(
        name,
        MetaData(),
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("name", String(50), nullable=False),
        Column("city", String(50), nullable=False),
        Column("version", Integer, nullable=False, default=0),
    )


def counted_engine(url: str, table: str, note: Callable[[], None]) -> AsyncEngine:
    """An engine for a node; each read of the whole table is noted where it is handed to the driver.

    The caller disposes of it.
    """
    engine = _new_engine(url)

    def count(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        words = statement.split()
        if words[0].upper() == "SELECT" and table in words and "WHERE" not in words:
            note()

    event.listen(engine.sync_engine, "before_cursor_execute", count)
    return engine


class Database:
    """The table, seen past the library: with an engine that no node has. Leaving it drops the table."""

    def __init__(self, database: str, directory: str) -> None:
        self.url: str = async_url(database)
        if self.url == SQLITE:
            file = URL.create("sqlite+aiosqlite", database=str(Path(directory, "school.sqlite")))
            self.url = file.render_as_string()
        self.table: str = f"dollop_demo_{secrets.token_hex(4)}_students"
        self._elsewhere = f"{self.table}_elsewhere"
        self._students = students_table(self.table)
        self._engine = _new_engine(self.url)
        self._made = False

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        with anyio.CancelScope(shield=True):
            try:
                if self._made:
                    await self._drop()
            finally:
                await self._engine.dispose()

    async def fill(self, students: Iterable[Student]) -> None:
        """Make the table and its rows."""

        async def create(connection: AsyncConnection) -> None:
            await connection.run_sync(self._students.create)

        async def insert(connection: AsyncConnection) -> None:
            rows = [dataclasses.asdict(row) for row in students]
            await connection.execute(self._students.insert(), rows)

        self._made = True  # perhaps: if this is interrupted, nobody knows
        try:
            await self._transact(create)
        except Exception:
            self._made = False
            raise
        await self._transact(insert)

    async def change(self, *, changed: Student, added: Student, removed: int) -> None:
        """Do by SQL what no repository hears of."""
        table = self._students

        async def change(connection: AsyncConnection) -> None:
            values = dataclasses.asdict(changed)
            await connection.execute(table.update().where(table.c.id == changed.id).values(values))
            await connection.execute(table.insert().values(dataclasses.asdict(added)))
            await connection.execute(table.delete().where(table.c.id == removed))

        await self._transact(change)

    async def hide(self) -> None:
        """Take the table away: whatever is asked of it fails from now on."""
        await self._execute(f"ALTER TABLE {self.table} RENAME TO {self._elsewhere}")

    async def bring_back(self) -> None:
        """Undo `hide`."""
        await self._execute(f"ALTER TABLE {self._elsewhere} RENAME TO {self.table}")

    async def rows(self) -> dict[int, Student]:
        """What is in the table, by its key."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(self._students))
            return {row.id: Student(row.id, row.name, row.city, row.version) for row in rows}

    async def _drop(self) -> None:
        """Wherever it is."""

        async def drop(connection: AsyncConnection) -> None:
            # Looked for, not dropped IF EXISTS: of that MariaDB warns.
            for table in (self._students, students_table(self._elsewhere)):
                await connection.run_sync(table.drop, checkfirst=True)

        await self._transact(drop)

    async def _execute(self, statement: str) -> None:
        async def execute(connection: AsyncConnection) -> None:
            await connection.execute(text(statement))

        await self._transact(execute)

    async def _transact(self, work: Callable[[AsyncConnection], Awaitable[None]]) -> None:
        with anyio.fail_after(STATEMENT_SECONDS):
            async with self._engine.begin() as connection:
                await work(connection)


def _new_engine(url: str) -> AsyncEngine:
    if not url.startswith("sqlite"):
        return create_async_engine(url)
    engine = create_async_engine(url, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine.sync_engine, "connect", _make_quick)
    return engine


def _make_quick(connection: Any, record: Any) -> None:
    """Readers beside the one writer, and no waiting for the disk: the file is gone with the demo."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = OFF")
    cursor.close()
