"""The step with the many writes: on random nodes, a few at a time, each timed until all nodes show it."""

from __future__ import annotations

import dataclasses
import statistics
import time
from collections.abc import Iterator, Sequence
from typing import Final

import anyio

from .. import DollopError
from .database import Student
from .member import Kind, Member
from .report import Step
from .stage import Stage

__all__ = ["Write", "write_much"]

WRITERS: Final = 4
"""Writes under way at a time. SQLite commits one at a time, and more of them only wait in line."""


@dataclasses.dataclass(slots=True)
class Write:
    """A write to come, under way or done."""

    kind: Kind
    member: Member
    student: Student
    """What to write; of a delete, what is there before."""
    stored: Student | None = None
    returned: float = 0.0
    error: DollopError | None = None
    spread: float | None = None
    """Seconds from its return until all nodes were seen to show it. They look for it once the demo has told
    them what for, so this is an upper bound; with processes, two messages over a pipe are in it."""

    async def commit(self) -> None:
        """Do it. Raises what the repository raises."""
        written = await self.member.write(self.kind, self.student)
        self.stored, self.returned = written.stored, written.at


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
        f"{len(writes):,} writes, {WRITERS} at a time, {rate:,.0f} a second; {len(errors)} have failed{first}",
        not errors,
    )
    differing = await stage.cluster.differing(stage.expected, stage.options.patience)
    missed = set[int]().union(*differing.values())
    kinds: tuple[Kind, ...] = ("create", "update", "delete")
    for kind in kinds:
        _check_arrived(stage, step, kind, [write for write in writes if write.kind == kind], missed)


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
        key, cluster = write.student.id, stage.cluster
        stage.expect(key, write.stored)
        moments = await cluster.shown(key, write.stored, patience)
        if len(moments) == len(cluster.members):
            write.spread = max(moments) - write.returned
        else:
            patience = 0.0  # once is enough: there may be thousands to come


def _check_arrived(
    stage: Stage, step: Step, kind: Kind, writes: Sequence[Write], missed: set[int]
) -> None:
    arrived = [write for write in writes if write.error is None and write.student.id not in missed]
    spreads = sorted(write.spread * 1000 for write in writes if write.spread is not None)
    times = ""
    if spreads:
        late = spreads[int(len(spreads) * 0.99)]
        times = f", within {statistics.median(spreads):.1f} ms (99 %: {late:.1f} ms)"
    step.check(
        f"{len(arrived):,} of {len(writes):,} {kind}s on all {len(stage.cluster.members)} nodes{times}",
        len(arrived) == len(writes),
    )
