"""What the steps play with."""

from __future__ import annotations

import dataclasses
import random
from collections.abc import Callable

from .cluster import Cluster, Member, until
from .database import Database, Student
from .options import Options
from .report import Step

__all__ = ["Stage"]


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

    async def until(self, condition: Callable[[], bool]) -> bool:
        """Wait for a condition as long as the options say; whether it came about."""
        return await until(condition, self.options.patience)

    def check_reads(self, step: Step, *, since: int) -> None:
        """That the database was asked once for the whole table since there were that many reads."""
        reads = self.database.whole_reads.total() - since
        step.check(f"reads of the whole table, counted at the database: {reads}", reads == 1)
