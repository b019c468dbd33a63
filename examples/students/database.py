"""The database: an engine, and keys that it makes."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import Table, event, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from imperfect_dollop import ConflictError, FunctionSource
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource

from .model import Student

__all__ = ["new_engine", "source_of"]

BUSY_SECONDS: Final = 30
"""How long a writer waits for another one's transaction: SQLite has one writer at a time."""

KEY_ATTEMPTS: Final = 5
"""To find a key that is free, while others look for theirs."""


def new_engine(url: str) -> AsyncEngine:
    """An engine whose owner disposes of it. Raises `ModuleNotFoundError` without the database's driver."""
    if not url.startswith("sqlite"):
        return create_async_engine(url, pool_pre_ping=True)  # the server may have been restarted
    engine = create_async_engine(url, connect_args={"timeout": BUSY_SECONDS})
    event.listen(engine.sync_engine, "connect", _readers_beside_the_writer)
    return engine


def _readers_beside_the_writer(connection: Any, record: Any) -> None:
    cursor = connection.cursor()
    cursor.execute("PRAGMA journal_mode = WAL")
    cursor.close()


def source_of(engine: AsyncEngine, table: Table) -> FunctionSource[int, Student]:
    """The rows of the table as students.

    It is a `SQLAlchemySource`, but for one thing: PostgreSQL goes on counting keys where it was, also when a row was
    given a key ahead of that. The key that it makes is then taken already, and has to be made again.
    """
    rows = SQLAlchemySource(engine, table, entity=Student, version_column="version")

    async def create(student: Student) -> Student:
        for _ in range(KEY_ATTEMPTS):
            try:
                return await rows.create(student)
            except ConflictError:
                if student.id is not None or engine.dialect.name != "postgresql":
                    raise
                await _count_on_from_highest_key(engine, table)
        return await rows.create(student)

    return FunctionSource(
        load=rows.load,
        load_many=rows.load_many,
        load_all=rows.load_all,
        create=create,
        update=rows.update,
        delete=rows.delete,
    )


async def _count_on_from_highest_key(engine: AsyncEngine, table: Table) -> None:
    name = engine.dialect.identifier_preparer.format_table(table)
    statement = text(
        "SELECT setval(keys, greatest(highest, pg_sequence_last_value(keys)))"
        " FROM CAST(pg_get_serial_sequence(:name, 'id') AS regclass) AS keys,"
        f" (SELECT max(id) AS highest FROM {name}) AS rows"
    )
    async with engine.begin() as connection:
        await connection.execute(statement, {"name": name})
