"""A repository that loads by key, alone."""

from __future__ import annotations

import asyncio
import dataclasses

import pytest

from imperfect_dollop import (
    ConfigurationError,
    FunctionSource,
    LoadTimeoutError,
    SourceUnavailableError,
    TooStaleError,
)

from .clockwork import clockwork
from .school import (
    SchoolSource,
    Student,
    eventually,
    no_complaints,
    repository,
    settled,
    soon,
    students,
)

ADA = Student(1, "Ada", version=1)
BOB = Student(2, "Bob", "Rome", version=1)


async def test_a_row_is_loaded_once() -> None:
    source = SchoolSource(ADA, BOB)
    async with repository(source, preload=False) as repo:
        assert not source.calls
        assert len(repo) == 0
        assert repo.state == "ready"
        assert repo.peek(1) is None
        assert await repo.get(1) == ADA
        assert await repo.get(1) == ADA
        assert repo.peek(1) == repo[1] == ADA
        assert source.calls == {"load": 1}
        assert (repo.stats.hits, repo.stats.misses, repo.stats.loads) == (1, 1, 1)


async def test_a_thousand_callers_are_one_load() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False) as repo:
        gate = source.hold("load")
        callers = [asyncio.create_task(repo.get(1)) for _ in range(1_000)]
        await eventually(lambda: gate.entered)
        gate.open()
        assert set(await soon(asyncio.gather(*callers))) == {ADA}
        assert source.calls == {"load": 1}


async def test_different_keys_do_not_wait_for_each_other() -> None:
    source = SchoolSource(ADA, BOB)
    async with repository(source, preload=False) as repo:
        gate = source.hold("load")
        slow = asyncio.create_task(repo.get(1))
        await eventually(lambda: gate.entered)
        del source.gates["load"]
        assert await soon(repo.get(2)) == BOB
        assert not slow.done()
        gate.open()
        assert await soon(slow) == ADA


async def test_an_absent_key_is_remembered_for_a_while() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False, missing_ttl=60) as repo:
        assert await repo.get(7) is None
        assert await repo.get(7) is None
        assert source.calls == {"load": 1}
        assert 7 not in repo
    async with repository(source, preload=False, missing_ttl=0.01) as repo:
        assert await repo.get(7) is None
        source.put(Student(7, "Eve", version=1))
        found: list[Student | None] = []

        async def look() -> None:
            while not any(found):
                found.append(await repo.get(7))
                await asyncio.sleep(0.001)

        await soon(look())
        assert found[-1] == source.rows[7]


async def test_get_many_loads_what_is_not_held_in_one_call() -> None:
    source = SchoolSource(*students(10))
    async with repository(source, preload=False) as repo:
        await repo.get(1)
        assert await repo.get_many([1, 2, 3, 99, 2]) == {key: source.rows[key] for key in (1, 2, 3)}
        assert source.calls == {"load": 1, "load_many": 1}
        assert await repo.get_many([99, 3, 2, 1]) == {key: source.rows[key] for key in (3, 2, 1)}
        assert source.calls == {"load": 1, "load_many": 1}


async def test_get_many_joins_a_load_that_is_under_way() -> None:
    source = SchoolSource(ADA, BOB)
    async with repository(source, preload=False) as repo:
        gate = source.hold("load", "load_many")
        one = asyncio.create_task(repo.get(1))
        await eventually(lambda: gate.entered == 1)
        both = asyncio.create_task(repo.get_many([1, 2]))
        await eventually(lambda: gate.entered == 2)
        gate.open()
        assert await soon(both) == {1: ADA, 2: BOB}
        assert await soon(one) == ADA
        assert source.calls == {"load": 2}


async def test_a_get_many_that_fails_leaves_no_unretrieved_exceptions() -> None:
    source = SchoolSource(ADA)
    with no_complaints():
        async with repository(source, preload=False) as repo:
            source.failure = OSError("away")
            with pytest.raises(SourceUnavailableError, match="load of 3 keys failed"):
                await repo.get_many([1, 2, 3])
            source.failure = None
            assert await repo.get_many([1, 2, 3]) == {1: ADA}


async def test_every_waiter_gets_an_error_of_its_own() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False) as repo:
        gate = source.hold("load")
        source.failure = OSError("away")
        callers = [asyncio.create_task(repo.get(1)) for _ in range(3)]
        await eventually(lambda: gate.entered)
        gate.open()
        errors = await soon(asyncio.gather(*callers, return_exceptions=True))
        assert len({id(error) for error in errors}) == 3
        for error in errors:
            assert isinstance(error, SourceUnavailableError)
            assert isinstance(error.__cause__, OSError)
        assert source.calls == {"load": 1}


async def test_a_load_that_failed_is_made_again_at_once_when_asked_for() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False, retry_after=60) as repo:
        source.failure = OSError("away")
        with pytest.raises(SourceUnavailableError):
            await repo.get(1)
        assert repo.state == "degraded"
        source.failure = None
        assert await repo.get(1) == ADA
        assert repo.state == "ready"


