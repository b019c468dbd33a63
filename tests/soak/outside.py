"""Somebody who changes the tables by SQL, and tells no node."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ..integration.rows import Rows
from .workload import FILLER, bad_keys

PAUSE: Final = 2.0
"""Seconds between two changes."""

SPOILS: Final = 0.4
"""Of the changes, those that spoil a row, or mend one that is spoiled."""

SPOILED: Final = -1
"""A version that no entity may have, so that no node can hold the row."""


class Outside:
    """Updates with and without a new version, deletes and inserts, of any row; and rows that no node can hold."""

    def __init__(self, tables: list[Rows], keys: int, chance: random.Random) -> None:
        self._tables = tables
        self._keys = keys
        self._chance = chance
        self.changes = 0
        self.spoiled = 0
        self.refused = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        for number in range(10**9):
            await asyncio.sleep(PAUSE * self._chance.uniform(0.5, 1.5))
            if not self.spoiled or self._chance.random() < SPOILS:
                await self._spoil(f"sql:{number}")
            else:
                await self._change(f"sql:{number}")

    async def mend(self) -> None:
        """No row is spoiled any more."""
        for rows in self._tables:
            for key in bad_keys(self._keys):
                await self._set_version(rows, key, f"mended:{key}", 1_000_000, only=SPOILED)

    async def _spoil(self, mark: str) -> None:
        """Spoil a row, or mend it where it is spoiled."""
        rows, key = self._chance.choice(self._tables), self._chance.choice(bad_keys(self._keys))
        now = (await rows.now()).get(key)
        if now is not None and now.version != SPOILED:
            await self._set_version(rows, key, mark, SPOILED)
            self.spoiled += 1
        else:
            await self._set_version(rows, key, mark, 1)
        self.changes += 1

    async def _set_version(
        self, rows: Rows, key: int, mark: str, version: int, *, only: int | None = None
    ) -> None:
        statement = f"UPDATE {rows.name} SET mark = :mark, version = :version WHERE id = :id"
        values: dict[str, object] = {"mark": mark, "version": version, "id": key}
        if only is not None:
            statement += " AND version = :only"
            values["only"] = only
        async with rows.engine.begin() as connection:
            await connection.execute(text(statement), values)

    async def _change(self, mark: str) -> None:
        rows = self._chance.choice(self._tables)
        key = self._chance.randrange(self._keys)
        bump = self._chance.random() < 0.75  # somebody who changes a row may forget the version
        statement = self._chance.choice(
            [
                f"UPDATE {rows.name} SET mark = :mark, version = version + :bump WHERE id = :id",
                f"DELETE FROM {rows.name} WHERE id = :id",
                f"INSERT INTO {rows.name} (id, mark, filler, version) VALUES (:id, :mark, :filler, 0)",
            ]
        )
        names = ("mark", "bump", "id", "filler")
        values = dict(zip(names, (mark, int(bump), key, FILLER), strict=True))
        used = {name: value for name, value in values.items() if f":{name}" in statement}
        try:
            async with rows.engine.begin() as connection:
                await connection.execute(text(statement), used)
            self.changes += 1
        except DBAPIError:  # it is there already, or others were quicker
            self.refused += 1
