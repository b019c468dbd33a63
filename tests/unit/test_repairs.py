"""What once went wrong, and stays mended: races, doubts, tombstones, fallbacks, and what settings are refused."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from imperfect_dollop import (
    ConfigurationError,
    DollopError,
    FunctionSource,
    InvalidEntityError,
    Node,
    Repository,
    TooStaleError,
)
from imperfect_dollop import on_demand as on_demand_module
from imperfect_dollop import (
    session as session_module,
)
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.codecs import MAX_CONTENT
from imperfect_dollop.replica import holding as holding_module
from imperfect_dollop.replica.replica import Replica
from imperfect_dollop.session import Session
from imperfect_dollop.source import Source
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource

from .school import (
    Gate,
    Member,
    SchoolSource,
    Student,
    cluster,
    eventually,
    member,
    repository,
    settled,
    soon,
    students,
    until_all_hold,
)

ADA = Student(1, "Ada", version=1)
BOB = Student(2, "Bob", "Rome", version=1)
EVE = Student(3, "Eve", version=1)


class SlowAnswer(SchoolSource):
    """Its updates can be held at the gate ``"answer"`` once they are committed. It compares no versions."""

    def __init__(self, *students: Student) -> None:
        super().__init__(*students, versioned=False)

    async def update(self, entity: Student, /) -> Student:
        stored = await super().update(entity)
        gate = self.gates.get("answer")
        if gate is not None:
            await gate.pass_through()
        return stored


def without_load(school: SchoolSource) -> FunctionSource[int, Student]:
    """A source that can only load everything at once."""
    return FunctionSource(
        load_all=school.load_all, create=school.create, update=school.update, delete=school.delete
    )


def session_of(repo: Repository[int, Student]) -> Session[int, Student]:
    session = repo._session
    assert session is not None
    return session


async def race(writer: Member, rival: Member, school: SlowAnswer) -> Gate:
    """Both update row 1; the writer's is committed first, and answered last: when the gate is opened."""
    gate = school.hold("answer")
    slow = asyncio.create_task(writer.repository.update(Student(1, "of the writer")))
    await eventually(lambda: gate.entered)
    del school.gates["answer"]
    before = writer.repository.stats.events_received
    await rival.repository.update(Student(1, "of the rival"))
    await eventually(lambda: writer.repository.stats.events_received > before)
    gate.open()
    assert (await soon(slow)).name == "of the writer"
    assert school.rows[1].name == "of the rival"
    return gate


# -- races of writes -------------------------------------------------------------------------------


@pytest.mark.parametrize("known", [True, False], ids=["held", "not held"])
async def test_on_demand_a_raced_write_ends_with_what_the_source_has(known: bool) -> None:
    school = SlowAnswer(Student(1, "Ada"))
    broker = MemoryBroker()
    settings: dict[str, Any] = {"preload": False, "version": None}
    async with cluster(member(broker, school, **settings), member(broker, school, **settings)) as (
        writer,
        rival,
    ):
        await eventually(lambda: len(writer.node.members) == len(rival.node.members) == 2)
        if known:
            await writer.repository.get(1)
            await rival.repository.get(1)
        await race(writer, rival, school)
        await settled()
        assert await soon(writer.repository.get(1)) == school.rows[1]
        await eventually(lambda: rival.repository.peek(1) == school.rows[1])


async def test_a_raced_write_without_load_by_key_is_settled_by_a_complete_load() -> None:
    school = SlowAnswer(Student(1, "Ada"), Student(2, "Bob"))
    source = without_load(school)
    broker = MemoryBroker()
    async with cluster(
        member(broker, source, version=None), member(broker, source, version=None)
    ) as members:
        writer, rival = members
        loads = writer.repository.stats.full_loads
        await race(writer, rival, school)
        assert writer.content == school.rows
        assert writer.repository.stats.full_loads > loads
        await until_all_hold(members, school)
        await eventually(lambda: all(one.repository.state == "ready" for one in members))
        assert [one.repository.stats.load_failures for one in members] == [0, 0]


