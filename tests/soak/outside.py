"""Somebody who changes the tables by SQL, and tells no node."""

from __future__ import annotations

import asyncio
import random
from typing import Final

from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from ..integration.rows import Rows
from .workload import FILLER

PAUSE: Final = 2.0
"""Seconds between two changes."""


class Outside:
    """Updates with and without a new version, deletes and inserts, of any row."""

    def __init__(self, tables: list[Rows], keys: int, chance: random.Random) -> None:
        self._tables = tables
        self._keys = keys
        self._chance = chance
        self.changes = 0
        self.refused = 0

    async def run(self) -> None:
        """Until it is cancelled."""
        for number in range(10**9):
            await asyncio.sleep(PAUSE * self._chance.uniform(0.5, 1.5))
            await self._change(f"sql:{number}")

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