async def test_stale_rows_are_served_and_refreshed_in_the_background() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False, ttl=0.01) as repo:
        await repo.get(1)
        newer = dataclasses.replace(ADA, name="Ada L.", version=2)
        source.put(newer)
        gate = source.hold("load")

        async def read_until_it_is_refreshed() -> None:
            while not gate.entered:
                assert await repo.get(1) == ADA
                await asyncio.sleep(0.001)

        await soon(read_until_it_is_refreshed())
        assert await repo.get(1) == ADA  # served while the load is held
        assert repo.stats.stale_served > 0
        gate.open()
        await eventually(lambda: repo.peek(1) == newer)


async def test_a_row_that_has_gone_from_the_source_goes_at_its_refresh() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False, ttl=0.01) as repo:
        await repo.get(1)
        del source.rows[1]

        async def until_gone() -> None:
            while await repo.get(1) is not None:
                await asyncio.sleep(0.001)

        await soon(until_gone())
        assert 1 not in repo


async def test_no_more_than_max_entries_are_held_and_the_least_used_goes() -> None:
    source = SchoolSource(*students(10))
    async with repository(source, preload=False, max_entries=3, ttl=60) as repo:
        for key in (1, 2, 3):
            await repo.get(key)
        await repo.get(1)  # now 2 is the least recently used
        await repo.get(4)
        assert sorted(repo.keys()) == [1, 3, 4]
        assert repo.stats.evictions == 1
        await repo.get_many(range(1, 11))
        assert len(repo) == 3
        await repo.create(Student(11, "Eve"))
        assert len(repo) == 3
        assert 11 in repo


@clockwork
async def test_a_row_in_constant_use_is_read_again_when_it_is_stale() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False, ttl=10, jitter=0) as repo:
        for _ in range(95):  # 9.5 seconds, in which it is read ten times a second
            assert await repo.get(1) == ADA
            await asyncio.sleep(0.1)
        source.put(newer := dataclasses.replace(ADA, name="Ada L.", version=2))
        assert (repo.stats.hits, repo.stats.misses, repo.stats.stale_served) == (94, 1, 0)
        await asyncio.sleep(0.6)
        assert await repo.get(1) == ADA
        assert repo.stats.stale_served == 1
        await asyncio.sleep(0)
        await eventually(lambda: repo.peek(1) == newer)
        assert source.calls == {"load": 2}


@clockwork
async def test_a_row_in_constant_use_stays() -> None:
    source = SchoolSource(*students(100))
    async with repository(source, preload=False, max_entries=3) as repo:
        for key in range(1, 101):
            await repo.get(key)
            for _ in range(
                10
            ):  # by the second: whoever is used in one is not looked at again in it
                assert await repo.get(1) is not None
                await asyncio.sleep(0.2)
        assert source.calls == {"load": 100}
        assert sorted(repo.keys()) == [1, 99, 100]


async def test_a_row_that_changes_while_it_is_in_use_is_shown() -> None:
    source = SchoolSource(ADA, BOB)
    async with repository(source, preload=False, ttl=60) as repo:
        for _ in range(3):
            assert await repo.get(1) == ADA
        ada = await repo.update(dataclasses.replace(ADA, name="Ada L."))
        for _ in range(3):
            assert await repo.get(1) == repo[1] == ada
        await repo.delete(1)
        assert await repo.get(1) is None
        assert repo.peek(1) is None
        assert await repo.get(2) == await repo.get(2) == BOB
        source.put(bob := dataclasses.replace(BOB, name="Robert", version=2))
        await repo.invalidate(2)
        assert await repo.get(2) == await repo.get(2) == bob
        source.put(bob := dataclasses.replace(bob, name="Rob", version=3))
        await repo.clear()
        assert await repo.get(2) == await repo.get(2) == bob
        source.put(bob := dataclasses.replace(bob, name="Bob", version=4))
        await repo.refresh()
        assert await repo.get(2) == bob


async def test_writes_are_held() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False) as repo:
        bob = await repo.create(Student(2, "Bob"))
        assert repo.peek(2) == bob
        ada = await repo.update(dataclasses.replace(ADA, name="Ada L."))
        assert repo.peek(1) == ada
        await repo.delete(1)
        assert await repo.get(1) is None
        assert not source.calls["load"]


async def test_a_created_row_is_found_though_its_absence_was_remembered() -> None:
    async with repository(SchoolSource(), preload=False, missing_ttl=60) as repo:
        assert await repo.get(1) is None
        ada = await repo.create(Student(1, "Ada"))
        assert await repo.get(1) == ada


async def test_a_load_that_a_write_overtakes_does_not_undo_it() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False) as repo:
        old = source.rows[1]
        gate = source.hold("load")
        reading = asyncio.create_task(repo.get(1))
        await eventually(lambda: gate.entered)
        ada = await repo.update(dataclasses.replace(old, name="Ada L."))
        gate.open()
        assert await soon(reading) == ada
        assert repo.peek(1) == ada


async def test_invalidate_and_clear_drop_rows() -> None:
    source = SchoolSource(ADA, BOB)
    async with repository(source, preload=False) as repo:
        await repo.get_many([1, 2])
        await repo.invalidate(1, 99)
        assert 1 not in repo
        assert 2 in repo
        source.put(dataclasses.replace(ADA, name="Ada L.", version=2))
        assert await repo.get(1) == source.rows[1]
        await repo.clear()
        assert len(repo) == 0
        assert await soon(repo.get(1)) == source.rows[1]