async def test_invalidate_without_load_by_key_is_a_complete_load() -> None:
    school = SchoolSource(ADA, BOB)
    async with repository(without_load(school)) as repo:
        school.put(dataclasses.replace(ADA, name="Ada L.", version=2))
        await soon(repo.invalidate(1))
        assert repo.peek(1) == school.rows[1]
        assert repo.state == "ready"
        stats = repo.stats
        assert (stats.full_loads, stats.loads, stats.load_failures) == (2, 0, 0)


# -- entities that are mutated in place ------------------------------------------------------------


@dataclasses.dataclass
class Pupil:
    id: int
    name: str
    version: int = 1


class PupilSource:
    """Hands out copies, as a database does: what is mutated in memory changes nothing here."""

    def __init__(self, *pupils: Pupil) -> None:
        self.rows = {pupil.id: pupil for pupil in pupils}
        self.full_loads = 0

    def repository(self) -> Repository[int, Pupil]:
        source: FunctionSource[int, Pupil] = FunctionSource(
            load=self.load,
            load_all=self.load_all,
            create=self.put,
            update=self.put,
            delete=self.delete,
        )
        return Repository(Pupil, source=source, version="version", ttl=None, retry_after=0.02)

    async def load(self, key: int) -> Pupil | None:
        row = self.rows.get(key)
        return None if row is None else dataclasses.replace(row)

    async def load_all(self) -> list[Pupil]:
        self.full_loads += 1
        return [dataclasses.replace(row) for row in self.rows.values()]

    async def put(self, pupil: Pupil) -> Pupil:
        self.rows[pupil.id] = dataclasses.replace(pupil, version=pupil.version + 1)
        return dataclasses.replace(self.rows[pupil.id])

    async def delete(self, key: int) -> None:
        del self.rows[key]


def digest(node: Node) -> str:
    text = node.status()["repositories"]["Pupil"]["digest"]
    assert isinstance(text, str)
    return text


@pytest.mark.parametrize("donor", [0, 1], ids=["from the one", "from the other"])
async def test_a_mutated_entity_does_not_spoil_the_digest(donor: int) -> None:
    source = PupilSource(Pupil(1, "Ada"), Pupil(2, "Bob"))
    broker = MemoryBroker()
    repos = [source.repository() for _ in range(3)]
    nodes = [
        Node(broker, repo, heartbeat=0.05, offer_wait=0.05, shutdown_timeout=1.0) for repo in repos
    ]
    for node in nodes[:2]:
        await node.__aenter__()
    left = [nodes[donor]]
    try:
        repos[0][1].name = "mutated"
        await repos[1].update(dataclasses.replace(repos[1][1], name="Ada L."))
        await eventually(lambda: repos[0].peek(1) == source.rows[1])
        await eventually(lambda: digest(nodes[0]) == digest(nodes[1]))
        await eventually(lambda: all(repo.state == "ready" for repo in repos[:2]))
        await nodes[1 - donor].__aexit__(None, None, None)
        loads = source.full_loads
        await nodes[2].__aenter__()
        left.append(nodes[2])
        assert dict(repos[2].items()) == source.rows
        assert (repos[2].stats.snapshots, repos[2].stats.full_loads) == (1, 0)
        assert source.full_loads == loads
        assert digest(nodes[2]) == digest(nodes[donor])
    finally:
        for node in left:
            await node.__aexit__(None, None, None)


# -- tombstones ------------------------------------------------------------------------------------


async def test_a_repository_alone_forgets_tombstones(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session_module, "SWEEP_SECONDS", 0.001)
    monkeypatch.setattr(holding_module, "TOMBSTONE_SECONDS", 0.005)
    source = SchoolSource(ADA, BOB, EVE)
    async with repository(source) as repo:
        dead = session_of(repo).replica.table.dead
        await repo.delete(1)
        await repo.delete(2)
        await eventually(lambda: not dead, "tombstones are forgotten, the last one too")
        assert dict(repo.items()) == source.rows


