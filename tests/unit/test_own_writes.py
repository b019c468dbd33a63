"""A node shows its own writes, among rivals as well, and after a refusal what the source has."""

from __future__ import annotations

import asyncio
import copy
import dataclasses
import itertools
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any, ClassVar
from weakref import WeakSet

import pytest

from imperfect_dollop import (
    ConflictError,
    EntityExistsError,
    EntityNotFoundError,
    FunctionSource,
    InvalidEntityError,
    LoadTimeoutError,
    Node,
    Repository,
    SourceUnavailableError,
)
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.codecs import EntityCodec
from imperfect_dollop.replica.messages import Event, Events, Kind
from imperfect_dollop.replica.own_writes import Unshown
from imperfect_dollop.replica.stamp import Stamp
from imperfect_dollop.source import SOURCE_VERBS

from .builders import NOW, ROWS, Row, doubts, give, holds, make, reread, stamp, update
from .clockwork import clockwork
from .school import SchoolSource, Student, eventually, repository, settled, soon

ADA = Student(1, "Ada", version=1)
RIVALS = 20


# -- twenty rivals -----------------------------------------------------------------------------------


class SlowTable:
    """One row that many nodes read and write, each call taking `latency` seconds, and the row's states in order."""

    def __init__(self, latency: float, *, versioned: bool) -> None:
        self.states = [Row(1, 1 if versioned else 0, "0")]
        self.latency = latency
        self.versioned = versioned

    async def load(self, key: int, /) -> Row:
        await asyncio.sleep(self.latency / 2)
        row = self.states[-1]
        await asyncio.sleep(self.latency / 2)
        return dataclasses.replace(row)

    async def load_many(self, keys: Sequence[int], /) -> list[Row]:
        return [await self.load(key) for key in keys]

    async def load_all(self) -> AsyncIterator[list[Row]]:
        yield [await self.load(1)]

    async def create(self, row: Row, /) -> Row:
        raise EntityExistsError("the row is there")

    async def update(self, row: Row, /) -> Row:
        await asyncio.sleep(self.latency / 2)
        last = self.states[-1].version
        if self.versioned and row.version != last:
            raise ConflictError("the row has another version", reason="version")
        self.states.append(dataclasses.replace(row, version=last + self.versioned))
        await asyncio.sleep(self.latency / 2)
        return dataclasses.replace(self.states[-1], text=row.text, version=last + self.versioned)

    async def delete(self, key: int, version: int | None, /) -> None:
        raise ConflictError("rows stay", reason="other")

    def place(self, text: str) -> int:
        """The number of the state with this text, from the newest on."""
        return next(
            place for place in reversed(range(len(self.states))) if self.states[place].text == text
        )


@dataclasses.dataclass
class Tally:
    writes: int = 0
    refused: int = 0
    older: int = 0


async def compete(
    table: SlowTable, one: Repository[int, Row], numbers: itertools.count[int], tally: Tally
) -> None:
    """One write, judged: what is shown after it is no older than what the source had when it answered."""
    row = await one.get(1)
    assert row is not None
    text = str(next(numbers))
    try:
        await one.update(dataclasses.replace(row, text=text))
        least = table.place(text)
        tally.writes += 1
    except ConflictError:
        # The state that refused the write was there when the write was refused, half a latency ago at the latest.
        least = table.place(row.text) + 1
        tally.refused += 1
    shown = await one.get(1)
    assert shown is not None
    tally.older += table.place(shown.text) < least


@pytest.mark.parametrize("preload", [True, False], ids=["whole", "on demand"])
@pytest.mark.parametrize("versioned", [True, False], ids=["versioned", "unversioned"])
@clockwork
async def test_update_among_twenty_rivals_returns_when_nothing_older_is_shown(
    versioned: bool, preload: bool
) -> None:
    table, broker = SlowTable(0.002, versioned=versioned), MemoryBroker()
    repositories: list[Repository[int, Row]] = [
        Repository(
            Row,
            source=table,
            version="version" if versioned else None,
            preload=preload,
            hard_timeout=5.0,
        )
        for _ in range(RIVALS)
    ]
    members = [Node(broker, one, heartbeat=0.5) for one in repositories]
    for node in members:
        await node.__aenter__()
    tally, numbers, stop = Tally(), itertools.count(1), asyncio.Event()

    async def writer(one: Repository[int, Row]) -> None:
        while not stop.is_set():
            await compete(table, one, numbers, tally)

    writers = [asyncio.create_task(writer(one)) for one in repositories]
    with broker.outage("maintenance"):
        await asyncio.sleep(0.3)
    await asyncio.sleep(0.4)
    stop.set()
    await asyncio.gather(*writers)
    assert tally.older == 0
    assert tally.writes > RIVALS
    assert bool(tally.refused) is versioned
    for node in members:
        await node.__aexit__(None, None, None)


