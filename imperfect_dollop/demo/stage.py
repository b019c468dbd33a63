"""What the steps play with."""

from __future__ import annotations

import asyncio
import dataclasses
import random
import time
from collections.abc import Callable
from typing import Final

from .cluster import Cluster
from .database import Database, Student
from .member import Member
from .options import Options
from .report import Step

__all__ = ["Stage"]

PAUSE: Final = 0.02
"""Seconds between two looks at all members."""


@dataclasses.dataclass(slots=True)
class Stage:
    """Nodes and table, and how the rows should be by now."""

    options: Options
    database: Database
    cluster: Cluster
    chance: random.Random
    expected: dict[int, Student]
    """By what was written, and what the writes returned."""
    witness: Member | None = None
    """Who has found out that the source is away; it is to live to see its return."""

    def any_member(self) -> Member:
        """One of those that are there, by chance."""
        return self.chance.choice(self.cluster.members)

    def any_students(self, count: int) -> list[Student]:
        """Some of those that should be there, by chance."""
        return [self.expected[key] for key in self.chance.sample(sorted(self.expected), count)]

    def expect(self, key: int, row: Student | None) -> None:
        """A write has returned: from now on this is how the row should be."""
        if row is None:
            del self.expected[key]
        else:
            self.expected[key] = row

    async def until(self, condition: Callable[[], bool]) -> None:
        """Look at the members until their figures fulfil a condition, or patience is at its end."""
        deadline = time.perf_counter() + self.options.patience
        await self.cluster.look()
        while not condition() and time.perf_counter() < deadline:
            await asyncio.sleep(PAUSE)
            await self.cluster.look()

    async def check_reads(self, step: Step, *, since: int) -> None:
        """That the database was asked once for the whole table since there were that many reads."""
        reads = await self.cluster.whole_reads() - since
        step.check(f"reads of the whole table, counted at the database: {reads}", reads == 1)

    async def check_members(self, step: Step) -> None:
        """That each node knows of all others, and of no more than there are."""
        members = self.cluster.members

        def seeing() -> int:
            return sum(member.figures.members == len(members) for member in members)

        await self.until(lambda: seeing() == len(members))
        step.check(
            f"{seeing()} of {len(members)} nodes see {len(members)} nodes on the broker",
            seeing() == len(members),
        )