async def test_tombstones_are_kept_for_as_long_as_they_may_matter(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(session_module, "SWEEP_SECONDS", 0.001)
    async with repository(SchoolSource(ADA, BOB)) as repo:
        table = session_of(repo).replica.table
        sweeps = 0
        sweep = Replica.sweep

        def counted(replica: Any, now: float, horizon: int, members: Any) -> int:
            nonlocal sweeps
            sweeps += 1
            return sweep(replica, now, horizon, members)

        monkeypatch.setattr(Replica, "sweep", counted)
        await repo.delete(1)
        await repo.delete(2)
        await eventually(lambda: sweeps > 3)
        assert list(table.dead) == [1, 2]


# -- names and settings ----------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {"name": "x" * 300},
        {"namespace": "x" * 300},
        {"namespace": ""},
        {"heartbeat": "1"},
        {"heartbeat": None},
        {"heartbeat": [1.0]},
        {"heartbeat": float("nan")},
        {"heartbeat": 0},
        {"offer_wait": "soon"},
        {"outbox": None},
    ],
    ids=str,
)
def test_what_a_node_cannot_be_given(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigurationError, match=next(iter(settings)) + "|the waits"):
        Node("memory://repairs", repository(SchoolSource()), **settings)


async def test_a_repository_with_a_long_name_can_take_a_snapshot() -> None:
    name = "r" * 250
    source = SchoolSource(*students(10))
    broker = MemoryBroker()
    async with cluster(member(broker, source, name=name)):
        async with cluster(member(broker, source, name=name)) as (second,):
            assert second.content == source.rows
            stats = second.repository.stats
            assert (stats.snapshots, stats.full_loads) == (1, 0)


class NoDelete(Source[int, Student]):
    """Has all verbs but one, of which only the protocol's stub is there."""

    async def load(self, key: int, /) -> Student | None:
        return None

    async def load_many(self, keys: Sequence[int], /) -> Iterable[Student]:
        return []

    async def load_all(self) -> AsyncIterator[Iterable[Student]]:
        yield [ADA]

    async def create(self, entity: Student, /) -> Student:
        return entity

    async def update(self, entity: Student, /) -> Student:
        return entity


async def test_a_stub_that_is_only_inherited_is_no_verb() -> None:
    source: Any = NoDelete  # type checkers see that something is missing
    with pytest.raises(ConfigurationError, match="the source has no delete"):
        repository(source())
    async with repository(source(), read_only=True) as repo:
        assert dict(repo.items()) == {1: ADA}


class LoadAllOnce(SchoolSource):
    async def load_all(self) -> Any:  # type: ignore[override]
        return list(self.rows.values())


@pytest.mark.parametrize("preload", [True, False])
def test_load_all_as_a_coroutine(preload: bool) -> None:
    with pytest.raises(ConfigurationError, match=r"load_all .* must be an async generator"):
        repository(LoadAllOnce(ADA), preload=preload)


async def test_what_is_no_source() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    try:
        for wrong in (
            SQLAlchemySource,
            SchoolSource,
            engine,
            engine.sync_engine,
            None,
            "sqlite://",
        ):
            with pytest.raises(ConfigurationError, match=r"is no source; pass e\.g\."):
                repository(wrong)
    finally:
        await engine.dispose()


# -- what is asked, and what is answered -----------------------------------------------------------


async def test_a_remembered_miss_is_not_good_enough_for_max_staleness() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False, missing_ttl=60) as repo:
        assert await repo.get(2) is None
        source.put(BOB)
        assert await repo.get(2) is None
        assert source.calls == {"load": 1}
        assert await repo.get(2, max_staleness=0.0) == BOB
        assert await repo.get(2) == BOB
        assert source.calls == {"load": 2}