async def test_invalidate_during_a_load_has_the_last_word() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False) as repo:
        taken: list[Student | None] = []
        first = source.hold("load")

        async def load(key: int) -> Student | None:
            row = source.rows.get(key)  # read before the gate
            await first.pass_through()
            taken.append(row)
            return row

        source.load = load  # type: ignore[method-assign]
        reading = asyncio.create_task(repo.get(1))
        await eventually(lambda: first.entered)
        newer = dataclasses.replace(ADA, name="Ada L.", version=2)
        source.put(newer)
        await repo.invalidate(1)
        first.open()
        await soon(reading)
        assert await soon(repo.get(1)) == newer
        assert taken[0] == ADA


class ReadsFirst(SchoolSource):
    """What it answers is as old as the call."""

    async def load(self, key: int, /) -> Student | None:
        row = self.rows.get(key)
        await self._called("load")
        return row


async def test_what_is_being_read_while_something_is_missed_is_read_again() -> None:
    source = ReadsFirst(*students(3))
    async with repository(source, preload=False) as repo:
        gate = source.hold("load")
        reading = asyncio.create_task(repo.get(1))
        await eventually(lambda: gate.entered)
        source.put(dataclasses.replace(source.rows[1], name="newer", version=2))
        session = repo._session
        assert session is not None
        session.lost("nobody knows what: its event, say")
        gate.open()
        assert await soon(reading) == source.rows[1]
        assert await soon(repo.get(1)) == source.rows[1]


async def test_refresh_reads_what_is_held() -> None:
    source = SchoolSource(ADA, BOB)
    async with repository(source, preload=False) as repo:
        await repo.get(1)
        newer = dataclasses.replace(ADA, name="Ada L.", version=2)
        source.put(newer)
        await repo.refresh()
        assert repo.peek(1) == newer
        assert 2 not in repo


async def test_refresh_does_not_take_the_word_of_a_read_that_began_before() -> None:
    source = ReadsFirst(*students(3))
    async with repository(source, preload=False, ttl=60) as repo:
        await repo.get(1)
        gate = source.hold("load")
        reading = asyncio.create_task(repo.get(1, max_staleness=0))
        await eventually(lambda: gate.entered)
        source.put(newer := dataclasses.replace(source.rows[1], name="newer", version=2))
        del source.gates["load"]  # which holds the one that has entered, still
        await soon(repo.refresh())  # nor does it wait for that read
        assert repo.peek(1) == newer
        gate.open()
        assert await soon(reading) == newer
        assert repo.peek(1) == newer


async def test_max_staleness() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False) as repo:
        await repo.get(1)
        newer = dataclasses.replace(ADA, name="Ada L.", version=2)
        source.put(newer)
        assert await repo.get(1, max_staleness=60) == ADA
        assert await repo.get(1, max_staleness=0) == newer
        source.failure = OSError("away")
        with pytest.raises(TooStaleError, match="key 1 is older than 0 s"):
            await repo.get(1, max_staleness=0)
        with pytest.raises(SourceUnavailableError):
            await repo.get(2, max_staleness=0)  # nothing of it is held, stale or not


async def test_what_needs_the_whole_set_says_so() -> None:
    async with repository(SchoolSource(ADA), preload=False) as repo:
        with pytest.raises(ConfigurationError, match=r"get_all\(\) needs preload=True"):
            await repo.get_all()


async def test_a_hung_load_is_given_up_and_frees_its_key() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False, hard_timeout=0.05) as repo:
        gate = source.hold("load")
        callers = [asyncio.create_task(repo.get(1)) for _ in range(3)]
        errors = await soon(asyncio.gather(*callers, return_exceptions=True))
        assert [type(error) for error in errors] == [LoadTimeoutError] * 3
        assert "key 1" in str(errors[0])
        assert gate.entered == 1
        del source.gates["load"]
        assert await soon(repo.get(1)) == ADA


async def test_only_load_many_or_only_load() -> None:
    rows = {1: ADA, 2: BOB}

    async def load(key: int) -> Student | None:
        return rows.get(key)

    async def load_many(keys: object) -> dict[int, Student]:
        return {key: rows[key] for key in rows if key in keys}  # type: ignore[operator]

    sources: list[FunctionSource[int, Student]] = [
        FunctionSource(load=load),
        FunctionSource(load_many=load_many),
    ]
    for source in sources:
        async with repository(source, preload=False, read_only=True) as repo:
            assert await repo.get(1) == ADA
            assert await repo.get_many([1, 2, 3]) == rows
            assert await repo.get(3) is None


async def test_info_tells_the_age_of_the_last_read() -> None:
    async with repository(SchoolSource(ADA), preload=False) as repo:
        assert repo.info().source_alive_since is None
        await repo.get(1)
        await settled()
        info = repo.info()
        assert info.entities == 1
        assert info.source_alive_since is not None
        assert info.last_source_read is not None  # "on demand, the last read here"
