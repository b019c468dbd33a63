"""Writes of a repository: source first, then memory; what becomes of each failure."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import time
from collections.abc import Callable
from typing import Any

import pytest

from imperfect_dollop import (
    ConflictError,
    EntityExistsError,
    EntityNotFoundError,
    FunctionSource,
    InvalidEntityError,
    LoadTimeoutError,
    NotReadyError,
    ReadOnlyError,
    Repository,
    SourceUnavailableError,
)
from imperfect_dollop.replica.messages import Event, Events, Kind
from imperfect_dollop.replica.stamp import Stamp

from .school import NEW, SchoolSource, Student, eventually, no_complaints, repository, soon

ADA = Student(1, "Ada", version=1)
BOB = Student(2, "Bob", "Rome", version=1)


async def test_create_update_delete() -> None:
    source = SchoolSource()
    async with repository(source) as repo:
        ada = await repo.create(Student(1, "Ada"))
        assert ada == Student(1, "Ada", version=1) == source.rows[1]
        assert repo.peek(1) == ada
        newer = await repo.update(dataclasses.replace(ada, name="Ada L."))
        assert newer == Student(1, "Ada L.", version=2) == source.rows[1]
        assert repo.peek(1) == newer
        await repo.delete(1)
        assert source.rows == {}
        assert repo.peek(1) is None
        assert 1 not in repo
        again = await repo.create(Student(1, "Eve"))
        assert repo.peek(1) == again
        assert repo.stats.writes == 4


async def test_a_key_that_the_source_makes() -> None:
    async with repository(SchoolSource(ADA)) as repo:
        stored = await repo.create(Student(NEW, "Bob"))
        assert stored == Student(2, "Bob", version=1) == repo.peek(2)
        assert len(repo) == 2


async def test_a_source_that_stores_entities_as_given() -> None:
    rows: dict[int, Student] = {}

    async def load_all() -> list[Student]:
        return list(rows.values())

    async def put(entity: Student) -> None:
        rows[entity.id] = entity

    async def drop(key: int) -> None:
        del rows[key]

    source: FunctionSource[int, Student] = FunctionSource(
        load_all=load_all, create=put, update=put, delete=drop
    )
    async with repository(source, version=None) as repo:
        assert await repo.create(ADA) is ADA
        assert await repo.get(1) is ADA
        assert await repo.update(dataclasses.replace(ADA, city="Rome")) == rows[1] == repo[1]
        await repo.delete(1)
        assert rows == {}
        assert len(repo) == 0


@pytest.mark.parametrize("verb", ["create", "update", "delete"])
async def test_memory_does_not_show_what_is_not_committed(verb: str) -> None:
    source = SchoolSource(ADA)
    calls: dict[str, Any] = {"create": Student(2, "Bob"), "update": ADA, "delete": 1}
    async with repository(source) as repo:
        gate = source.hold(verb)
        writing = asyncio.create_task(getattr(repo, verb)(calls[verb]))
        await eventually(lambda: gate.entered)
        assert dict(repo.items()) == {1: ADA}
        gate.open()
        await soon(writing)
        assert dict(repo.items()) == source.rows != {1: ADA}


@pytest.mark.parametrize("preload", [True, False])
async def test_what_the_source_refuses(preload: bool) -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=preload) as repo:
        with pytest.raises(EntityExistsError):
            await repo.create(Student(1, "Eve"))
        with pytest.raises(EntityNotFoundError):
            await repo.update(BOB)
        with pytest.raises(EntityNotFoundError):
            await repo.delete(2)
        with pytest.raises(ConflictError):
            await repo.update(dataclasses.replace(ADA, version=7))
        assert await repo.get(1) == ADA
        assert await repo.get(2) is None
        assert repo.stats.conflicts == 1
        assert repo.stats.writes == 0
        assert repo.state == "ready"


async def test_after_a_conflict_the_row_is_read_again() -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:
        newer = dataclasses.replace(ADA, name="Ada L.", version=2)
        source.put(newer)  # behind our back
        with pytest.raises(ConflictError):
            await repo.update(dataclasses.replace(ADA, name="Ada M."))
        await eventually(lambda: repo.peek(1) == newer)
        assert await repo.update(dataclasses.replace(newer, name="Ada M.")) == source.rows[1]


async def test_a_delete_is_of_the_version_that_is_held() -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:
        newer = dataclasses.replace(ADA, name="Ada L.", version=2)
        source.put(newer)
        with pytest.raises(ConflictError):
            await repo.delete(1)
        assert source.rows == {1: newer}
        await eventually(lambda: repo.peek(1) == newer)
        await repo.delete(1)
        assert source.rows == {}


@pytest.mark.parametrize("verb", ["create", "update", "delete"])
async def test_the_source_fails_before_it_commits(verb: str) -> None:
    source = SchoolSource(ADA)
    calls: dict[str, Any] = {"create": BOB, "update": ADA, "delete": 1}
    async with repository(source) as repo:
        source.failure = OSError("away")
        with pytest.raises(SourceUnavailableError, match=f"the {verb} of key .* failed") as raised:
            await getattr(repo, verb)(calls[verb])
        assert isinstance(raised.value.__cause__, OSError)
        assert dict(repo.items()) == {1: ADA}
        assert repo.state == "degraded"
        source.failure = None
        await eventually(lambda: repo.state == "ready")
        assert dict(repo.items()) == source.rows == {1: ADA}


@pytest.mark.parametrize("verb", ["create", "update", "delete"])
async def test_the_source_commits_and_then_fails(verb: str) -> None:
    """The outcome is not known to the caller, and found out in the background."""
    source = SchoolSource(ADA)
    newer = dataclasses.replace(ADA, name="Ada L.")
    calls: dict[str, Any] = {"create": Student(2, "Bob"), "update": newer, "delete": 1}
    commit = getattr(source, verb)

    async def commit_and_fail(*args: object) -> None:
        await commit(*args)
        raise OSError("the answer was lost")

    setattr(source, verb, commit_and_fail)
    async with repository(source) as repo:
        with pytest.raises(SourceUnavailableError, match="the answer was lost"):
            await getattr(repo, verb)(calls[verb])
        assert source.rows != {1: ADA}
        await eventually(lambda: dict(repo.items()) == source.rows)


async def test_a_hung_write_is_given_up() -> None:
    source = SchoolSource(ADA)
    async with repository(source, hard_timeout=0.05) as repo:
        source.hold("update")
        with pytest.raises(LoadTimeoutError, match="update of key 1"):
            await soon(repo.update(ADA))
        source.gates.clear()
        assert (await soon(repo.update(ADA))).version == 2


async def test_writes_of_one_key_go_one_after_the_other() -> None:
    source = SchoolSource(dataclasses.replace(ADA, version=0), versioned=False)
    at_once = most = 0
    commit = source.update

    async def counting(entity: Student) -> Student:
        nonlocal at_once, most
        at_once += 1
        most = max(most, at_once)
        try:
            return await commit(entity)
        finally:
            at_once -= 1

    source.update = counting  # type: ignore[method-assign]
    async with repository(source, version=None) as repo:
        names = [f"Ada {number}" for number in range(20)]
        await soon(
            asyncio.gather(
                *(repo.update(dataclasses.replace(ADA, name=name, version=0)) for name in names)
            )
        )
        assert most == 1
        assert repo[1] == source.rows[1]
        assert repo[1].name == "Ada 19"


def rival(repo: Repository[int, Student]) -> Callable[[Kind, Student | None], None]:
    """Lets the repository hear of a rival's write of key 1, built on what is held here."""
    session = repo._session
    assert session is not None
    replica, numbers = session.replica, itertools.count(1)

    def hear(kind: Kind, student: Student | None) -> None:
        held = replica.table.stamp(1)
        version = held.version if student is None else student.version
        content = None if student is None else replica.rows.encode(student)
        written = Stamp(version, replica.clock.tick(time.time()), "rival")
        event = Event(kind, replica.keys.encode(1), content, written, held)
        session.receive(
            Events("rival", repo.name, replica.rows.fingerprint, next(numbers), [event])
        )

    return hear


