"""What a library like this one is for, at the size of a small company: ten systems over one table of 10,000 rows.

Each test shows in the summary at the end of the run how long its writes took to all ten; no test judges that.
"""

from __future__ import annotations

import os
import random
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import replace
from pathlib import Path
from typing import Final, TypeAlias

import pytest

from imperfect_dollop.demo.database import Database, Student
from imperfect_dollop.errors import ConflictError, SourceUnavailableError

from .fleet import ROWS, SYSTEMS, Fleet, System, fleet_of_a_test, together

LONE_ROUNDS: Final = 30

WRITES: Final = 100

RIVAL_ROWS: Final = 10

DELETES: Final = 5_000

Record: TypeAlias = Callable[[str, object], None]


@pytest.fixture(params=["redis", "rabbitmq"])
def broker(request: pytest.FixtureRequest) -> str:
    url: str = request.getfixturevalue(f"{request.param}_url")
    return url


@pytest.fixture
def chance(request: pytest.FixtureRequest) -> random.Random:
    """Another one in each run. What a failed test shows of it, ``DOLLOP_SEED`` takes."""
    seed = int(os.environ.get("DOLLOP_SEED") or secrets.randbits(32))
    request.node.add_report_section("call", "chance", f"DOLLOP_SEED={seed}")
    return random.Random(seed)


@pytest.fixture
async def fleet(
    broker: str, mariadb_url: str, chance: random.Random, tmp_path: Path
) -> AsyncIterator[Fleet]:
    database = Database(mariadb_url, str(tmp_path))
    async with fleet_of_a_test(broker, database, chance) as fleet:
        yield fleet


async def test_what_one_system_writes_another_one_sees(
    fleet: Fleet, record_property: Record
) -> None:
    for key in range(ROWS, ROWS + LONE_ROUNDS):
        writer, reader = fleet.chance.sample(fleet.systems, 2)
        new = Student(key, "New", "Oslo")
        await fleet.write(key, writer.students.create(new))
        await fleet.seen()
        assert await reader.students.get(key) == new
        await fleet.write(key, writer.students.update(replace(new, city="Rome")))
        await fleet.seen()
        assert await reader.students.get(key) == Student(key, "New", "Rome", version=1)
        await fleet.write(key, writer.students.delete(key))
        await fleet.seen()
        assert await reader.students.get(key) is None
    await fleet.judge()
    fleet.report(record_property)


async def test_a_hundred_inserts_at_once(fleet: Fleet, record_property: Record) -> None:
    new = [Student(key, "New", "Oslo") for key in range(ROWS, ROWS + WRITES)]
    await together(fleet.write(each.id, fleet.any().students.create(each)) for each in new)
    await fleet.seen()
    assert {len(system.students) for system in fleet.systems} == {ROWS + WRITES}
    await fleet.judge()
    fleet.report(record_property)


async def test_a_hundred_updates_at_once(fleet: Fleet, record_property: Record) -> None:
    changed = [replace(each, city="Rome") for each in fleet.some(WRITES)]
    await together(fleet.write(each.id, fleet.any().students.update(each)) for each in changed)
    await fleet.seen()
    assert fleet.written == {each.id: replace(each, version=1) for each in changed}
    await fleet.judge()
    fleet.report(record_property)


async def test_rivals_update_the_same_rows_at_once(fleet: Fleet) -> None:
    """Each system updates each of the rows, as it was in the beginning: one is first, and the others are told."""
    told: Counter[int] = Counter()

    async def update(system: System, student: Student) -> None:
        try:
            await fleet.write(
                student.id, system.students.update(replace(student, city=system.name))
            )
        except ConflictError:
            told[student.id] += 1

    rows = fleet.some(RIVAL_ROWS)
    updates = [(system, row) for system in fleet.systems for row in rows]
    fleet.chance.shuffle(updates)
    await together(update(*each) for each in updates)
    assert told == {row.id: SYSTEMS - 1 for row in rows}
    assert len(fleet.written) == RIVAL_ROWS
    conflicts = RIVAL_ROWS * (SYSTEMS - 1)
    assert fleet.counted("writes", "conflicts") == {"writes": RIVAL_ROWS, "conflicts": conflicts}
    assert {row.version for row in fleet.written.values() if row is not None} == {1}
    await fleet.seen()
    await fleet.judge()


async def test_half_of_the_rows_are_deleted_at_once(fleet: Fleet, record_property: Record) -> None:
    gone = [each.id for each in fleet.some(DELETES)]
    await together(fleet.write(key, fleet.any().students.delete(key)) for key in gone)
    await fleet.seen()
    assert {len(system.students) for system in fleet.systems} == {ROWS - DELETES}
    await fleet.judge()
    fleet.report(record_property)


async def test_half_of_the_systems_are_restarted_while_the_table_is_away(fleet: Fleet) -> None:
    await fleet.database.hide()
    leaving = fleet.chance.sample(fleet.systems, SYSTEMS // 2)
    await fleet.stop(leaving)
    for system in await fleet.start([system.name for system in leaving]):
        stats = system.students.stats
        assert stats.snapshots == 1
        assert stats.full_loads == stats.loads == stats.load_failures == 0
    for system in fleet.systems:
        assert len(system.students) == ROWS
        found = [await system.students.get(key) for key in fleet.first]
        assert found == list(fleet.first.values())
        assert await system.students.get(ROWS) is None
    for system, student in zip(fleet.systems, fleet.some(SYSTEMS), strict=True):
        with pytest.raises(SourceUnavailableError):
            await system.students.update(replace(student, city="Nowhere"))
    assert [system.differs(fleet.first) for system in fleet.systems] == [[]] * SYSTEMS
    await fleet.database.bring_back()
    for system, student in zip(fleet.systems, fleet.some(SYSTEMS), strict=True):
        changed = replace(student, city="Rome")
        await fleet.write(student.id, system.students.update(changed))
    await fleet.seen()
    await fleet.judge()
