"""The step with the many writes: on random nodes, a few at a time, each timed until all nodes show it."""

from __future__ import annotations

import dataclasses
import functools
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Final, Literal, TypeAlias

import anyio

from .. import DollopError
from .cluster import Cluster, Member, until
from .database import Student
from .report import Step
from .stage import Stage

__all__ = ["Write", "write_much"]

WRITERS: Final = 4
"""Writes under way at a time. SQLite commits one at a time, and more of them only wait in line."""

Kind: TypeAlias = Literal["create", "update", "delete"]


@dataclasses.dataclass(slots=True)
class Write:
    """A write to come, under way or done."""

    kind: Kind
    member: Member
    student: Student
    """What to write; of a delete, what is there before."""
    stored: Student | None = None
    error: DollopError | None = None
    spread: float | None = None
    """Seconds from its return until all nodes showed it."""

    async def commit(self) -> None:
        """Do it. Raises what the repository raises."""
        students = self.member.students
        if self.kind == "create":
            self.stored = await students.create(self.student)
        elif self.kind == "update":
            self.stored = await students.update(self.student)
        else:
            await students.delete(self.student.id)


async def write_much(stage: Stage, step: Step) -> None:
    """Writes on random nodes, a few at a time; each is to reach all the others."""
    writes = _planned(stage)
    step.total = len(writes)
    began = time.perf_counter()
    left = iter(writes)
    async with anyio.create_task_group() as writers:
        for _ in range(WRITERS):
            writers.start_soon(_write_on, stage, step, left)
    rate = len(writes) / (time.perf_counter() - began)
    errors = [write.error for write in writes if write.error is not None]
    first = f", the first with {errors[0]!r}" if errors else ""
    step.check(
        f"{len(writes):,} writes, {rate:,.0f} a second; {len(errors)} have failed{first}",
        not errors,
    )
    await stage.until(lambda: stage.cluster.all_hold(stage.expected))
    kinds: tuple[Kind, ...] = ("create", "update", "delete")
    for kind in kinds:
        _check_arrived(stage.cluster, step, [write for write in writes if write.kind == kind], kind)


def _planned(stage: Stage) -> list[Write]:
    """All writes in a random order, each of another row, so that none has to wait for another."""
    options = stage.options
    chosen = stage.any_students(options.updates + options.deletes)
    updated, deleted = chosen[: options.updates], chosen[options.updates :]
    first = max(stage.expected) + 1
    todo: list[tuple[Kind, Student]] = [
        *(("create", Student(first + n, f"New {n}", "Berlin")) for n in range(options.creates)),
        *(("update", dataclasses.replace(student, city="Madrid")) for student in updated),
        *(("delete", student) for student in deleted),
    ]
    stage.chance.shuffle(todo)
    return [Write(kind, stage.any_member(), student) for kind, student in todo]


async def _write_on(stage: Stage, step: Step, left: Iterator[Write]) -> None:
    """Take from what is left to write until nothing is; one of several that do so."""
    patience = stage.options.patience
    for write in left:
        try:
            await write.commit()
        except DollopError as error:
            write.error = error
            continue
        finally:
            step.done += 1
        returned = time.perf_counter()
        key = write.student.id
        stage.expect(key, write.stored)
        if await until(functools.partial(stage.cluster.all_show, key, write.stored), patience):
            write.spread = time.perf_counter() - returned
        else:
            patience = 0.0  # once is enough: there may be thousands to come


def _check_arrived(cluster: Cluster, step: Step, writes: Sequence[Write], kind: Kind) -> None:
    arrived = [
        write
        for write in writes
        if write.error is None and cluster.all_show(write.student.id, write.stored)
    ]
    spreads = sorted(write.spread * 1000 for write in writes if write.spread is not None)
    times = ""
    if spreads:
        late = spreads[int(len(spreads) * 0.99)]
        times = f" {statistics.median(spreads):.1f} ms after return (99 %: {late:.1f} ms)"
    step.check(
        f"{len(arrived):,} of {len(writes):,} {kind}s on all {len(cluster.members)} nodes{times}",
        len(arrived) == len(writes),
    )
