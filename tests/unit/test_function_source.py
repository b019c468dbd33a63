"""FunctionSource: a source of whatever functions there are."""

from __future__ import annotations

import functools
from collections.abc import AsyncIterator, Awaitable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple
from unittest import mock

import pytest

from imperfect_dollop.errors import ConfigurationError, InvalidEntityError
from imperfect_dollop.source import CHUNK_ROWS, SOURCE_VERBS, FunctionSource, verbs

ROWS = {1: "one", 2: "two", 3: "three"}


async def load(key: int) -> str | None:
    return ROWS.get(key)


async def load_many(keys: Sequence[int]) -> list[str]:
    return [ROWS[key] for key in keys if key in ROWS]


async def load_mapping(keys: Sequence[int]) -> Mapping[int, str]:
    return {key: ROWS[key] for key in keys if key in ROWS}


async def write(entity: str) -> str:
    return entity.upper()


async def write_as_given(entity: str) -> None:
    pass


async def delete(key: int) -> None:
    pass


async def chunks(source: FunctionSource[Any, Any]) -> list[list[Any]]:
    assert source.load_all is not None
    return [list(chunk) async for chunk in source.load_all()]


# -- which verbs there are -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "has"),
    [
        ({"load": load}, {"load", "load_many"}),
        ({"load_many": load_many}, {"load", "load_many"}),
        ({"load_all": load_many}, {"load_all"}),
        ({"create": write}, {"create"}),
        ({"update": write, "delete": delete}, {"update", "delete"}),
        (
            {
                "load": load,
                "load_all": load_many,
                "create": write,
                "update": write,
                "delete": delete,
            },
            set(SOURCE_VERBS),
        ),
    ],
)
def test_a_source_has_the_verbs_of_its_functions(given: dict[str, Any], has: set[str]) -> None:
    source: FunctionSource[int, str] = FunctionSource(**given)
    assert verbs(source) == has
    assert repr(source) == f"FunctionSource({', '.join(sorted(has))})"


def test_a_source_of_no_function() -> None:
    with pytest.raises(ConfigurationError, match="can do nothing"):
        FunctionSource()


@pytest.mark.parametrize("verb", SOURCE_VERBS)
def test_a_verb_that_is_no_function(verb: str) -> None:
    given: dict[str, Any] = {verb: ROWS}
    with pytest.raises(ConfigurationError, match=rf"FunctionSource\({verb}=...\) takes an async"):
        FunctionSource(**given)


# -- load and load_many ----------------------------------------------------------------------------


async def test_many_by_one() -> None:
    source = FunctionSource(load=load)
    assert source.load_many is not None
    assert list(await source.load_many([3, 9, 1])) == ["three", "one"]


@pytest.mark.parametrize("function", [load_many, load_mapping])
async def test_one_by_many(function: Any) -> None:
    source: FunctionSource[int, str] = FunctionSource(load_many=function)
    assert source.load is not None
    assert source.load_many is not None
    assert await source.load(2) == "two"
    assert await source.load(9) is None
    assert list(await source.load_many([3, 9, 1])) == ["three", "one"]


async def test_a_load_of_its_own_goes_before_load_many() -> None:
    async def load_alone(key: int) -> str:
        return f"alone {key}"

    source = FunctionSource(load=load_alone, load_many=load_many)
    assert source.load is not None
    assert source.load_many is not None
    assert await source.load(1) == "alone 1"
    assert list(await source.load_many([1])) == ["one"]


async def test_several_rows_for_one_key() -> None:
    async def twice(keys: Sequence[int]) -> list[str]:
        return [ROWS[key] for key in keys] * 2

    source = FunctionSource(load_many=twice)
    assert source.load is not None
    with pytest.raises(InvalidEntityError, match=r"load_many\(\[1\]\) returned 2 rows"):
        await source.load(1)


@pytest.mark.parametrize(("result", "kind"), [(None, "NoneType"), ("one", "str"), (b"1", "bytes")])
async def test_a_loader_that_returns_no_rows(result: Any, kind: str) -> None:
    async def broken(*_: Any) -> Any:
        return result

    source: FunctionSource[int, Any] = FunctionSource(load_many=broken, load_all=broken)
    assert source.load_many is not None
    said = rf"broken\(\) returned {kind} where an iterable"
    with pytest.raises(InvalidEntityError, match=said):
        await source.load_many([1])
    with pytest.raises(InvalidEntityError, match=said):
        await chunks(source)


# -- load_all --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rows", [list(range(2_500)), {n: n for n in range(2_500)}, range(2_500)])
async def test_all_at_once_is_handed_on_in_chunks(rows: Any) -> None:
    async def load_all() -> Iterable[int]:
        found: Iterable[int] = rows
        return found

    found = await chunks(FunctionSource(load_all=load_all))
    assert [len(chunk) for chunk in found] == [CHUNK_ROWS, CHUNK_ROWS, 500]
    assert [row for chunk in found for row in chunk] == list(range(2_500))


