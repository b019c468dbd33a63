"""The steps, one function each, in the order in which they are shown.

A check says what was seen, and whether that is as it should be; one that fails ends nothing. Conditions are
waited for, never slept for.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Awaitable, Callable, Sequence
from typing import Final, TypeAlias

from .. import BrokerUnavailableError, DollopError, SourceUnavailableError
from .database import Student
from .member import Figures, Member
from .report import Step
from .stage import Stage
from .writes import Write, write_much

__all__ = ["STEPS"]

Play: TypeAlias = Callable[[Stage, Step], Awaitable[None]]


async def start(stage: Stage, step: Step) -> None:
    """All nodes start at once; one of them reads the table and gives its copy to the others."""
    cluster, nodes = stage.cluster, stage.options.nodes
    await cluster.start(f"node-{number}" for number in range(1, nodes + 1))
    differing = await cluster.differing(stage.expected, stage.options.patience)
    holding = nodes - len(differing)
    step.check(
        f"{holding} of {nodes} nodes hold all {len(stage.expected):,} rows", holding == nodes
    )
    await stage.check_members(step)
    await stage.check_reads(step, since=0)
    failures = [member.figures.failure for member in cluster.members if member.figures.failure]
    if failures:  # without a broker there is nothing to show, and much to wait for
        raise BrokerUnavailableError(failures[0])


async def change_behind(stage: Stage, step: Step) -> None:
    """Rows are changed by SQL; one node refreshes, and all know."""
    cluster, reads = stage.cluster, await stage.cluster.whole_reads()
    victim, removed = stage.any_students(2)
    changed = dataclasses.replace(victim, city="Sydney", version=victim.version + 1)
    added = Student(max(stage.expected) + 1, "Hidden", "Sydney")
    await stage.database.change(changed=changed, added=added, removed=removed.id)
    for key, row in ((changed.id, changed), (added.id, added), (removed.id, None)):
        stage.expect(key, row)
    member = stage.any_member()
    await _refresh(step, member)
    differing = await cluster.differing(stage.expected, stage.options.patience)
    for what, key in (("changed", changed.id), ("added", added.id), ("removed", removed.id)):
        showing = sum(key not in differing.get(member.name, []) for member in cluster.members)
        step.check(
            f"row {key:,}, {what} by SQL: {showing} of {len(cluster.members)} nodes know after a"
            f" refresh on {member.name}",
            showing == len(cluster.members),
        )
    await stage.check_reads(step, since=reads)


async def _refresh(step: Step, member: Member) -> None:
    try:
        await member.refresh()
    except DollopError as error:
        step.check(f"a refresh on {member.name} has failed with {error!r}", False)


async def lose_source(stage: Stage, step: Step) -> None:
    """The table is renamed away: a write fails and leaves no trace, reads go on."""
    await stage.database.hide()
    stage.witness, (student,) = stage.any_member(), stage.any_students(1)
    try:
        await stage.witness.write("update", dataclasses.replace(student, city="Nowhere"))
        outcome, held = "has gone through", False
    except SourceUnavailableError:
        outcome, held = "has failed with SourceUnavailableError", True
    except DollopError as error:
        outcome, held = f"has failed with {error!r}", False
    step.check(f"the table is away; a write on {stage.witness.name} {outcome}", held)
    state = (await stage.witness.look()).state
    step.check(f"{stage.witness.name} now calls itself {state}", state == "degraded")
    await _check_answers(stage, step, stage.cluster.members)


async def _check_answers(stage: Stage, step: Step, members: Sequence[Member]) -> None:
    answers = [await member.answers(stage.expected) for member in members]
    right = sum(answer.right for answer in answers)
    each = sum(answer.seconds for answer in answers) / max(1, right)
    due = len(members) * len(stage.expected)
    step.check(
        f"{right:,} of {due:,} reads on {len(members)} nodes were answered right,"
        f" {each * 1e9:,.0f} ns each",
        right == due,
    )


async def start_cold(stage: Stage, step: Step) -> None:
    """Half of the nodes are thrown away; new ones get everything from those that are left."""
    cluster = stage.cluster
    others = [member for member in cluster.members if member is not stage.witness]
    gone = stage.chance.sample(others, len(cluster.members) // 2)
    names = sorted(member.name for member in gone)
    await cluster.crash(gone)
    new = await cluster.start(names)
    differing = await cluster.differing(stage.expected, stage.options.patience)
    holding = sum(name not in differing for name in names)
    how = "killed (SIGKILL)" if stage.options.apart else "thrown away"
    step.check(
        f"{', '.join(names)} {how} and started cold: {holding} of {len(new)} hold all"
        f" {len(stage.expected):,} rows",
        holding == len(new),
    )
    given = sum([_from_sibling(await member.look()) for member in new])
    step.check(
        f"{given} of {len(new)} have them from one snapshot of a sibling, nothing from the source",
        given == len(new),
    )
    await _check_answers(stage, step, new)
    await stage.check_members(step)  # who was killed has said no goodbye


def _from_sibling(figures: Figures) -> bool:
    # A copy that its donor could not vouch for is compared with the source, in vain while that is away.
    return figures.stats.snapshots == 1 and not figures.read_source


async def regain_source(stage: Stage, step: Step) -> None:
    """The table is back: all get ready without being told; a write and a refresh work."""
    members = stage.cluster.members
    await stage.database.bring_back()

    def ready() -> int:
        return sum(member.figures.state == "ready" for member in members)

    await stage.until(lambda: ready() == len(members))
    step.check(
        f"the table is back; {ready()} of {len(members)} nodes are ready", ready() == len(members)
    )
    await _check_write(stage, step)
    await _check_refresh(stage, step)


async def _check_write(stage: Stage, step: Step) -> None:
    cluster, member, (student,) = stage.cluster, stage.any_member(), stage.any_students(1)
    write = Write("update", member, dataclasses.replace(student, city="Tokyo"))
    try:
        await write.commit()
    except DollopError as error:
        step.check(f"a write on {member.name} has failed with {error!r}", False)
        return
    stage.expect(student.id, write.stored)
    showing = len(await cluster.shown(student.id, write.stored, stage.options.patience))
    step.check(
        f"a write on {member.name} is on {showing} of {len(cluster.members)} nodes",
        showing == len(cluster.members),
    )


async def _check_refresh(stage: Stage, step: Step) -> None:
    member, members = stage.any_member(), stage.cluster.members
    await stage.cluster.look()
    before = max(member.figures.last_source_read for member in members)

    def fresh() -> int:
        return sum(member.figures.last_source_read > before for member in members)

    await _refresh(step, member)
    await stage.until(lambda: fresh() == len(members))
    step.check(
        f"a refresh on {member.name} has made {fresh()} of {len(members)} nodes fresh",
        fresh() == len(members),
    )


async def compare(stage: Stage, step: Step) -> None:
    """All copies agree, with each other and with the table."""
    members = stage.cluster.members

    def digests() -> list[str]:
        return sorted({member.figures.digest for member in members})

    await stage.until(lambda: len(digests()) == 1)
    step.check(
        f"{len(members)} nodes, different digests: {len(digests())} ({', '.join(digests())})",
        len(digests()) == 1,
    )

    def agreed() -> int:
        return sum(member.figures.agreed for member in members)

    await stage.until(lambda: agreed() == len(members))
    step.check(
        f"nodes that have seen for themselves that all agree: {agreed()} of {len(members)}",
        agreed() == len(members),
    )
    table = await stage.database.rows()
    differing = await stage.cluster.differing(table)
    equal = len(members) - len(differing)
    off = "".join(
        f"; {name} differs in {len(keys):,}, the first is {keys[0]}"
        for name, keys in differing.items()
    )
    step.check(
        f"compared row by row with SQL's answer of {len(table):,}: {equal} of {len(members)} nodes"
        f" are equal{off}",
        equal == len(members),
    )
    keys = table.keys() | stage.expected.keys()
    wrong = sum(table.get(key) != stage.expected.get(key) for key in keys)
    step.check(f"rows of the table that are not as they were written: {wrong}", wrong == 0)


STEPS: Final[tuple[tuple[str, Play], ...]] = (
    ("All start at once", start),
    ("Writes on any node", write_much),
    ("Changes behind the library", change_behind),
    ("The source goes away", lose_source),
    ("Cold start without it", start_cold),
    ("The source comes back", regain_source),
    ("All copies compared", compare),
)
