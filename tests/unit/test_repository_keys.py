"""One rule for keys that no row can have, in all calls of a repository, of the whole set and on demand."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import pytest

from imperfect_dollop import FunctionSource, Repository
from imperfect_dollop.errors import EntityNotFoundError, InvalidEntityError


@dataclasses.dataclass(frozen=True)
class Numbered:
    id: int | None
    text: str = ""


@dataclasses.dataclass(frozen=True)
class Named:
    id: str
    text: str = ""


Call = Callable[[Repository[Any, Any], Any], Awaitable[Any]]


async def now(value: Any) -> Any:
    return value


READS: dict[str, tuple[Call, Any]] = {
    "get": (lambda rows, key: rows.get(key), None),
    "get, not stale": (lambda rows, key: rows.get(key, max_staleness=0.0), None),
    "get_many": (lambda rows, key: rows.get_many([key]), {}),
    "peek": (lambda rows, key: now(rows.peek(key)), None),
    "in": (lambda rows, key: now(key in rows), False),
    "invalidate": (lambda rows, key: rows.invalidate(key), None),
}

WRITES: dict[str, Call] = {
    "update": lambda rows, key: rows.update(rows.entity(key, "b")),
    "delete": lambda rows, key: rows.delete(key),
}


class Shelf:
    """A source that counts what it is asked, and knows the good key alone."""

    def __init__(self, row: Any) -> None:
        self.row = row
        self.asked: list[Any] = []

    async def load(self, key: Any) -> Any:
        self.asked.append(key)
        await asyncio.sleep(0)
        return self.row if key == self.row.id else None

    async def load_all(self) -> list[Any]:
        return [self.row]

    async def store(self, entity: Any) -> Any:
        self.asked.append(entity.id)
        return entity

    async def delete(self, key: Any) -> None:
        self.asked.append(key)


@pytest.fixture(params=[True, False], ids=["whole set", "on demand"])
async def opened(
    request: pytest.FixtureRequest,
) -> AsyncIterator[Callable[[Any], Awaitable[tuple[Repository[Any, Any], Shelf]]]]:
    closing: list[Repository[Any, Any]] = []

    async def open_with(row: Any) -> tuple[Repository[Any, Any], Shelf]:
        shelf = Shelf(row)
        source: Any = FunctionSource(
            load=shelf.load,
            load_all=shelf.load_all,
            create=shelf.store,
            update=shelf.store,
            delete=shelf.delete,
        )
        rows: Repository[Any, Any] = Repository(type(row), source=source, preload=request.param)
        await rows.__aenter__()
        closing.append(rows)
        assert await rows.get(row.id) == row
        shelf.asked.clear()
        return rows, shelf

    yield open_with
    for rows in closing:
        await rows.__aexit__(None, None, None)


IMPOSSIBLE = [
    (Numbered(1), 2**70),
    (Numbered(1), -(2**70)),
    (Named("a"), "\ud83d"),
    (Named("a"), "x" * 10_000),
]

WRONG = [
    (Numbered(1), "1"),
    (Numbered(1), 1.5),
    (Numbered(1), None),
    (Numbered(1), (1,)),
    (Named("a"), 1),
    (Named("a"), b"a"),
    (Named("a"), None),
    (Named("a"), 2**70),
]


@pytest.mark.parametrize("call", READS)
@pytest.mark.parametrize(("row", "key"), IMPOSSIBLE, ids=lambda value: repr(value)[:20])
async def test_read_of_a_key_that_no_row_can_have_finds_nothing_and_asks_nobody(
    opened: Any, row: Any, key: Any, call: str
) -> None:
    rows, shelf = await opened(row)
    read, nothing = READS[call]
    assert await read(rows, key) == nothing
    assert shelf.asked == []
    assert rows.state == "ready"


@pytest.mark.parametrize("call", WRITES)
@pytest.mark.parametrize(("row", "key"), IMPOSSIBLE, ids=lambda value: repr(value)[:20])
async def test_write_of_a_key_that_no_row_can_have_finds_no_row_and_asks_nobody(
    opened: Any, row: Any, key: Any, call: str
) -> None:
    rows, shelf = await opened(row)
    with pytest.raises(EntityNotFoundError):
        await WRITES[call](rows, key)
    with pytest.raises(InvalidEntityError):
        await rows.create(rows.entity(key))
    assert shelf.asked == []
    assert rows.state == "ready"


@pytest.mark.parametrize("call", [*READS, *WRITES])
@pytest.mark.parametrize(("row", "key"), WRONG, ids=lambda value: repr(value)[:20])
async def test_call_with_a_key_of_another_type_is_refused_and_asks_nobody(
    opened: Any, row: Any, key: Any, call: str
) -> None:
    rows, shelf = await opened(row)
    function = WRITES[call] if call in WRITES else READS[call][0]
    with pytest.raises(InvalidEntityError):
        await function(rows, key)
    assert shelf.asked == []
    assert rows.state == "ready"
