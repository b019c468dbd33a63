"""Two versions of an entity's class in one cluster, over real brokers and databases."""

from __future__ import annotations

import dataclasses
import logging
import random
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import Any, Final

import anyio
import pytest

from imperfect_dollop import ConflictError

from .versions import (
    HEARTBEAT,
    AnyRow,
    NewRow,
    OldRow,
    Process,
    School,
    eventually,
    school_of_a_test,
    total,
)

ROWS: Final = 600

KEYS: Final = 60

PAUSE: Final = 0.02
"""Seconds between two writes of a node during a deploy."""

REFRESH: Final = 2.0
"""Seconds of `ttl` where a refresh is to be seen."""


@pytest.fixture(params=["redis-postgres", "rabbitmq-postgres", "redis-mariadb"])
async def school(request: pytest.FixtureRequest) -> AsyncIterator[School]:
    broker, database = request.param.split("-")
    urls = [request.getfixturevalue(f"{kind}_url") for kind in (broker, database)]
    async with school_of_a_test(*urls) as school:
        await school.fill(ROWS)
        yield school


async def mixed(school: School, **settings: Any) -> tuple[list[Process], list[Process]]:
    """Two old nodes, then two new ones."""
    for number in range(2):
        await school.start(f"old {number}", OldRow, **settings)
    for number in range(2):
        await school.start(f"new {number}", NewRow, **settings)
    await school.agree()
    return school.of(OldRow), school.of(NewRow)


def seen_by(processes: list[Process], key: int, row: object) -> Callable[[], bool]:
    return lambda: all(process.rows.peek(key) == row for process in processes)


async def shown(processes: list[Process], key: int, row: object) -> None:
    await eventually(
        seen_by(processes, key, row),
        lambda: (row, {process.name: process.rows.peek(key) for process in processes}),
    )


async def test_each_shows_the_other_s_writes_in_its_own_way(school: School) -> None:
    old, new = await mixed(school)
    # An old node's.
    await old[0].rows.create(OldRow(900, "Ada", 2, "tower"))
    await shown(old, 900, OldRow(900, "Ada", 2, "tower"))
    await shown(new, 900, NewRow(900, "Ada", "C", "Paris"))
    # A new one's update leaves the column that it does not know, and the other way round.
    await new[0].rows.update(NewRow(900, "Eve", "D", "Oslo"))
    await shown(new, 900, NewRow(900, "Eve", "D", "Oslo", 1))
    await shown(old, 900, OldRow(900, "Eve", 3, "tower", 1))
    await old[1].rows.update(OldRow(900, "Bob", 4, "cellar", 1))
    await shown(old, 900, OldRow(900, "Bob", 4, "cellar", 2))
    await shown(new, 900, NewRow(900, "Bob", "E", "Oslo", 2))
    assert await school.columns(900) == {
        "id": 900,
        "name": "Bob",
        "grade": 4,
        "house": "cellar",
        "city": "Oslo",
        "version": 2,
    }
    # Deletes, and keys that come again.
    await new[1].rows.delete(900)
    await shown([*old, *new], 900, None)
    await new[1].rows.create(NewRow(900, "Again", city="Rome"))
    await shown(old, 900, OldRow(900, "Again"))
    await shown(new, 900, NewRow(900, "Again", city="Rome"))
    await old[1].rows.delete(900)
    await shown([*old, *new], 900, None)
    # A change that the other version has no field for is none to it.
    await new[0].rows.update(NewRow(1, "seed:1", city="Bonn"))
    await shown(old, 1, OldRow(1, "seed:1", version=1))
    await school.agree()
    assert total(school.processes, "gaps") == 0
    assert (total(old, "full_loads"), total(new, "full_loads")) == (1, 1)
    for process in school.processes:
        stats = process.rows.stats
        assert stats.rejected == stats.rejections["schema"] > 0, process.name
        assert stats.doubts >= stats.rejections["schema"]
        assert process.node.stats.crashes == 0


async def test_of_two_versions_that_race_one_loses(school: School) -> None:
    old, new = await mixed(school)
    won = lost = 0
    for key in range(20):
        results: list[bool] = []

        async def write(process: Process, row: Any, results: list[bool] = results) -> None:
            try:
                await process.rows.update(row)
            except ConflictError:
                results.append(False)
            else:
                results.append(True)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(write, old[0], OldRow(key, "old", 1))
            tasks.start_soon(write, new[0], NewRow(key, "new", "B"))
        won, lost = won + results.count(True), lost + results.count(False)
    assert (won, lost) == (20, 20)
    await school.agree()


