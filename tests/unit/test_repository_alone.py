"""A repository that holds the whole set and is used alone, with no node."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator

import pytest

from imperfect_dollop import (
    ClosedError,
    ConfigurationError,
    EntityNotFoundError,
    FunctionSource,
    InvalidEntityError,
    NotReadyError,
    Repository,
    SourceUnavailableError,
    TooStaleError,
)
from imperfect_dollop.doubts import REREAD_BATCH
from imperfect_dollop.replica import disputes as disputes_module
from imperfect_dollop.replica.stamp import ABSENT

from .school import SchoolSource, Student, eventually, no_complaints, repository, soon, students

ADA = Student(1, "Ada", version=1)
BOB = Student(2, "Bob", "Rome", version=1)


async def test_it_holds_every_row_on_entering() -> None:
    source = SchoolSource(*students(2_500))
    async with repository(source) as repo:
        assert len(repo) == 2_500
        assert await repo.get(2_500) == source.rows[2_500]
        assert source.calls == {"load_all": 1}


async def test_reads() -> None:
    async with repository(SchoolSource(ADA, BOB)) as repo:
        assert await repo.get(1) == ADA
        assert await repo.get(3) is None
        assert await repo.get_many([2, 3, 1, 2]) == {2: BOB, 1: ADA}
        assert await repo.get_many([]) == {}
        assert list(await repo.get_all()) == [ADA, BOB]
        assert repo.peek(1) == repo[1] == ADA
        assert repo.peek(3) is None
        assert 1 in repo
        assert 3 not in repo
        assert len(repo) == 2
        assert list(repo.keys()) == [1, 2]
        assert list(repo.values()) == [ADA, BOB]
        assert dict(repo.items()) == {1: ADA, 2: BOB}
        with pytest.raises(EntityNotFoundError, match="Student has no row with the key 3"):
            repo[3]


async def test_an_empty_set_is_ready_and_true() -> None:
    async with repository(SchoolSource()) as repo:
        assert repo.state == "ready"
        assert len(repo) == 0
        assert repo
        assert await repo.get(1) is None
        assert list(await repo.get_all()) == []


async def test_reads_hand_out_the_stored_object() -> None:
    async with repository(SchoolSource(ADA)) as repo:
        assert await repo.get(1) is repo.peek(1) is repo[1] is next(iter(repo.values()))


async def test_views_are_live_and_read_only() -> None:
    async with repository(SchoolSource(ADA)) as repo:
        keys, values, items = repo.keys(), repo.values(), repo.items()
        await repo.create(Student(2, "Bob"))
        assert list(keys) == [1, 2]
        assert [one.name for one in values] == ["Ada", "Bob"]
        assert len(items) == 2
        assert not hasattr(keys, "clear")


async def test_hits_and_misses_are_counted() -> None:
    async with repository(SchoolSource(ADA)) as repo:
        await repo.get(1)
        await repo.get(1)
        await repo.get(2)
        await repo.get_many([1, 2, 3])
        assert (repo.stats.hits, repo.stats.misses) == (3, 3)
        assert repo.stats.full_loads == 1


async def test_a_read_before_the_load_has_ended_waits() -> None:
    source = SchoolSource(ADA)
    gate = source.hold("load_all")
    repo = repository(source)
    entering = asyncio.create_task(repo.__aenter__())
    await eventually(lambda: gate.entered)
    assert repo.state == "loading"
    waiting = [
        asyncio.create_task(repo.get(1)),
        asyncio.create_task(repo.get(2)),
        asyncio.create_task(repo.get_all()),
        asyncio.create_task(repo.get_many([1, 2])),
    ]
    for call in (
        lambda: repo.peek(1),
        lambda: repo[1],
        lambda: 1 in repo,
        lambda: len(repo),
        repo.keys,
        repo.values,
        repo.items,
    ):
        with pytest.raises(NotReadyError, match="await get"):
            call()
    assert not any(task.done() for task in waiting)
    gate.open()
    assert await soon(asyncio.gather(*waiting)) == [ADA, None, [ADA], {1: ADA}]
    await soon(entering)
    assert source.calls["load_all"] == 1
    await repo.__aexit__(None, None, None)


async def test_the_source_is_away_at_the_start() -> None:
    source = SchoolSource(ADA)
    source.failure = OSError("no route to host")
    async with repository(source) as repo:
        assert repo.state == "cold"
        with pytest.raises(NotReadyError, match=r"no route to host.*tried again") as raised:
            await repo.get(1)
        assert isinstance(raised.value.__cause__, SourceUnavailableError)
        assert isinstance(raised.value.__cause__.__cause__, OSError)
        with pytest.raises(NotReadyError):
            await repo.get(99)
        with pytest.raises(NotReadyError):
            len(repo)
        source.failure = None
        await eventually(lambda: repo.state == "ready")
        assert await repo.get(1) == ADA
        assert await repo.get(99) is None


async def test_a_fallback_fills_it_when_the_source_is_away() -> None:
    source = SchoolSource(BOB)
    source.failure = OSError("away")
    asked: list[object] = []

    async def fallback(repo: Repository[int, Student]) -> AsyncIterator[Student]:
        asked.append(repo)
        yield ADA

    async with repository(source, bootstrap=("source", fallback)) as repo:
        assert asked == [repo]
        assert dict(repo.items()) == {1: ADA}


async def test_a_fallback_is_not_asked_when_the_source_answers() -> None:
    async def fallback(repo: Repository[int, Student]) -> AsyncIterator[Student]:
        raise AssertionError
        yield ADA

    async with repository(SchoolSource(BOB), bootstrap=("sibling", "source", fallback)) as repo:
        assert dict(repo.items()) == {2: BOB}


async def test_refresh_takes_over_every_difference() -> None:
    source = SchoolSource(ADA, BOB)
    async with repository(source) as repo:
        eve = Student(3, "Eve", version=1)
        del source.rows[1]
        source.put(eve, dataclasses.replace(BOB, name="Bert", version=2))
        await repo.refresh()
        assert dict(repo.items()) == source.rows
        assert source.calls["load_all"] == 2


async def test_a_refresh_that_fails_tells_its_caller_and_changes_nothing() -> None:
    source = SchoolSource(ADA, BOB)
    async with repository(source) as repo:
        source.failure = OSError("away")
        with pytest.raises(SourceUnavailableError, match=r"Student: the load of all rows failed"):
            await repo.refresh()
        assert dict(repo.items()) == {1: ADA, 2: BOB}
        assert repo.state == "degraded"
        assert repo.stats.load_failures == 1
        source.failure = None
        await repo.refresh()
        assert repo.state == "ready"


async def test_every_caller_of_refresh_gets_a_load_that_began_after_the_call() -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:
        gate = source.hold("load_all")
        first = asyncio.create_task(repo.refresh())
        await eventually(lambda: gate.entered)
        source.put(BOB)  # too late for the first
        second = [asyncio.create_task(repo.refresh()) for _ in range(5)]
        await asyncio.sleep(0)
        gate.open()
        await soon(asyncio.gather(first, *second))
        assert await repo.get(2) == BOB
        assert source.calls["load_all"] == 3


async def test_ttl_reloads_by_itself() -> None:
    source = SchoolSource(ADA)
    async with repository(source, ttl=0.05) as repo:
        source.put(BOB)
        await eventually(lambda: 2 in repo)
        before = source.calls["load_all"]
        await eventually(lambda: source.calls["load_all"] >= before + 2)
        assert repo.state == "ready"


async def test_a_write_during_a_load_survives_it() -> None:
    source = SchoolSource(ADA, BOB)
    async with repository(source) as repo:
        gate = source.hold("load_all")
        refreshing = asyncio.create_task(repo.refresh())
        await eventually(lambda: gate.entered)  # the load has read its rows already
        eve = await repo.create(Student(3, "Eve"))
        ada = await repo.update(dataclasses.replace(ADA, name="Ada L."))
        await repo.delete(2)
        gate.open()
        await soon(refreshing)
        assert dict(repo.items()) == {1: ada, 3: eve} == source.rows


async def test_invalidate_reads_the_rows_again() -> None:
    source = SchoolSource(ADA, BOB)
    async with repository(source) as repo:
        source.put(dataclasses.replace(ADA, name="Ada L.", version=2))
        del source.rows[2]
        await repo.invalidate(1, 2, 3)
        assert dict(repo.items()) == source.rows
        assert source.calls == {"load_all": 1, "load_many": 1}


async def test_invalidate_reads_however_many_rows_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(disputes_module, "MAX_DISPUTES", REREAD_BATCH)
    source = SchoolSource(*students(3 * REREAD_BATCH))
    async with repository(source) as repo:
        session = repo._session
        assert session is not None
        session.replica.window.limit = REREAD_BATCH
        for student in list(source.rows.values()):
            source.put(dataclasses.replace(student, name="changed", version=2))
        await soon(repo.invalidate(*source.rows))
        assert dict(repo.items()) == source.rows
        # What events contradict next may be shared with siblings as before.
        session.replica.disputes.add(1, ABSENT, 1)
        assert session.replica.disputes.shared(1)


async def test_invalidate_without_a_load_by_key_reads_everything() -> None:
    rows = [ADA]

    async def load_all() -> list[Student]:
        return list(rows)

    source: FunctionSource[int, Student] = FunctionSource(load_all=load_all)
    async with repository(source, read_only=True) as repo:
        rows.append(BOB)
        await repo.invalidate(2)
        assert await repo.get(2) == BOB


async def test_clear_loads_everything_anew_and_reads_wait() -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:
        source.put(BOB)
        gate = source.hold("load_all")
        await repo.clear()
        reading = asyncio.create_task(repo.get(2))
        await eventually(lambda: gate.entered)
        assert not reading.done()
        with pytest.raises(NotReadyError):
            repo.peek(1)
        gate.open()
        assert await soon(reading) == BOB


async def test_a_read_right_after_clear_waits() -> None:
    async with repository(SchoolSource(ADA)) as repo:
        await repo.clear()
        assert await soon(repo.get(1)) == ADA


async def test_clear_while_it_is_loading() -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:
        gate = source.hold("load_all")
        refreshing = asyncio.create_task(repo.refresh())
        await eventually(lambda: gate.entered)
        await repo.clear()
        source.put(BOB)
        gate.open()
        await asyncio.wait([refreshing], timeout=5)
        assert refreshing.done()
        refreshing.exception()
        await eventually(lambda: repo.state == "ready")
        assert dict(repo.items()) == {1: ADA, 2: BOB}


async def test_max_staleness_reads_an_older_row_again() -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:
        assert await repo.get(1, max_staleness=60) == ADA
        assert source.calls == {"load_all": 1}
        newer = dataclasses.replace(ADA, name="Ada L.", version=2)
        source.put(newer)
        assert await repo.get(1, max_staleness=0) == newer
        assert source.calls == {"load_all": 1, "load": 1}
        source.failure = OSError("away")
        with pytest.raises(TooStaleError, match="key 1 may be older than 0 s"):
            await repo.get(1, max_staleness=0)
        assert await repo.get(1) == newer


async def test_copies() -> None:
    @dataclasses.dataclass
    class Club:
        id: int
        members: list[str]

    async def load_all() -> list[Club]:
        return [Club(1, ["Ada"])]

    source: FunctionSource[int, Club] = FunctionSource(load_all=load_all)
    async with Repository(Club, source=source, read_only=True, copy=True) as clubs:
        for club in (
            await clubs.get(1),
            clubs.peek(1),
            clubs[1],
            (await clubs.get_many([1]))[1],
            (await clubs.get_all())[0],
            next(iter(clubs.values())),
            dict(clubs.items())[1],
        ):
            assert club is not None
            club.members.append("Mallory")
        assert clubs[1].members == ["Ada"]


async def test_state_and_figures_through_a_life() -> None:
    source = SchoolSource(ADA)
    repo = repository(source)
    assert repo.state == "closed"
    assert repo.info().entities == 0
    async with repo:
        assert repo.state == "ready"
        info = repo.info()
        assert info.entities == 1
        assert info.last_source_read is not None
        assert info.source_alive_since is not None
        assert info.data_age is not None
        assert 0 <= info.data_age < 5
        assert info.stale_since is None
        await repo.get(1)
    assert repo.state == "closed"
    assert repo.stats.hits == 1  # what it came to
    assert "closed" in repr(repo)


async def test_the_figures_are_copies() -> None:
    async with repository(SchoolSource(ADA)) as repo:
        repo.stats.hits = 1_000
        assert repo.stats.hits == 0


async def test_a_closed_repository_refuses_everything() -> None:
    repo = repository(SchoolSource(ADA))

    async def everything() -> None:
        for call in (
            lambda: repo.get(1),
            lambda: repo.get_many([1]),
            repo.get_all,
            lambda: repo.create(ADA),
            lambda: repo.update(ADA),
            lambda: repo.delete(1),
            repo.refresh,
            lambda: repo.invalidate(1),
            repo.clear,
        ):
            with pytest.raises(ClosedError, match="async with"):
                await call()
        for look in (lambda: repo.peek(1), lambda: repo[1], lambda: 1 in repo, repo.keys):
            with pytest.raises(ClosedError, match="async with"):
                look()

    await everything()
    async with repo:
        pass
    await everything()


async def test_keys_that_cannot_be_keys() -> None:
    key: int = []  # type: ignore[assignment]
    async with repository(SchoolSource(ADA)) as repo:
        for call in (
            lambda: repo.get(key),
            lambda: repo.get_many([key]),
            lambda: repo.delete(key),
            lambda: repo.invalidate(key),
            lambda: repo.get(key, max_staleness=1),
        ):
            with pytest.raises(InvalidEntityError, match=r"\[\].* not hashable"):
                await call()
        for look in (lambda: repo.peek(key), lambda: repo[key], lambda: key in repo):
            with pytest.raises(InvalidEntityError, match="not hashable"):
                look()


async def test_a_repository_is_opened_once() -> None:
    async with repository(SchoolSource(ADA)) as repo:
        with pytest.raises(ConfigurationError, match="open already"):
            await repo.__aenter__()
        assert await repo.get(1) == ADA


async def test_composite_keys_and_key_functions() -> None:
    @dataclasses.dataclass(frozen=True)
    class Seat:
        row: str
        number: int

    async def load_all() -> list[Seat]:
        return [Seat("a", 1), Seat("a", 2)]

    source: FunctionSource[tuple[str, int], Seat] = FunctionSource(load_all=load_all)
    async with Repository(Seat, source=source, key=("row", "number"), read_only=True) as seats:
        assert await seats.get(("a", 2)) == Seat("a", 2)
    by_function = Repository(
        Seat, source=source, key=lambda seat: (seat.row, seat.number), read_only=True
    )
    async with by_function as seats:
        assert await seats.get(("a", 1)) == Seat("a", 1)


async def test_failed_loads_leave_no_unretrieved_exceptions() -> None:
    source = SchoolSource(ADA)
    with no_complaints():
        async with repository(source) as repo:
            source.failure = OSError("away")
            refreshing = [asyncio.create_task(repo.refresh()) for _ in range(3)]
            await asyncio.wait(refreshing)
            assert all(task.exception() is not None for task in refreshing)
