"""The demo from its first step to its last."""

from __future__ import annotations

import random
import tempfile
import time
from typing import Final

from .. import DollopError
from .cluster import Cluster
from .database import Database, Student
from .options import Options
from .report import Report, Step
from .stage import Stage
from .steps import STEPS
from .urls import masked

__all__ = ["Demo", "NotBegunError"]

FIRST_NAMES: Final = ("Ada", "Alan", "Barbara", "Edsger", "Frances", "Grace", "John", "Margaret")
CITIES: Final = ("Amsterdam", "Lisbon", "London", "Oslo", "Paris", "Prague", "Rome", "Vienna")


class NotBegunError(RuntimeError):
    """The broker or the database does not let the demo begin."""


class Demo:
    """One run of the demo. Whoever displays it looks at `report` and `cluster` while it runs."""

    def __init__(self, options: Options) -> None:
        self.options = options
        self.report: Report = Report([Step(title) for title, _ in STEPS])
        self.cluster: Cluster | None = None

    async def run(self) -> Report:
        """Go through all steps. An unexpected exception ends its step, and is in the report.

        Raises `NotBegunError` before the first one.
        """
        began = time.perf_counter()
        with tempfile.TemporaryDirectory(prefix="dollop-demo-") as directory:
            async with Database(self.options.database, directory) as database:
                async with Cluster(self.options, database) as self.cluster:
                    await self._play(database, self.cluster)
                self.report.counted = self.cluster.counted
        self.report.seconds = time.perf_counter() - began
        return self.report

    async def _play(self, database: Database, cluster: Cluster) -> None:
        chance = random.Random(self.options.seed)
        students = _students(self.options.rows, chance)
        try:
            await cluster.probe()
        except DollopError as error:
            raise NotBegunError(f"no node can connect: {error}") from error
        try:
            await database.fill(students.values())
        except Exception as error:  # drivers have errors of their own
            where = masked(self.options.database)
            raise NotBegunError(f"no table can be made in {where}: {error!r}") from error
        stage = Stage(self.options, database, cluster, chance, students)
        for step, (_, play) in zip(self.report.steps, STEPS, strict=True):
            step.begin()
            try:
                await play(stage, step)
            except Exception as error:
                step.end(_first(error))
                return
            step.end()


def _first(error: Exception) -> Exception:
    """Of errors in a group, the one that ended the others."""
    while isinstance(error, ExceptionGroup):
        error = error.exceptions[0]
    return error


def _students(rows: int, chance: random.Random) -> dict[int, Student]:
    return {
        number: Student(number, f"{chance.choice(FIRST_NAMES)} {number}", chance.choice(CITIES))
        for number in range(1, rows + 1)
    }
