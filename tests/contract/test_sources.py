"""The contract of a source, on the sources that need no service."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import insert
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from imperfect_dollop.errors import ConflictError, EntityExistsError, EntityNotFoundError
from imperfect_dollop.source import FunctionSource, Source
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource
from imperfect_dollop.testing import Record, SourceContract


class Shelf:
    """Rows in a dict behind functions that wait, as those of a remote store do."""

    def __init__(self, *, versioned: bool) -> None:
        self.rows: dict[int, Record] = {}
        self.versioned = versioned

    async def load(self, key: int) -> Record | None:
        await asyncio.sleep(0)
        return self.rows.get(key)

    async def load_all(self) -> AsyncIterator[Sequence[Record]]:
        rows = list(self.rows.values())
        for start in range(0, len(rows), 1_000):
            await asyncio.sleep(0)
            yield rows[start : start + 1_000]

    async def create(self, record: Record) -> None:
        await asyncio.sleep(0)
        if record.id in self.rows:
            raise EntityExistsError(record.id)
        self.rows[record.id] = record

    async def update(self, record: Record) -> Record:
        await asyncio.sleep(0)
        self.compare(record.id, record.version)
        stored = replace(record, version=record.version + self.versioned)
        self.rows[record.id] = stored
        return stored

    async def delete(self, key: int, version: int | None) -> None:
        await asyncio.sleep(0)
        self.compare(key, version)
        del self.rows[key]

    def compare(self, key: int, version: int | None) -> None:
        if key not in self.rows:
            raise EntityNotFoundError(key)
        if self.versioned and version not in (None, self.rows[key].version):
            raise ConflictError(key)


class TestFunctionSource(SourceContract):
    @pytest.fixture
    def source(self) -> FunctionSource[int, Record]:
        shelf = Shelf(versioned=self.versioned)
        return FunctionSource(
            load=shelf.load,
            load_all=shelf.load_all,
            create=shelf.create,
            update=shelf.update,
            delete=shelf.delete,
        )


class TestFunctionSourceWithoutVersions(TestFunctionSource):
    versioned = False


class Base(DeclarativeBase):
    pass


class RecordRow(Base):
    __tablename__ = "records"

    id: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    name: Mapped[str]
    city: Mapped[str]
    version: Mapped[int] = mapped_column(default=0)


async def threads_end() -> None:
    """Wait for aiosqlite's threads. One that is told to stop as its connection was not to be had,
    or not waited for, still answers to the loop, which must not be closed by then."""
    async with asyncio.timeout(10):
        while any("_connection_worker" in thread.name for thread in threading.enumerate()):
            await asyncio.sleep(0.001)


class TestSQLAlchemySource(SourceContract):
    @pytest.fixture
    async def source(self, tmp_path: Path) -> AsyncIterator[SQLAlchemySource[Record]]:
        engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/rows.db", pool_timeout=5)
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        self.engine = engine
        yield SQLAlchemySource(
            engine,
            RecordRow,
            entity=Record,
            version_column=RecordRow.version if self.versioned else None,
        )
        await engine.dispose()
        await threads_end()

    async def fill(self, source: Source[Any, Any], entities: Sequence[Any]) -> None:
        values = [{"id": e.id, "name": e.name, "city": e.city} for e in entities]
        async with self.engine.begin() as connection:
            await connection.execute(insert(RecordRow), values)


class TestSQLAlchemySourceWithoutVersions(TestSQLAlchemySource):
    versioned = False