# -- one write ---------------------------------------------------------------------------------------


class Rival:
    """A node whose events a repository hears: writes of key 1, each built on what the repository holds."""

    def __init__(self, repo: Repository[int, Student]) -> None:
        session = repo._session
        assert session is not None
        self._session, self._name = session, repo.name
        self._numbers = itertools.count(1)

    def says(self, student: Student) -> None:
        replica = self._session.replica
        held = replica.table.stamp(1)
        content = replica.rows.encode(student)
        written = Stamp(student.version, replica.clock.tick(time.time()), "rival")
        event = Event(Kind.UPDATE, replica.keys.encode(1), content, written, held)
        number = next(self._numbers)
        self._session.receive(
            Events("rival", self._name, replica.rows.fingerprint, number, [event])
        )


@pytest.mark.parametrize("preload", [True, False], ids=["whole", "on demand"])
async def test_update_overtaken_during_every_reread_returns_after_one(preload: bool) -> None:
    source = SchoolSource(ADA, versioned=False)
    async with repository(source, version=None, preload=preload) as repo:
        await repo.get(1)
        rival = Rival(repo)
        answer, look = source.hold("update"), source.hold("load", "load_many")
        writing = asyncio.create_task(repo.update(dataclasses.replace(ADA, name="own")))
        await eventually(lambda: answer.entered)
        rival.says(dataclasses.replace(ADA, name="rival 1"))
        answer.open()
        await eventually(lambda: look.entered)
        rival.says(dataclasses.replace(ADA, name="rival 2"))
        reads = source.calls["load"] + source.calls["load_many"]
        assert not writing.done()
        source.gates.clear()
        look.open()
        await soon(writing)
        assert repo.peek(1) == source.rows[1]
        assert source.rows[1].name == "own"
        assert (
            source.calls["load"] + source.calls["load_many"] <= reads + 1
        )  # of the doubt that is left


async def test_update_that_is_not_shown_in_time_raises_and_is_shown_later() -> None:
    source = SchoolSource(ADA)
    async with repository(source, hard_timeout=0.2) as repo:
        rival = Rival(repo)
        answer = source.hold("update")
        writing = asyncio.create_task(repo.update(dataclasses.replace(ADA, name="own")))
        await eventually(lambda: answer.entered)
        rival.says(Student(1, "rival", version=2))
        look = source.hold("load", "load_many")
        answer.open()
        with pytest.raises(LoadTimeoutError) as caught:
            await soon(writing)
        assert caught.value.__notes__ == [
            "The write of key 1 was committed; it is shown when the source answers again."
        ]
        assert source.rows[1].name == "own"
        source.gates.clear()
        look.open()
        await eventually(lambda: repo.peek(1) == source.rows[1])
        await eventually(lambda: repo.state == "ready")


# -- reads that a caller asks for --------------------------------------------------------------------


class Chatter:
    """A source in which each read of a row lets the repository hear of another rival, until it was read often."""

    def __init__(self, repo: Repository[int, Student], source: SchoolSource) -> None:
        self._rival = Rival(repo)
        self._load = source.load
        self.reads = 0
        source.load = self.load  # type: ignore[method-assign]

    async def load(self, key: int, /) -> Student | None:
        found = await self._load(key)
        self.reads += 1
        if self.reads < 10:
            self._rival.says(dataclasses.replace(ADA, name=f"rival {self.reads}"))
        return found


BY_SQL = dataclasses.replace(ADA, name="by SQL", version=0)


