"""Worker processes do what they are told, and whether they fail is noticed."""

from __future__ import annotations

import time
from typing import cast

import pytest
from sqlalchemy import text

from imperfect_dollop import Repository

from .history import Record, Saw, Shown
from .orders import Point
from .rows import Row, rows_of_a_test
from .watch import Watch
from .workers import Crew, WorkerError, WorkerGoneError

KEYS = 50


@pytest.fixture(params=["postgres", "mariadb"])
def database_url(request: pytest.FixtureRequest) -> str:
    return str(request.getfixturevalue(f"{request.param}_url"))


@pytest.fixture
def broker_url() -> str:
    return "memory://"


async def test_orders_and_their_answers(crew: Crew) -> None:
    await crew.rows.seed(10)
    (worker,) = await crew.start(1, keys=KEYS)
    assert (await worker.create(20)).version == 0
    assert (await worker.update(20)).version == 1
    await worker.delete(3)
    with pytest.raises(WorkerError) as caught:
        await worker.create(20)
    assert caught.value.kind == "EntityExistsError"
    await worker.ask("flush")
    await worker.ask("block", seconds=0.1)
    assert (await worker.stats())["writes"] == 3
    await crew.judge()
    await worker.leave()
    with pytest.raises(WorkerGoneError):
        await worker.status()


async def test_a_write_load_is_judged(crew: Crew) -> None:
    await crew.rows.seed(KEYS)
    (worker,) = await crew.start(1, keys=KEYS)
    worker.write()
    await crew.more_writes(50)
    await worker.stop_writing()
    await crew.judge()
    assert len(worker.records) > 100


async def test_a_row_that_was_changed_behind_its_back_is_noticed(crew: Crew) -> None:
    await crew.rows.seed(KEYS)
    await crew.start(1, keys=KEYS)
    async with crew.rows.engine.begin() as connection:
        await connection.execute(text(f"UPDATE {crew.rows.name} SET mark = 'else' WHERE id = 1"))
    with pytest.raises(AssertionError, match="n0: 1 rows differ"):
        await crew.judge(patience=0.1)


async def test_what_was_shown_is_held_against_the_history(crew: Crew) -> None:
    await crew.rows.seed(KEYS)
    (worker,) = await crew.start(1, keys=KEYS)
    await worker.update(1)
    await crew.judge()
    async with crew.rows.engine.begin() as connection:
        await connection.execute(text(f"DELETE FROM {crew.rows.name}_past WHERE mark = 'n0:1'"))
    with pytest.raises(AssertionError, match=r"n0, key 1 at .* was told of n0:1 v1"):
        await crew.judge()


async def test_killed_frozen_and_doomed(crew: Crew) -> None:
    await crew.rows.seed(KEYS)
    doomed, other = await crew.start(2, keys=KEYS, fatal=Point.COMMITTED, fatal_after=1)
    await doomed.update(1)
    with pytest.raises(WorkerGoneError):
        await doomed.update(2)
    await doomed.died()
    assert (await crew.rows.now())[2].mark == "n0:2"  # it was committed all the same
    other.freeze()
    with pytest.raises(TimeoutError):
        await other.ask("status", 0.2)
    other.thaw()
    await other.status()
    await other.kill()
    assert list(crew) == []
    with pytest.raises(AssertionError, match="no node is left"):
        await crew.judge()


async def test_a_history_is_kept_by_each_database(database_url: str) -> None:
    async with rows_of_a_test(database_url) as rows:
        await rows.seed(2)
        began = time.time()
        async with rows.engine.begin() as connection:
            await connection.execute(
                text(f"UPDATE {rows.name} SET mark = 'b', version = 1 WHERE id = 1")
            )
            await connection.execute(text(f"DELETE FROM {rows.name} WHERE id = 1"))
        async with rows.engine.connect() as connection:
            await connection.execute(text(f"DELETE FROM {rows.name}"))
            await connection.rollback()  # which never was
        history = await rows.history()
        assert history.commits == 4
        past = [Shown("seed:1", 0), Shown("b", 1), None]
        walk = [Record(Saw.READ, 1, row, time.time()) for row in past]
        assert history.faults("n", walk) == []
        too_early = [Record(Saw.READ, 1, Shown("b", 1), began - 1)]
        assert len(history.faults("n", too_early)) == 1
        assert len(history.faults("n", [Record(Saw.READ, 0, None, time.time())])) == 1
        assert await rows.now() == {0: Shown("seed:0", 0)}


async def test_a_node_that_does_not_show_what_it_has_written_is_seen_through() -> None:
    class Stuck:
        def peek(self, key: int) -> Row:
            return Row(key, "old")

    watch = Watch(cast("Repository[int, Row]", Stuck()), 1)
    watch.look(0)
    watch.look(0)  # says nothing new
    watch.note(Saw.WROTE, 0, Row(0, "new", version=1))
    watch.look(0)
    assert [record.saw for record in watch.take()] == [Saw.READ, Saw.WROTE, Saw.READ]