@pytest.mark.parametrize("order", [[1, 2, 3], [2, 1, 3], [3, 1, 2]], ids=str)
async def test_one_bad_row_does_not_keep_the_others_from_being_repaired(order: list[int]) -> None:
    source = SchoolSource(ADA, BOB, EVE)
    async with repository(source) as repo:
        source.put(
            dataclasses.replace(ADA, name="Ada L.", version=2),
            dataclasses.replace(BOB, name="Bob M.", version=-1),
            dataclasses.replace(EVE, name="Eve N.", version=2),
        )
        session_of(repo).upkeep.doubt(order)
        await eventually(lambda: (repo.peek(1), repo.peek(3)) == (source.rows[1], source.rows[3]))
        await eventually(lambda: list(repo.quarantined) == [2])
        assert repo.peek(2) == BOB
        assert repo.stats.load_failures == 0
        assert session_of(repo).upkeep.clean
        source.put(dataclasses.replace(BOB, name="Bob M.", version=2))
        await repo.invalidate(2)
        assert repo.peek(2) == source.rows[2]
        await eventually(lambda: repo.state == "ready")
        assert session_of(repo).upkeep.clean


async def test_refresh_tells_the_siblings_while_a_gap_is_pending() -> None:
    source = SchoolSource(ADA, BOB)
    broker = MemoryBroker()
    async with cluster(member(broker, source), member(broker, source)) as members:
        one, other = members
        loads = other.repository.stats.full_loads
        source.put(dataclasses.replace(ADA, name="Ada L.", version=2))
        del source.rows[2]
        session_of(one.repository).lost("for this test")
        assert one.repository.state == "degraded"
        await soon(one.repository.refresh())
        assert one.content == source.rows
        await until_all_hold(members, source)
        stats = other.repository.stats
        assert (stats.applied, stats.full_loads, stats.loads) == (2, loads, 0)


async def test_a_repository_iterates_over_its_keys() -> None:
    async with repository(SchoolSource(ADA, BOB)) as repo:
        assert list(repo) == [1, 2]
        assert set(repo) == set(repo.keys())
    async with repository(SchoolSource(ADA, BOB), preload=False) as repo:
        assert list(repo) == []
        await repo.get(2)
        assert list(repo) == [2]


# -- rows of a bootstrap function ------------------------------------------------------------------

OLD = Student(1, "Ada, of old", version=1)


async def test_rows_of_a_bootstrap_function_do_not_pass_for_fresh() -> None:
    async def fallback(repo: object) -> AsyncIterator[Student]:
        yield OLD

    source, good = SchoolSource(ADA, BOB), SchoolSource(ADA, BOB)
    source.failure = OSError("away")
    broker = MemoryBroker()
    async with cluster(
        member(broker, source, bootstrap=("sibling", "source", fallback))
    ) as members:
        (one,) = members
        assert one.content == {1: OLD}
        assert await one.repository.get(1) == OLD
        assert one.repository.info().data_age is None
        with pytest.raises(TooStaleError, match="key 1"):
            await soon(one.repository.get(1, max_staleness=60))
        await eventually(lambda: one.repository.state == "degraded")
        async with cluster(member(broker, good)) as (second,):
            assert second.content == good.rows
            stats = second.repository.stats
            assert (stats.snapshots, stats.full_loads) == (0, 1)
        source.failure = None
        await until_all_hold(members, source)
        await eventually(lambda: one.repository.state == "ready")
        assert one.repository.info().data_age is not None
        assert await one.repository.get(1, max_staleness=60) == ADA


async def test_rows_of_a_bootstrap_function_are_not_clean_while_the_source_is_asked() -> None:
    gates: list[Gate] = []

    async def fallback(repo: object) -> AsyncIterator[Student]:
        gates.append(source.hold("load_all"))  # from now on it hangs
        yield OLD

    source, good = SchoolSource(ADA, BOB), SchoolSource(ADA, BOB)
    source.failure = OSError("away")
    broker = MemoryBroker()
    async with cluster(
        member(broker, source, bootstrap=("sibling", "source", fallback))
    ) as members:
        (one,) = members
        source.failure = None
        await eventually(lambda: gates[0].entered)
        assert one.content == {1: OLD}
        assert one.repository.state == "degraded"
        assert one.node.status()["repositories"]["Student"]["clean"] is False
        async with cluster(member(broker, good)) as (second,):
            assert second.content == good.rows
            assert second.repository.stats.snapshots == 0
        del source.gates["load_all"]
        gates[0].open()
        await until_all_hold(members, source)
        await eventually(lambda: one.repository.state == "ready")