async def test_invalidate_overtaken_by_every_event_shows_what_the_source_has() -> None:
    source = SchoolSource(ADA, versioned=False)
    async with repository(source, version=None) as repo:
        source.put(BY_SQL)
        chatter = Chatter(repo, source)
        await soon(repo.invalidate(1))
        assert repo.peek(1) == BY_SQL
        assert chatter.reads <= 3  # two, and one of the doubt that is left


@pytest.mark.parametrize("preload", [True, False], ids=["whole", "on demand"])
async def test_get_that_accepts_no_age_overtaken_by_every_event_returns_what_the_source_has(
    preload: bool,
) -> None:
    source = SchoolSource(ADA, versioned=False)
    async with repository(source, version=None, preload=preload) as repo:
        await repo.get(1)
        source.put(BY_SQL)
        chatter = Chatter(repo, source)
        await asyncio.sleep(0.01)
        assert await soon(repo.get(1, max_staleness=0.001)) == BY_SQL
        assert chatter.reads <= 3


# -- refusals ----------------------------------------------------------------------------------------

NEWER = Student(1, "Ada L.", version=2)


@pytest.mark.parametrize("preload", [True, False], ids=["whole", "on demand"])
async def test_get_after_each_refusal_returns_what_the_source_has(preload: bool) -> None:
    source = SchoolSource(ADA, Student(2, "Bob", version=1))
    async with repository(source, preload=preload) as repo:
        for key in (1, 2, 3):
            await repo.get(key)  # on demand the absence of the third is remembered
        source.put(NEWER, Student(3, "Cy", version=1))
        del source.rows[2]
        with pytest.raises(ConflictError):
            await repo.update(dataclasses.replace(ADA, city="Rome"))
        assert repo.peek(1) == await repo.get(1) == NEWER
        with pytest.raises(EntityNotFoundError):
            await repo.update(Student(2, "Bob", "Rome", version=1))
        assert repo.peek(2) is await repo.get(2) is None
        with pytest.raises(EntityExistsError):
            await repo.create(Student(3, "Cyd"))
        assert await repo.get(3) == source.rows[3]
        assert repo.state == "ready"


async def test_get_after_a_refusal_does_not_join_a_read_from_before_it() -> None:
    source = SchoolSource()
    async with repository(source, preload=False) as repo:
        look = source.hold("load", "load_many")
        early = asyncio.create_task(repo.get(1))
        await eventually(lambda: look.entered)
        source.put(ADA)
        with pytest.raises(EntityExistsError):
            await repo.create(Student(1, "Eve"))
        late = asyncio.create_task(repo.get(1))
        await eventually(lambda: look.entered == 2)
        look.open()
        assert await soon(late) == ADA
        await soon(early)


async def test_refusals_of_concurrent_writes_share_reads() -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:
        source.put(NEWER)
        look = source.hold("load", "load_many")
        writes = [
            asyncio.create_task(repo.update(dataclasses.replace(ADA, name=str(number))))
            for number in range(50)
        ]
        await eventually(lambda: source.calls["update"] == 50)
        await settled()
        look.open()
        outcomes = await soon(asyncio.gather(*writes, return_exceptions=True))
        assert {type(each) for each in outcomes} == {ConflictError}
        assert repo.peek(1) == NEWER
        assert repo.stats.loads == 2


async def test_refusal_whose_reread_fails_is_raised_with_a_note_and_repaired_later() -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:
        source.put(NEWER)
        look = source.hold("load", "load_many")
        writing = asyncio.create_task(repo.update(dataclasses.replace(ADA, name="Ada M.")))
        await eventually(lambda: look.entered)
        source.failure = OSError("away")
        look.open()
        with pytest.raises(ConflictError) as caught:
            await soon(writing)
        [note] = caught.value.__notes__
        assert note.startswith("Nothing was written. Key 1 could not be read again")
        source.failure = None
        await eventually(lambda: repo.peek(1) == NEWER)
        await eventually(lambda: repo.state == "ready")


async def test_refusal_whose_caller_is_cancelled_is_looked_into_all_the_same() -> None:
    source = SchoolSource(ADA)
    async with repository(source) as repo:
        source.put(NEWER)
        look = source.hold("load", "load_many")
        writing = asyncio.create_task(repo.update(dataclasses.replace(ADA, name="Ada M.")))
        await eventually(lambda: look.entered)
        writing.cancel()
        with pytest.raises(asyncio.CancelledError):
            await soon(writing)
        look.open()
        await eventually(lambda: repo.peek(1) == NEWER)
        assert repo.state == "ready"


