"""What applications and sources get wrong: every mistake has an error that says what to do, and breaks nothing."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from typing import Any

import pytest

from imperfect_dollop import (
    ConfigurationError,
    DollopError,
    FunctionSource,
    InvalidEntityError,
    Node,
    NotReadyError,
    Repository,
    SourceUnavailableError,
)
from imperfect_dollop.brokers.memory import MemoryBroker

from .school import NEW, SchoolSource, Student, eventually, repository

ADA = Student(1, "Ada", version=1)
BOB = Student(2, "Bob", "Rome", version=1)


@dataclasses.dataclass(frozen=True)
class Pupil(Student):
    school: str = ""


@dataclasses.dataclass(frozen=True)
class Note:
    id: Any
    content: Any


def notes(*rows: Any, **settings: Any) -> Repository[Any, Note]:
    """A repository of notes whose source stores whatever it is given."""
    held = {row.id: row for row in rows}

    async def load(key: Any) -> Note | None:
        return held.get(key)

    async def load_all() -> list[Note]:
        return list(held.values())

    async def put(note: Note) -> None:
        held[note.id] = note

    async def drop(key: Any) -> None:
        del held[key]

    source: FunctionSource[Any, Note] = FunctionSource(
        load=load, load_all=load_all, create=put, update=put, delete=drop
    )
    repo: Repository[Any, Note] = Repository(
        Note, source=source, **{"ttl": None, "retry_after": 0.02, **settings}
    )
    repo.held = held  # type: ignore[attr-defined]
    return repo


# -- what a caller hands in ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("entity", "message"),
    [
        (None, "was given None where a Student is due"),
        ({"id": 1, "name": "Ada"}, "was given a dict where a Student is due"),
        (Note(1, ""), "was given a Note where a Student is due"),
        (Pupil(1, "Ada"), "was given a Pupil where a Student is due"),
        (Student, "was given a type where a Student is due"),
        (Student([], "Ada"), r"whose key \[\] is not hashable"),  # type: ignore[arg-type]
    ],
)
@pytest.mark.parametrize("verb", ["create", "update"])
async def test_writes_of_what_is_no_entity(verb: str, entity: Any, message: str) -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:
        with pytest.raises(InvalidEntityError, match=message) as raised:
            await getattr(repo, verb)(entity)
        assert f"{verb}()" in str(raised.value)
        assert source.calls == {"load_all": 1}
        assert dict(repo.items()) == {1: ADA}


async def test_an_update_without_a_key() -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:
        with pytest.raises(InvalidEntityError, match="has no key"):
            await repo.update(Student(NEW, "Ada"))
        assert not source.calls["update"]


async def test_a_key_that_is_missing_from_an_entity() -> None:
    async with notes(Note(1, "")) as repo:
        incomplete = Note.__new__(Note)
        with pytest.raises(InvalidEntityError, match=r"whose key cannot be read|no attribute"):
            await repo.create(incomplete)


async def test_a_key_function_that_raises() -> None:
    async def load_all() -> list[Note]:
        return [Note("a-1", "")]

    async def put(note: Note) -> None:
        raise AssertionError

    async def drop(key: int) -> None:
        raise AssertionError

    source: FunctionSource[int, Note] = FunctionSource(
        load_all=load_all, create=put, update=put, delete=drop
    )

    def number(note: Note) -> int:
        return int(note.id.split("-")[1])

    async with Repository(Note, source=source, key=number) as repo:
        assert await repo.get(1) == Note("a-1", "")
        with pytest.raises(InvalidEntityError, match="whose key cannot be read: IndexError"):
            await repo.create(Note("b", ""))


@pytest.mark.parametrize("version", [-1, 1.5, "1", None, True, 2**63])
async def test_versions_that_are_none(version: Any) -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:
        with pytest.raises(InvalidEntityError, match="a version is an int"):
            await repo.update(dataclasses.replace(ADA, version=version))
        assert not source.calls["update"]


@pytest.mark.parametrize("content", [object(), {1: object()}, print, 2**64, float, {(): {(): ()}}])
async def test_content_that_has_no_bytes_is_not_committed(content: Any) -> None:
    async with notes() as repo:
        try:
            stored = await repo.create(Note(1, content))
        except InvalidEntityError as error:
            assert "cannot be turned into bytes" in str(error)  # noqa: PT017 - either is right
            assert repo.held == {}  # type: ignore[attr-defined]
            assert len(repo) == 0
        else:
            assert repo[1] is stored
        with pytest.raises(InvalidEntityError):
            await repo.create(Note(2, object()))


async def test_a_recursive_entity_is_not_committed() -> None:
    content: list[Any] = []
    content.append(content)
    async with notes() as repo:
        with pytest.raises(InvalidEntityError, match="cannot be turned into bytes"):
            await repo.create(Note(1, content))
        assert repo.held == {}  # type: ignore[attr-defined]


@pytest.mark.parametrize("key", ["1", 1.5, b"1", (1,), frozenset()])
async def test_keys_of_another_type_are_absent_or_refused(key: Any) -> None:
    """What is no key of this repository is never found, and nothing breaks."""
    source = SchoolSource(ADA)
    for preload in (True, False):
        async with repository(source, preload=preload) as repo:
            try:
                assert await repo.get(key) is None
            except InvalidEntityError as error:
                assert "cannot be a key" in str(error)  # noqa: PT017 - either is right
            with pytest.raises((InvalidEntityError, LookupError)):
                await repo.delete(key)
            assert await repo.get(1) == ADA
            assert await repo.get(2) is None


# -- what a source hands out -----------------------------------------------------------------------


class Odd(SchoolSource):
    """A source whose reads return what a test says."""

    def __init__(self, *rows: Student) -> None:
        super().__init__(*rows)
        self.chunks: list[Any] | None = None
        self.row: Any = ...

    async def load_all(self) -> AsyncIterator[Any]:
        await self._called("load_all")
        for chunk in [list(self.rows.values())] if self.chunks is None else self.chunks:
            if isinstance(chunk, Exception):
                raise chunk
            yield chunk

    async def load(self, key: int, /) -> Any:
        found = await super().load(key)
        return found if self.row is ... else self.row

    async def load_many(self, keys: Sequence[int], /) -> Any:
        found = await super().load_many(keys)
        return found if self.row is ... else self.row


BAD_CHUNKS: list[tuple[list[Any], str]] = [
    ([[ADA, None]], "load_all returned None where a Student is due"),
    ([[ADA, {"id": 2}]], "load_all returned a dict where a Student is due"),
    ([[ADA], None, [BOB]], "load_all"),
    ([[ADA], 5], "load_all|load of all rows"),
    ([[ADA], OSError("the connection was lost")], "the connection was lost"),
]


@pytest.mark.parametrize(("chunks", "message"), BAD_CHUNKS)
async def test_a_bad_complete_load_keeps_what_was_held(chunks: list[Any], message: str) -> None:
    eve = Student(3, "Eve", version=1)
    source = Odd(ADA, BOB, eve)
    async with repository(source) as repo:
        source.chunks = chunks
        with pytest.raises(DollopError, match=message) as raised:
            await repo.refresh()
        assert "Student" in str(raised.value)
        assert dict(repo.items()) == {1: ADA, 2: BOB, 3: eve}
        assert repo.state == "degraded"
        source.chunks = None
        await repo.refresh()
        assert repo.state == "ready"
        assert dict(repo.items()) == source.rows


@pytest.mark.parametrize(("chunks", "message"), BAD_CHUNKS)
async def test_a_bad_first_load_answers_nothing(chunks: list[Any], message: str) -> None:
    source = Odd(ADA, BOB)
    source.chunks = chunks
    async with repository(source) as repo:
        with pytest.raises(NotReadyError, match=message):
            await repo.get(1)
        with pytest.raises(NotReadyError):
            repo.peek(1)
        source.chunks = None
        await eventually(lambda: repo.state == "ready")
        assert dict(repo.items()) == source.rows


@pytest.mark.parametrize(
    ("row", "message"),
    [
        (BOB, "the load of key 1 returned a row with the key 2"),
        ({"id": 1}, "the load of key 1 returned a dict where a Student is due"),
        (Pupil(1, "Ada"), "key 1 is quarantined: a Pupil where a Student is due"),
        (Student(1, "Ada", version=-1), "a version is an int"),
        (Student(NEW, "Ada"), "has no key"),
        (Student(1, object(), version=1), "cannot be turned into bytes"),  # type: ignore[arg-type]
        ([ADA], "returned a list where a Student is due"),
    ],
)
async def test_a_bad_row_from_load(row: Any, message: str) -> None:
    source = Odd(ADA)
    source.row = row
    async with repository(source, preload=False) as repo:
        with pytest.raises(InvalidEntityError, match=message):
            await repo.get(1)
        assert len(repo) == 0
        source.row = ...
        await repo.invalidate(1)
        assert await repo.get(1) == ADA


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([ADA, BOB, Student(3, "Eve", version=1)], "the load of 2 keys returned .* the key 3"),
        ([ADA, ADA], "two rows with this key"),
        ([ADA, None], "returned None where a Student is due"),
        (None, "load"),
        (5, "load"),
        ("Ada", "returned .* due"),
    ],
)
async def test_bad_rows_from_load_many(rows: Any, message: str) -> None:
    source = Odd(ADA, BOB)
    source.row = rows
    async with repository(source, preload=False) as repo:
        with pytest.raises((InvalidEntityError, SourceUnavailableError), match=message):
            await repo.get_many([1, 2])
        assert len(repo) == 0
        source.row = ...
        await repo.invalidate(1, 2)
        assert await repo.get_many([1, 2]) == {1: ADA, 2: BOB}


async def test_none_from_functions() -> None:
    async def nothing(*_: Any) -> Any:
        return None

    source: FunctionSource[int, Student] = FunctionSource(
        load_many=nothing, load_all=nothing, create=nothing, update=nothing, delete=nothing
    )
    async with repository(source) as repo:
        with pytest.raises(NotReadyError, match=r"nothing\(\) returned NoneType .* empty list"):
            await repo.get(1)
    async with repository(source, preload=False) as repo:
        with pytest.raises(InvalidEntityError, match=r"nothing\(\) returned NoneType"):
            await repo.get_many([1, 2])


async def test_a_fallback_that_raises_when_it_is_called() -> None:
    def fallback(repo: Any) -> AsyncIterator[Student]:
        raise ZeroDivisionError("a bug")

    source = SchoolSource(ADA)
    source.failure = OSError("away")
    async with repository(source, bootstrap=("source", fallback)) as repo:
        with pytest.raises(NotReadyError, match="a bug"):
            await repo.get(1)
        source.failure = None
        await eventually(lambda: repo.state == "ready")


async def test_a_fallback_that_yields_nonsense() -> None:
    async def fallback(repo: Any) -> AsyncIterator[Any]:
        yield ADA
        yield "Bob"

    source = SchoolSource(ADA)
    source.failure = OSError("away")
    async with repository(source, bootstrap=("source", fallback)) as repo:
        with pytest.raises(NotReadyError, match="a bootstrap function yielded a str"):
            await repo.get(1)


# -- what a repository is declared with ------------------------------------------------------------


def functions(*names: str) -> FunctionSource[int, Student]:
    async def anything(*_: Any) -> Any:
        raise AssertionError

    given: dict[str, Any] = dict.fromkeys(names, anything)
    return FunctionSource(**given)


READS = functions("load", "load_all")
ALL = SchoolSource()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"source": functions("load")}, "no load_all, which preload=True needs.* preload=False"),
        (
            {"source": functions("load_all"), "preload": False},
            "neither load nor load_many, which preload=False needs",
        ),
        ({"source": READS}, "no create, update, delete.* read_only=True"),
        ({"source": functions("load_all", "create", "update")}, "no delete.* read_only=True"),
        ({"source": None}, "None is no source"),
        ({"key": "student_id"}, "no attribute 'student_id'; it declares id, name, city, version"),
        ({"key": ("id", "school")}, "no attribute 'school'"),
        ({"key": ("id",)}, "a composite key has at least two attributes"),
        ({"key": 5}, "neither an attribute name nor a function"),
        ({"version": "revision"}, "version='revision' is no attribute of Student"),
        ({"name": ""}, "a name has 1 to 256 characters"),
        ({"name": "x" * 257}, "a name has 1 to 256 characters"),
        ({"name": 5}, "a name has 1 to 256 characters"),
        ({"ttl": 0}, "ttl=0 must be seconds above 0"),
        ({"ttl": -1.0}, "ttl=-1.0 must be seconds above 0"),
        ({"ttl": float("nan")}, "ttl=nan must be seconds above 0"),
        ({"hard_timeout": 0}, "hard_timeout=0 must be seconds above 0"),
        ({"retry_after": 0}, "retry_after=0 must be seconds above 0"),
        ({"missing_ttl": 0}, "missing_ttl=0 must be seconds above 0"),
        ({"ttl": None, "jitter": 1.0}, "spreads the refreshes of ttl, which is None"),
        ({"ttl": 10, "jitter": 11}, "jitter=11 must be from 0 to ttl=10"),
        ({"ttl": 10, "jitter": -1}, "jitter=-1 must be from 0 to ttl=10"),
        ({"max_entries": 10}, "max_entries bounds what is loaded on demand"),
        (
            {"max_entries": 0, "preload": False},
            "max_entries=0 must be a whole number of at least 1",
        ),
        ({"bootstrap": ()}, "nowhere to look"),
        ({"bootstrap": ("origin",)}, "'origin' is neither 'sibling', 'source' nor a function"),
        ({"bootstrap": "source"}, "bootstrap='source' must be a list or tuple"),
        ({"bootstrap": None}, "bootstrap=None must be a list or tuple"),
        ({"bootstrap": 5}, "bootstrap=5 must be a list or tuple"),
        ({"version": 5}, "version=5 is no attribute of Student"),
    ],
)
def test_settings_that_cannot_work(settings: dict[str, Any], message: str) -> None:
    given = {"source": ALL, **settings}
    with pytest.raises(ConfigurationError, match=message) as raised:
        Repository(Student, **given)
    assert isinstance(raised.value, ValueError)


@pytest.mark.parametrize("entity", [int, dict, 5, None, ADA, "Student"])
def test_what_cannot_be_an_entity(entity: Any) -> None:
    with pytest.raises(ConfigurationError, match="declare a dataclass, an attrs class"):
        Repository(entity, source=ALL)


def test_a_field_that_cannot_be_rebuilt_from_bytes() -> None:
    class Opaque:
        pass

    @dataclasses.dataclass
    class Holder:
        id: int
        opaque: Opaque

    Holder.__annotations__["opaque"] = Opaque
    source: Any = ALL
    with pytest.raises(ConfigurationError, match=r"Holder\.opaque is a Opaque"):
        Repository(Holder, source=source)


def test_settings_that_work() -> None:
    for settings in (
        {"source": READS, "read_only": True},
        {"source": functions("load_all"), "read_only": True},
        {"source": functions("load_many"), "read_only": True, "preload": False},
        {"source": ALL, "preload": False, "max_entries": 1, "ttl": None},
        {"source": ALL, "ttl": 10, "jitter": 0},
        {"source": ALL, "ttl": 10, "jitter": 10, "hard_timeout": None},
        {"source": ALL, "preload": False, "bootstrap": ()},
    ):
        assert Repository(Student, **settings).name == "Student"  # type: ignore[arg-type]


def repositories(*names: str) -> list[Repository[int, Student]]:
    return [Repository(Student, source=ALL, name=name) for name in names]


async def enter(build: Callable[[], Awaitable[Node] | Node]) -> None:
    node = build()
    assert isinstance(node, Node)
    async with asyncio.timeout(5), node:
        pass


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: Node("memory://", *repositories("a", "b", "a")), "named a: give them a name="),
        (lambda: Node("memory://", "students"), "takes repositories, not 'students'"),  # type: ignore[arg-type]
        (lambda: Node("memory://", startup="later"), "startup='later' is none of background, wait"),  # type: ignore[arg-type]
        (lambda: Node("memory://", namespace=""), "namespace must be 1 to 256 characters"),
        (lambda: Node("memory://", heartbeat=0), "heartbeat"),
        (lambda: Node("memory://", heartbeat=float("inf")), "heartbeat"),
        (lambda: Node("memory://", outbox=0), "outbox"),
        (lambda: Node("memory://", outbox=1.5), "outbox=1.5 must be a whole number of at least 1"),  # type: ignore[arg-type]
        (lambda: Node("memory://", offer_wait=-1), "offer_wait=-1 must be seconds from 0"),
        (
            lambda: Node("memory://", shutdown_timeout=-1),
            "shutdown_timeout=-1 must be seconds from 0",
        ),
        (lambda: Node("carrier-pigeon://loft"), "carrier-pigeon.* known are memory://"),
        (lambda: Node(None), "broker"),  # type: ignore[arg-type]
        (lambda: Node(object()), "broker"),  # type: ignore[arg-type]
        (lambda: Node(MemoryBroker), "broker"),  # type: ignore[arg-type]
    ],
)
async def test_nodes_that_cannot_work(build: Callable[[], Node], message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        await enter(build)


async def test_one_repository_twice_in_a_node() -> None:
    (repo,) = repositories("a")
    with pytest.raises(ConfigurationError, match="give them a name="):
        Node("memory://", repo, repo)


async def test_a_key_of_another_type_is_written_nowhere() -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:
        wrong: Any = "7"
        for write in (repo.create, repo.update):
            with pytest.raises(InvalidEntityError, match="'7' cannot be a key"):
                await write(dataclasses.replace(ADA, id=wrong))
        with pytest.raises(InvalidEntityError, match="'7' cannot be a key"):
            await repo.delete(wrong)
        assert not source.calls["create"] + source.calls["update"] + source.calls["delete"]