async def test_a_write_that_cannot_be_shown_is_not_acknowledged() -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:
        hear = rival(repo)
        answer, look = source.hold("update"), source.hold("load", "load_many")
        writing = asyncio.create_task(repo.update(dataclasses.replace(ADA, name="Ada L.")))
        await eventually(lambda: answer.entered)
        hear(Kind.UPDATE, Student(1, "Ada K.", version=2))
        answer.open()
        await eventually(lambda: look.entered)
        source.failure = OSError("away")
        look.open()
        with pytest.raises(SourceUnavailableError) as caught:
            await soon(writing)
        assert caught.value.__notes__ == [
            "The write of key 1 was committed; it is shown when the source answers again."
        ]
        assert (repo[1].name, source.rows[1].name) == ("Ada K.", "Ada L.")
        source.failure = None
        await eventually(lambda: repo.peek(1) == source.rows[1])


async def test_a_write_returns_only_when_it_is_shown_whatever_rivals_say_meanwhile() -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:
        hear = rival(repo)
        answer, look = source.hold("update"), source.hold("load", "load_many")
        again = Student(1, "created again", version=1)
        source.put(again)  # by a rival, of which this node has yet to hear
        writing = asyncio.create_task(repo.update(dataclasses.replace(ADA, name="Ada L.")))
        await eventually(lambda: answer.entered)
        hear(Kind.DELETE, None)
        answer.open()
        await eventually(lambda: look.entered)
        hear(Kind.CREATE, again)  # overtakes the read that is to settle who was last
        look.open()
        stored = await soon(writing)
        assert stored == Student(1, "Ada L.", version=2)
        assert repo.peek(1) == stored


async def test_writes_of_different_keys_do_not_wait_for_each_other() -> None:
    source = SchoolSource(ADA, BOB)
    async with repository(source) as repo:
        gate = source.hold("update")
        slow = asyncio.create_task(repo.update(ADA))
        await eventually(lambda: gate.entered)
        source.gates.clear()
        assert (await soon(repo.update(BOB))).version == 2
        assert not slow.done()
        gate.open()
        await soon(slow)