BIG = Student(2**40, "Eve")


class PickySource(SchoolSource):
    """Refuses to be asked for keys that its column cannot hold."""

    async def load(self, key: int, /) -> Student | None:
        self._check(key)
        return await super().load(key)

    async def create(self, entity: Student, /) -> Student:
        self._check(entity.id)
        return await super().create(entity)

    def _check(self, key: int) -> None:
        if key >= 2**31 and self.failure is None:
            raise InvalidEntityError(f"the column cannot hold the key {key}")


async def test_write_of_a_key_that_the_source_refuses_to_look_for_leaves_nothing_in_doubt() -> None:
    source = PickySource(ADA)
    async with repository(source) as repo:
        with pytest.raises(InvalidEntityError, match="cannot hold the key") as caught:
            await repo.create(BIG)
        assert not getattr(caught.value, "__notes__", [])
        session = repo._session
        assert session is not None
        assert session.upkeep.clean
        await settled()
        assert repo.stats.loads == 1
        assert repo.state == "ready"
        assert await repo.get(BIG.id) is None


async def test_unknown_write_of_a_key_that_the_source_refuses_to_look_for_is_settled() -> None:
    source = PickySource(ADA)
    async with repository(source) as repo:
        source.failure = OSError("the connection broke")
        with pytest.raises(SourceUnavailableError):
            await repo.create(BIG)
        source.failure = None
        session = repo._session
        assert session is not None
        await eventually(lambda: session.upkeep.clean and repo.state == "ready")
        assert await repo.get(BIG.id) is None


# -- rows that were changed in place -----------------------------------------------------------------


@dataclasses.dataclass(frozen=True)
class Setting:
    id: int
    name: str
    values: dict[str, Any] = dataclasses.field(default_factory=dict)


class Settings:
    """A source of one row, which counts what it is asked."""

    def __init__(self) -> None:
        self.row = Setting(1, "colours", {"sky": "blue"})
        self.calls: list[str] = []
        self.failure: Exception | None = None
        self.answer: Callable[[Setting], Setting] = copy.deepcopy

    async def load(self, key: int, /) -> Setting | None:
        self.calls.append("load")
        if self.failure is not None:
            raise self.failure
        return copy.deepcopy(self.row) if key == 1 else None

    async def load_all(self) -> AsyncIterator[list[Setting]]:
        yield [copy.deepcopy(self.row)]

    async def update(self, row: Setting, /) -> Setting:
        self.calls.append("update")
        self.row = copy.deepcopy(row)
        return self.answer(row)

    async def create(self, row: Setting, /) -> Setting:
        raise EntityExistsError(row.id)

    async def delete(self, key: int, version: int | None = None, /) -> None:
        raise EntityNotFoundError(key)


def settings(source: Settings, **more: Any) -> Repository[int, Setting]:
    verbs = {name: getattr(source, name) for name in SOURCE_VERBS if name != "load_many"}
    return Repository(Setting, source=FunctionSource(**verbs), retry_after=0.02, ttl=None, **more)


@pytest.mark.parametrize("preload", [True, False], ids=["whole", "on demand"])
async def test_update_made_from_a_row_changed_in_place_is_refused_before_the_source_is_called(
    preload: bool,
) -> None:
    source = Settings()
    async with settings(source, preload=preload) as repo:
        row = await repo.get(1)
        assert row is not None
        row.values["sky"] = "green"
        with pytest.raises(InvalidEntityError, match=r"key 1 was refused .* changed in place"):
            await repo.update(dataclasses.replace(row, name="colors"))
        assert "update" not in source.calls
        assert source.row == Setting(1, "colours", {"sky": "blue"})
        assert await repo.get(1) == source.row
        assert repo.stats.mutated == 1
        await settled()
        assert source.calls.count("load") == (1 if preload else 2)
        again = await repo.get(1)
        assert again is not None
        stored = await repo.update(dataclasses.replace(again, name="colors"))
        assert stored == source.row == Setting(1, "colors", {"sky": "blue"})


