"""The source of the demo: a table of students in a SQLite file, and a count of what it is asked for."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from sqlalchemy import Column, Integer, MetaData, String, Table, event, select, text
from sqlalchemy.engine import URL
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

__all__ = ["STUDENTS", "Database", "Student"]

BUSY_SECONDS: Final = 30
"""How long a writer waits for another one's transaction: SQLite has one writer at a time."""

STUDENTS: Final = Table(
    "students",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("name", String(50), nullable=False),
    Column("city", String(50), nullable=False),
    Column("version", Integer, nullable=False, default=0),
)


@dataclasses.dataclass(frozen=True, slots=True)
class Student:
    """A row of the table."""

    id: int
    name: str
    city: str
    version: int = 0


class Database:
    """The table, seen past the library: with an engine that no node has."""

    def __init__(self, directory: str) -> None:
        self._url = URL.create("sqlite+aiosqlite", database=str(Path(directory, "school.sqlite")))
        self._engine = self._new_engine()
        self.whole_reads: Counter[str] = Counter()
        """How often each node has asked for all rows, counted where the statements reach the driver."""

    def engine(self, node: str) -> AsyncEngine:
        """An engine for a node, whose reads of the whole table are counted. The caller disposes of it."""
        engine = self._new_engine()

        def count(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            words = statement.upper().split()
            if words[0] == "SELECT" and "STUDENTS" in words and "WHERE" not in words:
                self.whole_reads[node] += 1

        event.listen(engine.sync_engine, "before_cursor_execute", count)
        return engine

    def _new_engine(self) -> AsyncEngine:
        engine = create_async_engine(self._url, connect_args={"timeout": BUSY_SECONDS})
        event.listen(engine.sync_engine, "connect", _make_quick)
        return engine

    async def fill(self, students: Iterable[Student]) -> None:
        """Make the table and its rows."""
        async with self._engine.begin() as connection:
            await connection.run_sync(STUDENTS.metadata.create_all)
            await connection.execute(
                STUDENTS.insert(), [dataclasses.asdict(row) for row in students]
            )

    async def change(self, *, changed: Student, added: Student, removed: int) -> None:
        """Do by SQL what no repository hears of."""
        values = dataclasses.asdict(changed)
        async with self._engine.begin() as connection:
            await connection.execute(
                STUDENTS.update().where(STUDENTS.c.id == changed.id).values(values)
            )
            await connection.execute(STUDENTS.insert().values(dataclasses.asdict(added)))
            await connection.execute(STUDENTS.delete().where(STUDENTS.c.id == removed))

    async def hide(self) -> None:
        """Take the table away: whatever is asked of it fails from now on."""
        await self._execute("ALTER TABLE students RENAME TO students_elsewhere")

    async def bring_back(self) -> None:
        """Undo `hide`."""
        await self._execute("ALTER TABLE students_elsewhere RENAME TO students")

    async def rows(self) -> dict[int, Student]:
        """What is in the table, by its key."""
        async with self._engine.connect() as connection:
            rows = await connection.execute(select(STUDENTS))
            return {row.id: Student(row.id, row.name, row.city, row.version) for row in rows}

    async def aclose(self) -> None:
        """Close the connections."""
        await self._engine.dispose()

    async def _execute(self, statement: str) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(text(statement))


def _make_quick(connection: Any, record: Any) -> None:
    """Readers beside the one writer, and no waiting for the disk: the file is gone with the demo."""
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.execute("PRAGMA synchronous = OFF")
    cursor.close()
