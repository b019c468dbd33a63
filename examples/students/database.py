"""The database: an engine that suits it."""

from __future__ import annotations

from typing import Any, Final

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

__all__ = ["new_engine"]

BUSY_SECONDS: Final = 30
"""How long a writer waits for another one's transaction: SQLite has one writer at a time."""


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