async def test_update_refused_for_a_row_changed_in_place_says_if_the_row_cannot_be_read() -> None:
    source = Settings()
    async with settings(source) as repo:
        repo[1].values["sky"] = "green"
        source.failure = OSError("away")
        with pytest.raises(InvalidEntityError) as caught:
            await repo.update(repo[1])
        [note] = caught.value.__notes__
        assert note.startswith("Key 1 could not be read again")
        source.failure = None
        await eventually(lambda: repo.peek(1) == source.row)
        assert source.calls.count("update") == 0


async def test_update_made_from_a_changed_copy_is_written_with_copy() -> None:
    source = Settings()
    async with settings(source, copy=True) as repo:
        row = repo[1]
        row.values["sky"] = "green"
        await repo.update(row)
        assert repo[1] == source.row == Setting(1, "colours", {"sky": "green"})
        assert repo.stats.mutated == 0


# -- what is checked before and after the source's answer --------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Loner:
    """Equal to its copies, unless it was marked: marks do not travel."""

    id: int
    name: str
    marks: ClassVar[WeakSet[Loner]] = WeakSet()

    def marked(self) -> Loner:
        self.marks.add(self)
        return self

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Loner) or self.name != other.name:
            return False
        return self is other or not any(one is each for each in self.marks for one in (self, other))

    def __hash__(self) -> int:
        return hash(self.id)


def loners(
    rows: dict[int, Loner], calls: list[str], stores: Callable[[Loner], Loner]
) -> Repository[int, Loner]:
    async def load(key: int) -> Loner | None:
        return rows.get(key)

    async def load_all() -> list[Loner]:
        return list(rows.values())

    async def write(row: Loner) -> Loner:
        calls.append(row.name)
        rows[row.id] = row
        return stores(row)

    async def delete(key: int) -> None:
        del rows[key]

    source = FunctionSource(load=load, load_all=load_all, create=write, update=write, delete=delete)
    return Repository(Loner, source=source, retry_after=0.02, ttl=None)


@pytest.mark.parametrize("verb", ["create", "update"])
async def test_write_of_an_entity_that_a_sibling_would_hold_differently_calls_no_source(
    verb: str,
) -> None:
    calls: list[str] = []
    async with loners({1: Loner(1, "together")}, calls, lambda row: row) as repo:
        message = rf"Loner: {verb}\(\) was given Loner\(id=1, name='alone'\): a copy of .* would not be equal"
        with pytest.raises(InvalidEntityError, match=message):
            await getattr(repo, verb)(Loner(1, "alone").marked())
        assert calls == []


async def test_row_that_the_source_returns_and_no_sibling_could_hold_is_read_again() -> None:
    rows = {1: Loner(1, "together")}
    async with loners(rows, [], lambda row: Loner(1, "alone").marked()) as repo:
        with pytest.raises(InvalidEntityError, match=r"update\(\) of the source returned Loner"):
            await repo.update(Loner(1, "new"))
        await eventually(lambda: repo.peek(1) == Loner(1, "new"))
        assert repo.state == "ready"


async def test_write_encodes_the_entity_once_if_the_source_returns_the_same_bytes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = Settings()
    async with settings(source) as repo:
        verified: list[Any] = []
        verify = EntityCodec.verify

        def noting(codec: EntityCodec[Any], entity: Any) -> bytes:
            verified.append(entity)
            return verify(codec, entity)

        monkeypatch.setattr(EntityCodec, "verify", noting)
        entity = Setting(1, "colors")
        await repo.update(entity)
        assert verified == [entity]
        source.answer = lambda row: dataclasses.replace(row, name="generated")
        await repo.update(entity)
        assert verified == [entity, entity, Setting(1, "generated")]
        assert repo.peek(1) == Setting(1, "generated")
        session = repo._session
        assert session is not None
        assert session.replica.table.intact(1)


# -- the decisions -----------------------------------------------------------------------------------

S1 = stamp(1, 1)