async def test_all_at_once_of_no_rows() -> None:
    async def load_all() -> list[int]:
        return []

    assert await chunks(FunctionSource(load_all=load_all)) == []


async def test_rows_one_by_one_are_gathered_into_chunks() -> None:
    async def load_all() -> AsyncIterator[int]:
        for n in range(CHUNK_ROWS + 1):
            yield n

    found = await chunks(FunctionSource(load_all=load_all))
    assert [len(chunk) for chunk in found] == [CHUNK_ROWS, 1]


async def test_chunks_are_handed_on_as_they_are() -> None:
    async def load_all() -> AsyncIterator[Sequence[int]]:
        yield [1, 2]
        yield (3,)
        yield []

    assert await chunks(FunctionSource(load_all=load_all)) == [[1, 2], [3], []]


class Pair(NamedTuple):
    key: int
    value: str


async def test_a_named_tuple_is_a_row_and_no_chunk() -> None:
    async def load_all() -> AsyncIterator[Any]:
        yield Pair(1, "one")
        yield Pair(2, "two")

    assert await chunks(FunctionSource(load_all=load_all)) == [[Pair(1, "one"), Pair(2, "two")]]


def plain(*arguments: Any) -> Any:
    return None


class Service:
    def plain(self, *arguments: Any) -> Any:
        return None

    async def slow(self, key: int) -> int:
        return key

    def later(self, key: int) -> Awaitable[int]:
        return self.slow(key)


def generated() -> Iterator[int]:
    yield 1


@pytest.mark.parametrize(
    "function",
    [plain, Service().plain, functools.partial(plain, 1), generated],
    ids=["function", "method", "partial", "generator"],
)
@pytest.mark.parametrize("verb", ["load", "load_many", "load_all", "create", "update", "delete"])
def test_function_source_synchronous_function_is_refused_when_built(
    verb: str, function: Any
) -> None:
    with pytest.raises(ConfigurationError, match=rf"{verb}=.*declared with def.*async def"):
        FunctionSource(**{verb: function})


def passed_on(function: Any) -> Any:
    @functools.wraps(function)
    def wrapper(*arguments: Any) -> Any:
        return function(*arguments)

    return wrapper


class Loader:
    async def __call__(self, key: int) -> int:
        return key


@pytest.mark.parametrize(
    "function",
    [
        Service().slow,
        Service().later,
        functools.partial(Service().slow),
        passed_on(Service().slow),
        Loader(),
        lambda key: Service().slow(key),
        mock.AsyncMock(return_value=7),
    ],
    ids=["method", "annotated", "partial", "wrapped", "object", "lambda", "mock"],
)
async def test_function_source_function_that_returns_an_awaitable_is_taken(function: Any) -> None:
    source: FunctionSource[int, int] = FunctionSource(load=function)
    assert await source.load(7) == 7


async def test_function_source_lambda_that_is_not_async_says_so_at_its_first_call() -> None:
    source: FunctionSource[int, int] = FunctionSource(load_all=lambda: [1, 2])  # type: ignore[arg-type]
    with pytest.raises(InvalidEntityError, match="returned list where an awaitable is due"):
        await chunks(source)


async def test_each_load_all_begins_anew() -> None:
    async def load_all() -> AsyncIterator[int]:
        yield 1

    source: FunctionSource[int, int] = FunctionSource(load_all=load_all)
    assert await chunks(source) == await chunks(source) == [[1]]


# -- writes ----------------------------------------------------------------------------------------


async def test_a_write_returns_what_was_stored() -> None:
    source: FunctionSource[int, str] = FunctionSource(create=write, update=write)
    assert source.create is not None
    assert source.update is not None
    assert await source.create("ada") == "ADA"
    assert await source.update("bob") == "BOB"


async def test_a_write_that_returns_nothing_stored_the_entity_as_given() -> None:
    source: FunctionSource[int, str] = FunctionSource(create=write_as_given, update=write_as_given)
    assert source.create is not None
    assert source.update is not None
    assert await source.create("ada") == "ada"
    assert await source.update("bob") == "bob"


async def test_delete_is_told_the_version_if_it_takes_one() -> None:
    calls: list[tuple[Any, ...]] = []

    async def by_key(key: int) -> None:
        calls.append((key,))

    async def by_version(key: int, version: int | None) -> None:
        calls.append((key, version))

    async def by_anything(*arguments: Any) -> None:
        calls.append(arguments)

    functions: list[Any] = [by_key, by_version, by_anything]
    for function in functions:
        source: FunctionSource[int, str] = FunctionSource(delete=function)
        assert source.delete is not None
        await source.delete(1, 5)
    assert calls == [(1,), (1, 5), (1, 5)]


async def test_what_a_function_raises_is_left_alone() -> None:
    async def broken(_: Any) -> Any:
        raise OSError("the store is closed on Mondays")

    source: FunctionSource[int, str] = FunctionSource(load=broken, create=broken)
    assert source.load is not None
    assert source.create is not None
    for call in (source.load(1), source.create("ada")):
        with pytest.raises(OSError, match="Mondays"):
            await call