async def test_the_first_new_node_loads_and_the_second_takes_its_copy(
    school: School, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    old = [await school.start(f"old {number}", OldRow) for number in range(2)]
    first = await school.start("new 0", NewRow)
    second = await school.start("new 1", NewRow)
    await school.agree()
    assert (first.rows.stats.full_loads, first.rows.stats.snapshots) == (1, 0)
    assert (second.rows.stats.full_loads, second.rows.stats.snapshots) == (0, 1)
    assert total(old, "snapshots_given") == 1
    # Nothing is told of digests, and nobody is warned of again, however many heartbeats pass.
    await anyio.sleep(10 * HEARTBEAT)
    warnings = [record.getMessage() for record in caplog.records if "another shape" in record.msg]
    assert len(warnings) == len(set(warnings)) == 8  # each of four, of two others
    assert total(school.processes, "gaps") == total(school.processes, "doubts") == 0
    assert len({process.digest for process in school.processes}) == 2
    assert total(school.processes, "full_loads") == 2


async def test_a_refresh_is_each_version_s_own(school: School) -> None:
    old, new = await mixed(school, ttl=REFRESH)
    statement = school.table.update().where(school.table.c.id == 7).values(name="by SQL")
    await school.execute(statement)
    await shown(old, 7, OldRow(7, "by SQL"))
    await shown(new, 7, NewRow(7, "by SQL"))
    loads = [total(kind, "full_loads") for kind in (old, new)]
    await anyio.sleep(1.5 * REFRESH)
    for kind, before in zip((old, new), loads, strict=True):
        assert total(kind, "full_loads") > before  # neither is confirmed by the other
        assert all(process.rows.info().stale_since is None for process in kind)
    assert total(school.processes, "gaps") == 0
    await school.agree()


async def test_clear_and_invalidate_reach_the_other_version(school: School) -> None:
    old, new = await mixed(school)
    await school.execute(
        school.table.update().where(school.table.c.id == 3).values(name="by SQL", city="Bern")
    )
    await old[0].rows.invalidate(3)
    await shown(old, 3, OldRow(3, "by SQL"))
    await shown(new, 3, NewRow(3, "by SQL", city="Bern"))
    await school.execute(school.table.update().values(city="Rome"))
    await old[0].rows.clear()
    await eventually(
        lambda: all(
            process.rows.state == "ready" and process.rows[9].city == "Rome" for process in new
        ),
        lambda: [process.rows.state for process in new],
    )
    await school.agree()
    # One load for each version, and no more: the others of it take its copy.
    assert [total(kind, "full_loads") for kind in (old, new)] == [2, 2]
    assert total(school.processes, "gaps") == 0


async def test_one_version_holds_everything_and_the_other_what_it_was_asked_for(
    school: School,
) -> None:
    old = [await school.start(f"old {number}", OldRow, preload=False) for number in range(2)]
    new = [await school.start(f"new {number}", NewRow) for number in range(2)]
    same = await school.start(
        "new 2", NewRow, preload=False
    )  # of one fingerprint with those that hold all
    for process in (*old, same):
        assert await process.rows.get(5) is not None
        assert await process.rows.get(900) is None  # remembered as absent
    await old[0].rows.update(OldRow(5, "Ada", 1))
    await shown(old, 5, OldRow(5, "Ada", 1, version=1))
    await shown([*new, same], 5, NewRow(5, "Ada", "B", version=1))
    await new[0].rows.create(NewRow(900, "Eve"))
    await shown(new, 900, NewRow(900, "Eve"))
    for process in old:

        async def found(process: Process = process) -> bool:
            return await process.rows.get(900) == OldRow(900, "Eve")

        with anyio.fail_after(5):  # the miss is forgotten long before `missing_ttl` is over
            while not await found():
                await anyio.sleep(0.01)
    await same.rows.delete(5)
    await shown([*old, *new, same], 5, None)
    # Nobody holds what it was not asked for.
    assert [sorted(process.rows.keys()) for process in (*old, same)] == [[900], [900], []]
    assert [len(process.rows) for process in new] == [ROWS, ROWS]
    assert total(new, "full_loads") == 1
    assert total(school.processes, "gaps") == 0


async def test_what_a_write_of_the_other_version_costs(
    school: School, record_property: Callable[[str, object], None]
) -> None:
    old, new = await mixed(school)

    @asynccontextmanager
    async def counted(what: str) -> AsyncIterator[None]:
        for process in school.processes:
            process.source.asked.clear()
        yield
        await school.agree()
        said = {each.name: each.source.asked for each in school.processes}
        told = [f"{name} {len(asked)} reads, {sum(asked)} rows" for name, asked in said.items()]
        record_property(what, "; ".join(told))

    async with counted("20 writes of old 0, one by one"):
        for key in range(20):
            await old[0].rows.update(dataclasses.replace(old[0].rows[key], grade=1))
            await shown(new, key, NewRow(key, f"seed:{key}", "B", version=1))
    async with (
        counted(f"{ROWS - 20} writes of old 0, all at once"),
        anyio.create_task_group() as tasks,
    ):
        for key in range(20, ROWS):
            row = dataclasses.replace(old[0].rows[key], grade=1)
            tasks.start_soon(old[0].rows.update, row)
    async with counted(f"{ROWS} differences that a refresh of old 0 has found"):
        await school.execute(school.table.update().values(name="by SQL"))
        await old[0].rows.refresh()
        await eventually(
            lambda: all(
                process.rows[key].title == "by SQL" for process in new for key in range(ROWS)
            ),
            lambda: "rows of the other version",
        )
    # What comes together is read together, 200 rows at a time.
    for process in new:
        assert len(process.source.asked) <= 4 * ROWS / 200, process.source.asked
    assert total(school.processes, "gaps") == 0


@pytest.mark.parametrize("broker", ["redis", "rabbitmq"])
async def test_a_rolling_deploy_under_writes(
    broker: str,
    request: pytest.FixtureRequest,
    postgres_url: str,
    record_property: Callable[[str, object], None],
) -> None:
    chance = random.Random(broker)
    async with school_of_a_test(request.getfixturevalue(f"{broker}_url"), postgres_url) as school:
        await school.fill(KEYS)
        await school.note_all()
        everybody: list[Process] = []

        async with anyio.create_task_group() as tasks:

            async def begin(name: str, kind: type[AnyRow]) -> None:
                process = await school.start(name, kind)
                everybody.append(process)
                tasks.start_soon(process.look)
                tasks.start_soon(write_on, process)

            async def write_on(process: Process) -> None:
                while process in school.processes:
                    await process.write(chance)
                    await anyio.sleep(PAUSE)

            async def written() -> None:
                """Everybody who is there writes some more."""
                goals = [(each, each.written + 15) for each in school.processes]
                await eventually(
                    lambda: all(each.written >= goal for each, goal in goals),
                    lambda: [(each.name, each.written) for each, _ in goals],
                )

            for number in range(4):
                await begin(f"old {number}", OldRow)
            await written()
            for number in range(4):
                await school.stop(school.of(OldRow)[0])
                await begin(f"new {number}", NewRow)
                await written()
            remaining, school.processes = school.processes, []  # nobody writes any more
            await anyio.sleep(10 * PAUSE)
            school.processes = remaining
            await school.agree()
            tasks.cancel_scope.cancel()

        history = await school.history()
        for process in everybody:
            assert process.failed == []
            assert process.watch.records
            assert history.faults(process.name, process.watch.records) == []
            assert process.node.stats.crashes == 0
            # A donor that has yet to read a row again does not vouch for its copy, so whoever joins then loads once.
            assert process.rows.stats.full_loads <= 1
            assert process.rows.stats.gaps <= 1
        assert {process.kind for process in school.processes} == {NewRow}
        stats = {process.name: process.rows.stats for process in everybody}
        for figure in ("writes", "full_loads", "snapshots", "gaps", "doubts", "rejected", "loads"):
            record_property(figure, {name: getattr(each, figure) for name, each in stats.items()})
        # The first old node had gone when the first new one came, and the last new one has met no old one.
        for name in stats.keys() - {"old 0", "new 3"}:
            assert stats[name].rejections["schema"] > 0, name
        assert all(each.rejected == each.rejections["schema"] for each in stats.values())
