"""One table for one test, on each kind of database in turn."""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from sqlalchemy import URL, Column, MetaData, Table, text
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

__all__ = ["KINDS", "engine_of", "run", "table_of", "url_of"]

KINDS: Final = ("sqlite", "postgresql", "mariadb")


def url_of(kind: str, request: pytest.FixtureRequest) -> str:
    """The URL of a database of this kind."""
    if kind == "sqlite":
        folder: Path = request.getfixturevalue("tmp_path")
        return f"sqlite+aiosqlite:///{folder}/rows.db"
    url: str = request.getfixturevalue({"postgresql": "postgres_url"}.get(kind, "mariadb_url"))
    return url


@asynccontextmanager
async def table_of(
    engine: AsyncEngine, *columns: Column[Any], **options: Any
) -> AsyncIterator[Table]:
    """A table of these columns, under a name that no other test has."""
    table = Table(f"dollop_{uuid.uuid4().hex[:12]}", MetaData(), *columns, **options)
    async with engine.begin() as connection:
        await connection.run_sync(table.metadata.create_all)
    try:
        yield table
    finally:
        async with engine.begin() as connection:
            await connection.run_sync(table.metadata.drop_all)


async def run(engine: AsyncEngine, *statements: str) -> None:
    """These statements, in a transaction of their own."""
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


@asynccontextmanager
async def engine_of(url: str | URL, **options: Any) -> AsyncIterator[AsyncEngine]:
    """An engine that is disposed of at the end."""
    engine = create_async_engine(url, **options)
    try:
        yield engine
    finally:
        await engine.dispose()