# -- ages, on demand -------------------------------------------------------------------------------


async def test_rows_that_siblings_have_deleted_take_no_place() -> None:
    source = SchoolSource(*students(10))
    broker = MemoryBroker()
    async with cluster(
        member(broker, source, preload=False, max_entries=3),
        member(broker, source, preload=False),
    ) as (one, other):
        await eventually(lambda: len(one.node.members) == len(other.node.members) == 2)
        for key in (1, 2, 3):
            await one.repository.get(key)
        for key in (2, 3):
            await other.repository.delete(key)
        await eventually(lambda: list(one.repository) == [1])
        for key in (4, 5):
            await one.repository.get(key)
        assert sorted(one.repository) == [1, 4, 5]
        assert one.repository.stats.evictions == 0
        await one.repository.get(6)
        assert len(one.repository) == 3
        assert one.repository.stats.evictions == 1


@pytest.mark.parametrize("max_entries", [None, 5])
async def test_ages_do_not_grow_without_bound(
    max_entries: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_demand_module, "SURPLUS", 10)
    source = SchoolSource(*students(200))
    async with repository(source, preload=False, max_entries=max_entries) as repo:
        most = 0
        for key in source.rows:
            assert await repo.get(key) is not None
            await repo.invalidate(key)
            most = max(most, len(session_of(repo).ages))
        assert len(repo) == 0
        assert most <= 2 * 1 + 10
        await repo.get_many([1, 2, 3])
        assert sorted(repo) == [1, 2, 3]
        assert repo.stats.evictions == 0


async def test_rows_that_a_raced_write_has_read_again_keep_to_max_entries() -> None:
    school = SlowAnswer(*(Student(key, f"student {key}") for key in range(1, 6)))
    async with repository(school, preload=False, version=None, max_entries=1) as repo:

        async def raced(key: int) -> None:
            await repo.get(key)
            gate = school.hold("answer")
            writing = asyncio.create_task(repo.update(Student(key, "written")))
            await eventually(lambda: gate.entered)
            await repo.invalidate(key)
            gate.open()
            await soon(writing)

        await raced(1)
        await raced(2)
        assert len(repo) <= 1
        assert await soon(repo.get(3)) == school.rows[3]
        assert list(repo) == [3]


# -- entities that are too large -------------------------------------------------------------------


@pytest.mark.parametrize("preload", [True, False])
async def test_an_entity_that_is_too_large_is_not_committed(preload: bool) -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=preload) as repo:
        await repo.get(1)
        with pytest.raises(InvalidEntityError, match="4,194,304 are the limit"):
            await repo.create(Student(2, "x" * MAX_CONTENT))
        with pytest.raises(InvalidEntityError, match="4,194,304 are the limit"):
            await repo.update(dataclasses.replace(ADA, name="x" * MAX_CONTENT))
        assert source.rows == {1: ADA} == dict(repo.items())
        assert not source.calls["create"] + source.calls["update"]
        assert repo.stats.writes == 0
        large = await repo.create(Student(2, "x" * (MAX_CONTENT - 100)))
        assert repo.peek(2) == large


async def test_a_row_that_is_too_large_is_not_in_the_error_as_a_whole() -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:
        source.rows[2] = Student(2, "x" * MAX_CONTENT)
        await repo.refresh()
        assert "4,194,304 are the limit" in repo.quarantined[2]
        assert len(repo.quarantined[2]) < 1_000
        assert len(repo.causes["rows"]) < 1_000


# -- copies ----------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Uncopied:
    id: int

    def __deepcopy__(self, memo: dict[int, object]) -> object:
        raise TypeError("not to be copied")


async def test_an_entity_that_cannot_be_copied_is_not_taken_for_a_bad_key() -> None:
    async def load_all() -> list[Uncopied]:
        return [Uncopied(1)]

    source: FunctionSource[int, Uncopied] = FunctionSource(load_all=load_all)
    async with Repository(Uncopied, source=source, read_only=True, copy=True) as repo:
        with pytest.raises(TypeError, match=r"^not to be copied$"):
            repo.peek(1)
        with pytest.raises(TypeError, match=r"^not to be copied$"):
            await repo.get_many([1])


