"""One bad row harms itself: what cannot be held is named, everything else is served and replicated as usual."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import pytest

from imperfect_dollop import FunctionSource, InvalidEntityError, Node, Repository
from imperfect_dollop.errors import NotReadyError, TooStaleError
from imperfect_dollop.source import UnreadableRow
from imperfect_dollop.sourcing import MAX_FAULTS

namespaces = itertools.count()


@dataclass(frozen=True)
class Row:
    id: int
    text: Any = ""
    version: int = 1


@dataclass(frozen=True)
class DerivedRow(Row):
    more: str = ""


BAD = "half \ud83d"


class Rows:
    """A table; what is read and written."""

    def __init__(self, *rows: Any) -> None:
        self.rows: list[Any] = list(rows)
        self.reads: list[Any] = []

    def find(self, key: int) -> list[Any]:
        return [row for row in self.rows if getattr(row, "id", getattr(row, "key", None)) == key]

    async def load_all(self) -> AsyncIterator[list[Any]]:
        self.reads.append("all")
        yield list(self.rows)

    async def load_many(self, keys: Sequence[int]) -> list[Any]:
        self.reads += keys
        return [row for key in keys for row in self.find(key)]

    async def put(self, row: Row) -> Row:
        self.rows = [one for one in self.rows if one not in self.find(row.id)]
        self.rows.append(row)
        return row

    async def delete(self, key: int) -> None:
        self.rows = [row for row in self.rows if row not in self.find(key)]

    def repository(self, **options: Any) -> Repository[int, Row]:
        source: FunctionSource[int, Row] = FunctionSource(
            load_many=self.load_many,
            load_all=self.load_all,
            create=self.put,
            update=self.put,
            delete=self.delete,
        )
        return Repository(Row, source=source, **options)


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(20):
        while not holds():
            await asyncio.sleep(0.005)


def namespace() -> str:
    return f"quarantine-{next(namespaces)}"


GOOD = [Row(number, "fine") for number in range(1, 4)]

BAD_ROWS = [
    (Row(7, BAD), 7, "Row.text"),
    (Row(7, object()), 7, "Row.text"),
    (Row(7, "x" * (5 << 20)), 7, "limit"),
    (Row(7, version=-1), 7, "a version is an int"),
    (DerivedRow(7), 7, "a DerivedRow where a Row is due"),
    (UnreadableRow(7, "column 'status': 'LOST' is no Status"), 7, "LOST"),
    (UnreadableRow("seven", "of another type"), None, "of another type"),
    (UnreadableRow(None, "the key is NULL"), None, "the key is NULL"),
    (Row(None, "keyless"), None, "no key"),  # type: ignore[arg-type]
    (Row([], "unhashable"), None, "not hashable"),  # type: ignore[arg-type]
    (Row("7", "other type"), None, "cannot be a key"),  # type: ignore[arg-type]
]


@pytest.mark.parametrize(("bad", "key", "reason"), BAD_ROWS)
async def test_load_with_one_bad_row_serves_the_others(bad: Any, key: Any, reason: str) -> None:
    rows = Rows(*GOOD, bad)
    async with rows.repository(version="version") as repository:
        assert await repository.get_all() == GOOD
        assert list(repository.quarantined) == [key]
        assert reason in repository.quarantined[key]
        assert repository.stats.quarantined == 1
        assert list(repository.causes) == ["rows"]
        assert repository.info().source_alive_since is not None
        assert repository.stats.load_failures == 0
        if key is not None:
            for read in (lambda: repository.get(7), lambda: repository.get_many([1, 7])):
                with pytest.raises(InvalidEntityError, match="key 7 is quarantined"):
                    await read()
            with pytest.raises(InvalidEntityError, match="key 7 is quarantined"):
                repository.peek(7)
            with pytest.raises(InvalidEntityError, match="key 7 is quarantined"):
                repository[7]
            assert 7 not in repository
        rows.rows = list(GOOD)
        await repository.refresh()
        assert repository.quarantined == {}
        assert repository.state == "ready"
        assert await repository.get(7) is None


async def test_load_with_a_key_twice_quarantines_the_key_only() -> None:
    rows = Rows(*GOOD, Row(7, "one"), Row(7, "other"), Row(7, "third"))
    async with rows.repository() as repository:
        assert await repository.get_all() == GOOD
        assert repository.quarantined == {7: "the source returned two rows with this key"}


async def test_load_beyond_the_rows_that_are_verified_each_still_finds_what_has_no_bytes() -> None:
    many = [Row(number, "fine") for number in range(6_000)]
    many[5_501] = Row(5_501, BAD)
    async with Rows(*many).repository() as repository:
        assert len(repository) == 5_999
        assert list(repository.quarantined) == [5_501]


async def test_get_of_bad_row_on_demand_raises_and_heals() -> None:
    rows = Rows(Row(1, BAD), Row(2))
    async with rows.repository(preload=False, missing_ttl=0.05) as repository:
        with pytest.raises(InvalidEntityError, match=r"Row\.text"):
            await repository.get(1)
        with pytest.raises(InvalidEntityError, match="quarantined"):
            await repository.get_many([1, 2])
        assert await repository.get(2) == Row(2)
        assert list(repository.quarantined) == [1]
        rows.rows[0] = Row(1, "good")
        async with asyncio.timeout(20):
            while True:
                try:
                    assert await repository.get(1) == Row(1, "good")
                    break
                except InvalidEntityError:
                    await asyncio.sleep(0.01)
        assert repository.quarantined == {}


async def test_get_many_with_a_row_without_a_readable_key_never_says_absent() -> None:
    rows = Rows(Row(1), Row(2))

    async def load_many(keys: Sequence[int]) -> list[Any]:
        rows.reads.append(tuple(keys))
        return [
            UnreadableRow(None, "half a row") if key == 2 else Row(key) for key in keys if key < 9
        ]

    source: FunctionSource[int, Row] = FunctionSource(load_many=load_many)
    async with Repository(Row, source=source, preload=False, read_only=True) as repository:
        with pytest.raises(InvalidEntityError, match=r"key 2 is quarantined: .*half a row"):
            await repository.get_many([1, 2, 9])
        assert rows.reads == [(1, 2, 9), (2,), (9,)]
        assert await repository.get_many([1, 9]) == {1: Row(1)}


async def test_row_that_turns_bad_on_demand_is_served_as_it_was() -> None:
    rows = Rows(Row(1, "good"))
    async with rows.repository(preload=False, ttl=0.01, jitter=0.0, missing_ttl=0.01) as repository:
        assert await repository.get(1) == Row(1, "good")
        rows.rows[0] = Row(1, BAD)
        await repository.refresh()
        for _ in range(3):
            await asyncio.sleep(0.02)
            assert await repository.get(1) == Row(1, "good")
        assert list(repository.quarantined) == [1]
        rows.rows[0] = Row(1, "better")
        await asyncio.sleep(0.02)
        assert await repository.get(1) == Row(1, "better")
        assert repository.quarantined == {}


async def test_row_that_turns_bad_is_served_as_it_was_and_named() -> None:
    rows = Rows(*GOOD)
    async with rows.repository() as repository:
        rows.rows[0] = Row(1, BAD)
        await repository.refresh()
        assert list(repository.quarantined) == [1]
        assert await repository.get(1) == repository.peek(1) == repository[1] == GOOD[0]
        assert await repository.get_many([1, 2]) == {1: GOOD[0], 2: GOOD[1]}
        with pytest.raises((InvalidEntityError, TooStaleError)):
            await repository.get(1, max_staleness=1e-9)
        await repository.refresh()
        assert await repository.get(1) == GOOD[0]
        rows.rows[0] = Row(1, "good again")
        await repository.refresh()
        assert await repository.get(1) == Row(1, "good again")
        assert repository.quarantined == {}
        rows.rows[0] = Row(1, BAD)
        await repository.refresh()
        del rows.rows[0]
        await repository.refresh()
        assert await repository.get(1) is None


@pytest.mark.parametrize("heals", ["create", "update", "delete", "invalidate"])
async def test_write_of_a_quarantined_key_ends_the_quarantine(heals: str) -> None:
    rows = Rows(*GOOD, Row(7, BAD))
    async with rows.repository() as repository:
        assert 7 in repository.quarantined
        if heals == "delete":
            await repository.delete(7)
            assert await repository.get(7) is None
        elif heals == "invalidate":
            rows.rows[-1] = Row(7, "good")
            await repository.invalidate(7)
            assert await repository.get(7) == Row(7, "good")
        else:
            await getattr(repository, heals)(Row(7, "good"))
            assert await repository.get(7) == Row(7, "good")
        assert repository.quarantined == {}
        assert repository.state == "ready"


async def test_load_of_mostly_bad_rows_fails_as_a_whole() -> None:
    rows = Rows(*GOOD, *(Row(number, BAD) for number in range(10, 30)))
    async with rows.repository() as repository:
        with pytest.raises(
            NotReadyError, match=r"20 rows that cannot be held, and 3 others.*key 10"
        ):
            await repository.get(1)


async def test_load_of_more_bad_rows_than_the_bound_fails_as_a_whole() -> None:
    good = [Row(number) for number in range(2 * MAX_FAULTS)]
    bad = [UnreadableRow(key, "bad") for key in range(3 * MAX_FAULTS, 4 * MAX_FAULTS + 1)]
    rows = Rows(*good)
    async with rows.repository(hard_timeout=None) as repository:
        rows.rows += bad
        with pytest.raises(InvalidEntityError, match="10,001 rows that cannot be held"):
            await repository.refresh()
        assert len(repository) == len(good)


async def test_bad_rows_are_said_once_and_healed_rows_too(caplog: pytest.LogCaptureFixture) -> None:
    rows = Rows(*GOOD, *(Row(number, "fine") for number in range(10, 40)))
    rows.rows += [Row(100 + number, BAD) for number in range(12)]
    with caplog.at_level(logging.INFO, "imperfect_dollop"):
        async with rows.repository() as repository:
            await repository.refresh()
            warnings = [one.getMessage() for one in caplog.records if one.levelno >= 30]
            assert len([text for text in warnings if "key 10" in text]) == 10
            assert [text for text in warnings if "2 more rows are quarantined" in text]
            assert len(warnings) == 11
            rows.rows = list(GOOD)
            await repository.refresh()
            healed = [one.getMessage() for one in caplog.records if "no longer" in one.getMessage()]
            assert len(healed) == 1


# -- siblings ----------------------------------------------------------------------------------------


async def test_joiner_of_a_node_with_bad_rows_copies_the_others_and_never_says_absent() -> None:
    rows = Rows(*GOOD, Row(7, BAD))
    donor, joiner = rows.repository(), rows.repository()
    where = namespace()
    async with Node("memory://", donor, namespace=where):
        rows.reads.clear()
        async with Node("memory://", joiner, namespace=where) as node:
            await node.wait_ready()
            with pytest.raises(InvalidEntityError, match="quarantined"):
                await joiner.get(7)
            await until(lambda: "Row.text" in joiner.quarantined.get(7, ""))
            assert "all" not in rows.reads
            assert dict(joiner.items()) == dict(donor.items())
            await until(lambda: node.stats.agreed == {"Row": True})


async def test_siblings_learn_of_a_row_that_turned_bad_and_of_its_healing() -> None:
    rows = Rows(*GOOD)
    one, two = rows.repository(), rows.repository()
    where = namespace()
    async with (
        Node("memory://", one, namespace=where, heartbeat=0.1),
        Node("memory://", two, namespace=where, heartbeat=0.1) as node,
    ):
        await node.wait_ready()
        rows.rows[0] = Row(1, BAD)
        await one.refresh()
        await until(lambda: list(two.quarantined) == [1])
        await until(lambda: node.stats.agreed == {"Row": True})
        rows.reads.clear()
        await asyncio.gather(*(node.flush() for _ in range(3)))
        await one.update(replace(GOOD[1], text="changed"))
        await until(lambda: two.peek(2) == replace(GOOD[1], text="changed"))
        assert rows.reads == []
        await two.update(Row(1, "good"))
        await until(lambda: one.peek(1) == Row(1, "good"))
        assert one.quarantined == two.quarantined == {}
        await until(lambda: node.stats.agreed == {"Row": True})
        assert one.stats.load_failures == two.stats.load_failures == 0
