"""The best database that there is, and a table in it that is this run's own, seen past the library."""

from __future__ import annotations

import asyncio
import getpass
import secrets
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy import inspect, select, text
from sqlalchemy.engine import URL, make_url
from sqlalchemy.ext.asyncio import AsyncConnection

from ..database import new_engine
from ..model import students_table
from ..settings import SettingsError, async_url
from ..table import create_table
from .processes import CONNECT_SECONDS, LOOPBACK, NotFoundError, opens

__all__ = ["KINDS", "Database", "StudentsTable", "database_of"]

STATEMENT_SECONDS: Final = 30.0
"""For a statement of our own; somebody may keep the table locked."""

PORTS: Final = {"postgresql": 5432, "mariadb": 3306}

KINDS: Final = (*PORTS, "sqlite")
"""Best first."""


class Database:
    """Where the table is to be."""

    def __init__(self, url: str, why: str) -> None:
        self.url = url
        """With an asynchronous driver, for the instances."""
        self.shown = f"{_masked(make_url(url))}, {why}"
        """What it is and why it was taken, without a password."""


async def database_of(given: str | None, folder: Path) -> Database:
    """The database that is asked for by its URL or kind, else the best one. Raises `NotFoundError`."""
    if given and "://" in given:
        try:
            database = Database(async_url(given), "as given")
        except SettingsError as error:
            raise NotFoundError(f"--database: {error}") from error
        refusal = await _refusal(database.url)
        if refusal is not None:
            raise NotFoundError(f"no database at {_masked(make_url(database.url))}: {refusal}")
        return database
    if given and given not in KINDS:
        raise NotFoundError(f"--database takes a URL or one of {', '.join(KINDS)}, not {given!r}")
    refusals: list[str] = []
    for kind in [given] if given else KINDS:
        if kind == "sqlite":
            why = "a file" + (", as " + ", ".join(refusals) if refusals else "")
            return Database(async_url(f"sqlite:///{folder / 'students.sqlite'}"), why)
        if not await opens(PORTS[kind]):
            refusals.append(f"no {kind} listens on port {PORTS[kind]}")
            continue
        for login in _logins(kind):
            url = async_url(f"{kind}://{login}")
            if await _refusal(url) is None:
                return Database(url, "which listens on its usual port")
        refusals.append(f"{kind} on port {PORTS[kind]} knows none of the usual logins")
    raise NotFoundError(f"no database: {', '.join(refusals)}; name one with --database URL")


def _logins(kind: str) -> list[str]:
    """Those of machines to develop on."""
    place = f"{LOOPBACK}:{PORTS[kind]}"
    if kind == "postgresql":
        users = dict.fromkeys(("postgres", "postgres:postgres", getpass.getuser()))
        return [f"{user}@{place}/postgres" for user in users]
    return [f"{user}@{place}/test" for user in ("root", "root:root")]


async def _refusal(url: str) -> str | None:
    """Why nobody can connect, or None if one can."""
    try:
        engine = new_engine(url)
    except ModuleNotFoundError as error:
        return f"its driver is missing: pip install {error.name}"
    try:
        async with asyncio.timeout(CONNECT_SECONDS), engine.connect():
            return None
    except Exception as error:  # drivers have errors of their own
        return repr(getattr(error, "orig", None) or error)
    finally:
        await engine.dispose()


def _masked(url: URL) -> str:
    if url.get_backend_name() == "sqlite":
        return "SQLite"
    return f"{url.get_backend_name()}://{url.host}:{url.port or PORTS.get(url.get_backend_name(), 3306)}/{url.database}"


class StudentsTable:
    """The table, with an engine that no instance has. Leaving it drops the table, wherever it is."""

    def __init__(self, database: Database) -> None:
        self.name = f"students_{secrets.token_hex(4)}"
        self._away = f"{self.name}_away"
        self._engine = new_engine(database.url)

    async def __aenter__(self) -> Self:
        await create_table(self._engine, self.name)
        return self

    async def __aexit__(self, *_: object) -> None:
        try:
            await self._transact(self._drop)
        finally:
            await self._engine.dispose()

    async def take_away(self) -> None:
        """Rename it: whatever is asked of it fails from now on."""
        await self._execute(f"ALTER TABLE {self.name} RENAME TO {self._away}")

    async def bring_back(self) -> None:
        """Undo `take_away`."""
        await self._execute(f"ALTER TABLE {self._away} RENAME TO {self.name}")

    async def rows(self) -> dict[int, dict[str, Any]]:
        """What is in it, by id."""
        async with asyncio.timeout(STATEMENT_SECONDS), self._engine.connect() as connection:
            rows = await connection.execute(select(students_table(self.name)))
            return {row.id: dict(row._mapping) for row in rows}

    async def _drop(self, connection: AsyncConnection) -> None:
        def drop(sync: Any) -> None:
            for name in (self.name, self._away):
                if inspect(sync).has_table(name):
                    students_table(name).drop(sync)

        await connection.run_sync(drop)

    async def _execute(self, statement: str) -> None:
        async def execute(connection: AsyncConnection) -> None:
            await connection.execute(text(statement))

        await self._transact(execute)

    async def _transact(self, work: Any) -> None:
        async with asyncio.timeout(STATEMENT_SECONDS), self._engine.begin() as connection:
            await work(connection)