# -- a source that is back -------------------------------------------------------------------------


async def test_that_the_source_is_back_is_found_out_though_nobody_reads_it() -> None:
    source, broker = SchoolSource(ADA, BOB), MemoryBroker()
    one, other = member(broker, source), member(broker, source)
    async with cluster(one, other):
        source.failure = OSError("away")
        with pytest.raises(DollopError):
            await one.repository.refresh()
        assert one.repository.causes.keys() == {"source"}
        source.failure = None
        await (
            other.repository.refresh()
        )  # of which one takes the differences, and has nothing to read itself
        loads = one.repository.stats.full_loads
        await eventually(lambda: one.repository.state == "ready")
        assert one.repository.stats.full_loads == loads  # one row was enough to see it


async def test_on_demand_a_row_that_is_held_shows_that_the_source_is_back() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False) as repo:
        await repo.get(1)
        source.failure = OSError("away")
        with pytest.raises(DollopError):
            await repo.get(2)
        assert repo.state == "degraded"
        source.failure = None
        await eventually(lambda: repo.state == "ready")


async def test_a_source_that_only_has_everything_is_asked_for_everything() -> None:
    source = SchoolSource(ADA)
    whole = FunctionSource[int, Student](load_all=source.load_all)
    async with Repository(
        Student, source=whole, read_only=True, ttl=None, retry_after=0.02
    ) as repo:
        source.failure = OSError("away")
        with pytest.raises(DollopError):
            await repo.refresh()
        source.failure = None
        await eventually(lambda: repo.state == "ready")


class Broken(SchoolSource):
    """Rows can be read one by one; all of them cannot while it is `broken`."""

    broken = False

    async def load_all(self) -> AsyncIterator[Iterable[Student]]:
        async for chunk in super().load_all():
            if self.broken:
                raise OSError("too much for it")
            yield chunk


async def test_that_one_row_can_be_read_does_not_make_up_for_a_load_that_failed() -> None:
    source = Broken(ADA)
    async with repository(source, ttl=0.03, jitter=0.0, retry_after=0.01) as repo:
        source.broken = True
        await eventually(lambda: repo.state == "degraded")
        loads, seen = repo.stats.full_loads, set[str]()

        async def watched() -> None:
            while repo.stats.full_loads < loads + 4:
                seen.add(repo.state)
                await repo.update(dataclasses.replace(source.rows[1], name="A"))
                await repo.invalidate(1)

        await soon(watched())
        assert seen == {"degraded"}
        source.broken = False
        await eventually(lambda: repo.state == "ready")


async def test_a_load_that_failed_is_made_again_though_nothing_is_due() -> None:
    source = Broken(ADA)
    async with repository(source) as repo:
        source.broken = True
        with pytest.raises(DollopError):
            await repo.refresh()
        source.broken = False
        await eventually(lambda: repo.state == "ready")
        assert repo.stats.full_loads == 3  # to fill it, the one that failed, and once more
        assert repo.stats.loads == 0


# -- what is counted -------------------------------------------------------------------------------


async def test_rows_older_than_ttl_are_counted_as_such() -> None:
    source = SchoolSource(ADA, BOB)
    async with repository(source, ttl=0.05, jitter=0.0) as repo:
        await repo.get(1)
        source.failure = OSError("away")
        await eventually(lambda: repo.info().stale_since is not None)
        await eventually(lambda: repo.state == "degraded")
        hits = repo.stats.hits
        assert await repo.get(1) == ADA
        assert await repo.get_many([1, 2, 9]) == {1: ADA, 2: BOB}
        assert len(await repo.get_all()) == 2
        assert await repo.get(9) is None
        assert repo.stats.hits == hits + 4
        assert repo.stats.stale_served == 4
        source.failure = None
        await repo.refresh()
        before = repo.stats.stale_served
        hits = repo.stats.hits
        assert await repo.get(1) == ADA
        assert (repo.stats.hits, repo.stats.stale_served) == (hits + 1, before)