def test_read_that_events_overtake_is_held_while_an_own_write_waits() -> None:
    replica = make()
    replica.table.put(1, Row(1, 1, "first"), S1)
    write = replica.begin_write(1)
    give(replica, update(Row(1, 1, "rival 1"), 2, S1))
    _, effects = replica.wrote(write, Kind.UPDATE, 1, Row(1, 1, "own"), NOW + 50)
    replica.end_write(write)
    assert doubts(effects) == {1}
    assert not replica.shows(1, write.answered)
    load = replica.begin_load(NOW + 60)
    give(replica, update(Row(1, 1, "rival 2"), 3, stamp(1, 2)))  # a clean successor
    assert holds(replica, Row(1, 1, "rival 1"))
    assert replica.loaded(load, 1, Row(1, 1, "own")) == (False, None)
    replica.end_load(load)
    assert holds(replica, Row(1, 1, "own"))
    assert replica.shows(1, write.answered)
    assert 1 in replica.disputes
    # The read that ends the doubt is told, for the one that was held above was not.
    load = replica.begin_load(NOW + 70)
    counts, event = replica.loaded(load, 1, Row(1, 1, "own"))
    replica.end_load(load)
    assert counts
    assert event is not None
    assert {S1, stamp(1, 2), stamp(1, 3)} - {S1} <= set(event.answers)


def test_read_after_a_refusal_that_events_overtake_is_told_by_the_next_read() -> None:
    replica = make()
    replica.table.put(1, Row(1, 1, "first"), S1)
    write = replica.begin_write(1)
    replica.refused(write, 1, NOW + 50)
    replica.end_write(write)
    load = replica.begin_load(NOW + 60)
    give(replica, update(Row(1, 2, "rival"), 2, S1))
    # Somebody has changed the row by SQL, which no event tells.
    assert replica.loaded(load, 1, Row(1, 3, "by SQL")) == (False, None)
    replica.end_load(load)
    assert holds(replica, Row(1, 3, "by SQL"))
    assert replica.shows(1, write.answered)
    counts, event = reread(replica, 1, Row(1, 3, "by SQL"), 70)
    assert counts
    assert event is not None
    assert event.content == ROWS.encode(Row(1, 3, "by SQL"))


def test_bad_row_that_events_overtake_is_quarantined_while_an_own_write_waits() -> None:
    replica = make()
    replica.table.put(1, Row(1, 1, "first"), S1)
    write = replica.begin_write(1)
    give(replica, update(Row(1, 1, "rival 1"), 2, S1))
    replica.wrote(write, Kind.UPDATE, 1, Row(1, 1, "own"), NOW + 50)
    replica.end_write(write)
    load = replica.begin_load(NOW + 60)
    give(replica, update(Row(1, 1, "rival 2"), 3, stamp(1, 2)))
    assert replica.loaded(load, 1, None, "the text is NULL") == (False, None)
    replica.end_load(load)
    assert replica.table.quarantined == {1: "the text is NULL"}
    assert holds(replica)
    assert replica.shows(1, write.answered)


def test_read_that_began_before_an_own_write_is_not_held() -> None:
    replica = make()
    replica.table.put(1, Row(1, 1, "first"), S1)
    load = replica.begin_load(NOW + 40)
    write = replica.begin_write(1)
    give(replica, update(Row(1, 1, "rival"), 2, S1))
    replica.wrote(write, Kind.UPDATE, 1, Row(1, 1, "own"), NOW + 50)
    assert replica.loaded(load, 1, Row(1, 1, "first")) == (False, None)
    assert holds(replica, Row(1, 1, "rival"))
    assert not replica.shows(1, write.answered)


def test_unshown_read_from_before_the_last_change_does_not_count() -> None:
    unshown: Unshown[int] = Unshown()
    unshown.add(1, 10)
    unshown.add(1, 30)
    assert not unshown.shows(1, 10)
    assert unshown.shows(1, 20)
    unshown.read(1, 20, now=40)
    assert not unshown.waits(1, 10)
    assert unshown.waits(1, 30)
    assert not unshown.shows(1, 35)  # may be older than what the first read found
    assert unshown.shows(1, 41)
    unshown.read(1, 41, now=50)
    assert len(unshown) == 0


def test_unshown_forgets_a_write_whose_caller_no_longer_waits() -> None:
    unshown: Unshown[int] = Unshown()
    unshown.add(1, 10)
    unshown.add(1, 20)
    unshown.drop(1, 20)
    assert unshown.waits(1, 10)
    unshown.drop(1, 10)
    assert 1 not in unshown