async def test_a_write_waits_for_the_first_load() -> None:
    source = SchoolSource(ADA)
    gate = source.hold("load_all")
    repo = repository(source)
    entering = asyncio.create_task(repo.__aenter__())
    await eventually(lambda: gate.entered)
    writing = asyncio.create_task(repo.update(dataclasses.replace(ADA, name="Ada L.")))
    await asyncio.sleep(0)
    assert not source.calls["update"]
    gate.open()
    assert await soon(writing) == repo.peek(1) == source.rows[1]
    await soon(entering)
    await repo.__aexit__(None, None, None)


async def test_a_write_with_nothing_loaded_raises() -> None:
    source = SchoolSource(ADA)
    source.failure = OSError("away")
    async with repository(source, retry_after=60) as repo:
        with pytest.raises(NotReadyError):
            await repo.update(ADA)
        assert not source.calls["update"]


async def test_read_only() -> None:
    source = SchoolSource(ADA)
    async with repository(source, read_only=True) as repo:
        for write in (repo.create(BOB), repo.update(ADA), repo.delete(1)):
            with pytest.raises(ReadOnlyError, match="read_only=True"):
                await write
        assert source.calls == {"load_all": 1}


async def test_what_a_write_hands_back_and_keeps_are_not_the_same_with_copy() -> None:
    @dataclasses.dataclass
    class Club:
        id: int
        members: list[str]

    rows: dict[int, Club] = {}

    async def load_all() -> list[Club]:
        return list(rows.values())

    async def put(club: Club) -> Club:
        rows[club.id] = club
        return club

    async def drop(key: int) -> None:
        del rows[key]

    source: FunctionSource[int, Club] = FunctionSource(
        load_all=load_all, create=put, update=put, delete=drop
    )
    async with repository_of_clubs(source, Club) as clubs:
        mine = Club(1, ["Ada"])
        stored = await clubs.create(mine)
        mine.members.append("Mallory")
        stored.members.append("Mallory")
        assert clubs[1].members == ["Ada"]


def repository_of_clubs(source: Any, entity: Any) -> Any:
    from imperfect_dollop import Repository

    return Repository(entity, source=source, copy=True)


async def test_a_failed_write_whose_caller_has_gone_is_logged_and_nothing_more(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = SchoolSource(ADA)
    with no_complaints():
        async with repository(source) as repo:
            gate = source.hold("update")
            writing = asyncio.create_task(repo.update(ADA))
            await eventually(lambda: gate.entered)
            writing.cancel()
            await asyncio.wait([writing])
            source.failure = OSError("away")
            gate.open()
            await eventually(lambda: "whose caller has gone" in caplog.text)
            source.failure = None
    assert "Traceback" not in caplog.text


# -- what the source returns from a write ----------------------------------------------------------


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (Student(9, "Eve", version=2), "given the key 1 and returned a row with the key 9"),
        ({"id": 1}, r"update\(\) of the source returned a dict where a Student is due"),
        (Student(1, "Ada", version=-1), "a version is an int"),
        (Student(None, "Ada", version=2), "has no key"),  # type: ignore[arg-type]
    ],
)
async def test_a_source_that_returns_nonsense_from_a_write(returned: Any, message: str) -> None:
    source = SchoolSource(ADA)
    commit = source.update

    async def odd(entity: Student) -> Any:
        await commit(entity)
        return returned

    source.update = odd  # type: ignore[method-assign]
    async with repository(source) as repo:
        with pytest.raises(InvalidEntityError, match=message):
            await repo.update(dataclasses.replace(ADA, name="Ada L."))
        await eventually(lambda: dict(repo.items()) == source.rows)
        assert source.rows[1].name == "Ada L."


async def test_a_source_that_returns_nonsense_from_a_create_with_a_new_key() -> None:
    source = SchoolSource(ADA)
    commit = source.create

    async def odd(entity: Student) -> Any:
        await commit(entity)
        return "created"

    source.create = odd  # type: ignore[method-assign]
    async with repository(source) as repo:
        with pytest.raises(InvalidEntityError, match="returned a str where a Student is due"):
            await repo.create(Student(NEW, "Bob"))
        await eventually(lambda: dict(repo.items()) == source.rows)
        assert len(repo) == 2


async def test_a_source_that_creates_under_another_key_than_it_was_given() -> None:
    source = SchoolSource(ADA)
    commit = source.create

    async def odd(entity: Student) -> Any:
        return await commit(dataclasses.replace(entity, id=NEW))

    source.create = odd  # type: ignore[method-assign]
    async with repository(source) as repo:
        with pytest.raises(InvalidEntityError, match=r"given the key 7 and returned .* the key 2"):
            await repo.create(Student(7, "Bob"))
        assert sorted(source.rows) == [1, 2]
        await eventually(lambda: dict(repo.items()) == source.rows)