async def test_rows_are_stale_as_soon_as_they_are_whatever_else_goes_on() -> None:
    source = SchoolSource(ADA)
    async with repository(source, ttl=0.05, jitter=0.0, retry_after=60) as repo:
        source.failure = OSError("away")
        with pytest.raises(DollopError):
            await repo.update(ADA)  # after which nothing is tried for a while
        await eventually(lambda: repo.info().stale_since is not None)
        await settled()
        assert await repo.get(1) == ADA
        assert (repo.stats.hits, repo.stats.stale_served) == (1, 1)


async def test_repairs_are_comparisons_that_something_missing_has_led_to() -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:
        session = repo._session
        assert session is not None
        await repo.refresh()
        assert repo.stats.repairs == 0
        gate = source.hold("load_all")
        session.lost("")  # a broker need not say why
        assert repo.causes.keys() == {"events"}
        assert not session.upkeep.clean
        await eventually(lambda: gate.entered == 1)
        assert repo.causes.keys() == {"events"}
        session.lost("once more, while it compares")
        gate.open()
        await eventually(lambda: repo.state == "ready")
        assert (repo.stats.gaps, repo.stats.repairs) == (2, 2)
        gate = source.hold("load_all")
        refreshing = asyncio.ensure_future(repo.refresh())
        await eventually(lambda: gate.entered == 1)
        await repo.clear()
        gate.open()
        await refreshing
        await eventually(lambda: repo.state == "ready")
        assert (repo.stats.gaps, repo.stats.repairs) == (2, 2)


async def test_reads_of_the_source_are_counted_whoever_makes_them() -> None:
    source = SchoolSource(ADA)
    async with repository(source, preload=False) as repo:
        await repo.delete(1)  # in which version is read first
        assert repo.stats.loads == source.calls["load"] == 1
        assert repo.stats.load_seconds > 0
        source.failure = OSError("away")
        with pytest.raises(DollopError):
            await repo.delete(2)
        assert (repo.stats.loads, repo.stats.load_failures) == (2, 1)
        assert repo.causes.keys() == {"source"}
        for key in ("a", None, 1.5):
            with pytest.raises(InvalidEntityError):
                await repo.get(key)  # type: ignore[arg-type]
        assert (repo.stats.loads, repo.stats.load_failures) == (2, 1)


async def test_a_log_says_something_of_a_broker_that_says_nothing() -> None:
    broker = MemoryBroker()
    one = member(broker, SchoolSource(ADA))
    async with cluster(one):
        with broker.outage(""):
            await eventually(lambda: one.repository.state == "degraded")
            assert one.repository.causes["broker"]


@pytest.mark.parametrize("name", ["", "x" * 257, "a\udcff", 7])
def test_names_that_cannot_be_sent(name: Any) -> None:
    for make in (
        lambda: repository(SchoolSource(), name=name),
        lambda: Node("memory://", namespace=name),
    ):
        with pytest.raises(ConfigurationError, match="1 to 256 characters"):
            make()


async def test_the_state_of_a_node_is_the_worst_of_its_repositories() -> None:
    good, slow, bad = SchoolSource(ADA), SchoolSource(ADA), SchoolSource(ADA)
    bad.failure = OSError("away")
    repositories = [
        repository(source, name=name)
        for name, source in (("good", good), ("slow", slow), ("bad", bad))
    ]
    node = Node("memory://", *repositories, heartbeat=0.05, offer_wait=0.05)
    assert node.state == "closed"
    async with node:
        await eventually(lambda: [one.state for one in repositories] == ["ready", "ready", "cold"])
        assert node.state == "cold"
        bad.failure = None
        await eventually(lambda: node.state == "ready")
        good.failure = OSError("away")
        with pytest.raises(DollopError):
            await repositories[0].refresh()
        assert node.state == "degraded"
        gate = slow.hold("load_all")
        await repositories[1].clear()
        assert repositories[1].state == "loading"
        assert node.state == "loading"
        gate.open()
        await repositories[1].get(1)
