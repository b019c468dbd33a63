"""Rows that somebody changes in place: found, put right, and never passed on."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import time
from collections.abc import AsyncIterator, Iterable, Sequence
from typing import Any

import msgspec
import pydantic
import pytest

from imperfect_dollop import FunctionSource, Node, Repository
from imperfect_dollop import scrub as scrub_module
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.codecs import EntityCodec, KeyCodec
from imperfect_dollop.replica.comparison import Comparison
from imperfect_dollop.replica.messages import Chunk, Take, decode_frame, encode
from imperfect_dollop.replica.replica import Replica
from imperfect_dollop.replica.snapshot import Donor, Joiner
from imperfect_dollop.replica.stamp import ABSENT
from imperfect_dollop.replica.table import BUCKETS, Table
from imperfect_dollop.session import Session

from .builders import (
    NOW,
    ROWS,
    Row,
    adds_up,
    batch,
    doubts,
    found,
    give,
    holds,
    load_all,
    make,
    reread,
    stamp,
    update,
)
from .clockwork import clockwork
from .school import eventually, settled, soon

BOTH = (Row(1, 1, "one"), Row(2, 1, "two"))


def spoil(replica: Replica[int, Row], key: int = 1, **changes: Any) -> Row:
    """Change the row in place, which a frozen class forbids only to the honest."""
    row = replica.table.live[key]
    for name, value in (changes or {"text": "mutated"}).items():
        object.__setattr__(row, name, value)
    return row


def loaded(origin: str = "a") -> Replica[int, Row]:
    replica = make(origin)
    load_all(replica, *(dataclasses.replace(row) for row in BOTH))
    return replica


# -- what is noticed -------------------------------------------------------------------------------


@dataclasses.dataclass
class Loose:
    id: int
    tags: list[str]


class Model(pydantic.BaseModel):
    id: int
    tags: list[str]


class Struct(msgspec.Struct):
    id: int
    tags: list[str]


class Fussy(Model):
    @pydantic.field_serializer("tags")
    def known(self, tags: list[str]) -> list[str]:
        return [{"x": "x", "y": "y"}[tag] for tag in tags]


@pytest.mark.parametrize("entity", [Loose, Struct, Model, Fussy])
@pytest.mark.parametrize(
    "change",
    [
        lambda row: row.tags.append("y"),
        lambda row: setattr(row, "id", 7),
        lambda row: setattr(row, "tags", object()),
        lambda row: row.tags.append("of which no serializer knows"),
        lambda row: delattr(row, "tags"),
    ],
    ids=["below the surface", "the key", "no bytes", "a serializer raises", "a field is gone"],
)
@pytest.mark.filterwarnings("ignore:Pydantic serializer warnings")
def test_any_change_in_place_is_noticed(entity: Any, change: Any) -> None:
    table: Table[int, Any] = Table(KeyCodec(int), EntityCodec(entity))
    for key in (1, 2):
        table.put(key, entity(id=key, tags=["x"]), ABSENT)
    assert table.intact(1)
    change(table.live[1])
    assert not table.intact(1)
    assert table.content(1) is None
    assert table.intact(2)
    assert table.same(1, entity(id=1, tags=["x"]))
    assert not table.same(1, None)


def test_what_is_not_there_is_not_intact() -> None:
    table = loaded().table
    table.bury(1, stamp(1, 1))
    assert not table.intact(1)
    assert not table.intact(3)
    with pytest.raises(KeyError):
        table.content(1)


# -- how it is put right ---------------------------------------------------------------------------


@pytest.mark.parametrize("changes", [{"text": "mutated"}, {"text": object()}, {"id": 7}])
def test_a_row_that_is_read_again_is_put_right_and_nobody_told(changes: dict[str, Any]) -> None:
    replica = loaded()
    held, row = replica.table.stamp(1), spoil(replica, **changes)
    assert reread(replica, 1, dataclasses.replace(BOTH[0]), 5) == (True, None)
    assert replica.table.live[1] is not row
    assert holds(replica, *BOTH)
    assert replica.table.stamp(1) == held
    assert adds_up(replica)
    # It was proven then, as any other: what was written before it is no clean successor.
    assert doubts(give(replica, update(Row(1, 2, "older"), 4, held))) == {1}


def test_a_row_that_has_become_in_the_source_what_somebody_made_of_it_is_news_to_all() -> None:
    replica = loaded()
    held = replica.table.stamp(1)
    spoil(replica, text="mutated")
    counts, event = reread(replica, 1, Row(1, 1, "mutated"), 5)
    assert counts
    assert event is not None
    assert (event.base, event.content) == (held, ROWS.encode(Row(1, 1, "mutated")))
    assert adds_up(replica)


def test_a_source_that_hands_out_the_very_object_has_what_it_is_now() -> None:
    replica = loaded()
    row = spoil(replica)
    assert reread(replica, 1, row, 5)[1] is not None
    assert replica.table.intact(1)
    assert adds_up(replica)


def test_a_mutated_row_that_is_gone_goes() -> None:
    replica = loaded()
    spoil(replica, text=object())
    counts, event = reread(replica, 1, None, 5)
    assert counts
    assert event is not None
    assert holds(replica, BOTH[1])
    assert adds_up(replica)


def test_a_complete_load_puts_it_right_and_says_so() -> None:
    replica = loaded()
    held = replica.table.stamp(1)
    spoil(replica)
    load = replica.begin_load(NOW + 5)
    told = [
        event for piece in replica.replace(load, {row.id: row for row in BOTH}) for event in piece
    ]
    replica.end_load(load)
    assert (told, load.altered) == ([], [1])
    assert holds(replica, *BOTH)
    assert replica.table.stamp(1) == held


def test_what_siblings_hold_already_is_no_news_to_a_mutated_row() -> None:
    """An event is compared with the row as it was put in, so that two copies that were equal stay so."""
    replica = loaded()
    spoil(replica, text="mutated")
    sibling = found(1, Row(1, 1, "mutated"), stamp(1, 9), stamp(1, 3))
    assert doubts(give(replica, sibling)) == {1}
    same = found(1, BOTH[0], stamp(1, 10), stamp(1, 3))
    assert doubts(give(replica, same)) == set()
    assert replica.table.stamp(1).time == stamp(1, 10).time


# -- what others are given -------------------------------------------------------------------------


def take(donor: Donor[int, Row]) -> list[bytes]:
    return list(filter(None, donor.frames()))


@pytest.mark.parametrize("text", ["mutated", object()], ids=["other bytes", "no bytes"])
def test_a_donor_gives_nothing_of_a_mutated_row_and_no_footer(text: object) -> None:
    replica = loaded("donor")
    spoil(replica, text=text)
    asked = Take("joiner", "donor", "rows", ROWS.fingerprint, "t", list(range(BUCKETS)))
    donor = Donor(replica, asked, lambda: True)
    frames = take(donor)
    assert donor.altered == [1]
    assert not any(b"mutated" in frame for frame in frames)
    joiner_side = make("joiner")
    joiner_side.go_cold()
    joiner = Joiner(joiner_side)
    joiner.begin("t")
    for frame in frames:
        joiner.take(frame)
    assert joiner.finish(NOW + 5) is None
    # Once it is put right, the joiner goes on with what it has not got.
    reread(replica, 1, BOTH[0], 5)
    again = Take("joiner", "donor", "rows", ROWS.fingerprint, "t2", joiner.begin("t2"))
    for frame in take(Donor(replica, again, lambda: True)):
        joiner.take(frame)
    assert joiner.finish(NOW + 6) == []
    assert holds(joiner_side, *BOTH)


def lying(frames: Iterable[bytes]) -> list[bytes]:
    """As from a donor that looks at nothing: the mutated row, under the stamp of what was put in."""
    changed = []
    for frame in frames:
        content = decode_frame(frame)
        if isinstance(content, Chunk):
            rows = [
                ROWS.encode(Row(1, 1, "mutated")) if ROWS.decode(row).id == 1 else row
                for row in content.live
            ]
            content = msgspec.structs.replace(content, live=rows)
        changed.append(encode(content))
    return changed


def test_a_joiner_refuses_a_copy_with_a_mutated_row() -> None:
    asked = Take("joiner", "donor", "rows", ROWS.fingerprint, "t", list(range(BUCKETS)))
    frames = take(Donor(loaded("donor"), asked, lambda: True))
    for sent, taken in ((lying(frames), None), (frames, [])):
        replica = make("joiner")
        replica.go_cold()
        joiner = Joiner(replica)
        joiner.begin("t")
        for frame in sent:
            joiner.take(frame)
        assert joiner.finish(NOW + 5) == taken


def test_a_comparison_asks_the_source_about_a_mutated_row() -> None:
    """It comes under the stamp that is held, so nobody can say that it is the newer one."""
    one, other = loaded("one"), make("other")
    other.progress.contains({"one": 0})
    for row in BOTH:
        other.table.put(row.id, row, one.table.stamp(row.id))
    other.table.put(9, Row(9), stamp(1, 1))  # so that there is a difference in its bucket
    comparison = Comparison(one, "t", NOW + 5)
    asked = Take("one", "other", "rows", ROWS.fingerprint, "t", list(range(BUCKETS)))
    for frame in lying(take(Donor(other, asked, lambda: True))):
        comparison.take(frame)
    effects = comparison.finish(NOW + 6)
    comparison.close()
    assert effects is not None
    assert 1 in doubts(effects)
    assert one.table.live[1] == BOTH[0]


def test_a_mutated_row_is_no_difference_to_a_sibling_that_has_it_as_it_was() -> None:
    one, other = loaded("one"), make("other")
    for row in BOTH:
        other.table.put(row.id, row, one.table.stamp(row.id))
    spoil(one)
    comparison = Comparison(one, "t", NOW + 5)
    asked = Take("one", "other", "rows", ROWS.fingerprint, "t", list(range(BUCKETS)))
    for frame in take(Donor(other, asked, lambda: True)):
        comparison.take(frame)
    assert comparison.finish(NOW + 6) == []
    comparison.close()
    assert make("z").receive(batch(), NOW) == []


# -- nodes -----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Pupil:
    id: int
    name: str
    version: int = 1


class PupilSource:
    """Hands out copies, as a database does: what is mutated in memory changes nothing here."""

    def __init__(self, count: int = 3) -> None:
        self.rows = {key: Pupil(key, f"pupil {key}") for key in range(1, count + 1)}
        self.failure: Exception | None = None
        self.reads = 0

    def repository(self, **settings: Any) -> Repository[int, Pupil]:
        source: FunctionSource[int, Pupil] = FunctionSource(
            load_many=self.load_many, load_all=self.load_all
        )
        given: dict[str, Any] = {"version": "version", "ttl": None, "retry_after": 0.02, **settings}
        return Repository(Pupil, source=source, read_only=True, **given)

    async def load_many(self, keys: Sequence[int]) -> list[Pupil]:
        self.reads += 1
        if self.failure is not None:
            raise self.failure
        return [dataclasses.replace(self.rows[key]) for key in keys if key in self.rows]

    async def load_all(self) -> list[Pupil]:
        if self.failure is not None:
            raise self.failure
        return [dataclasses.replace(row) for row in self.rows.values()]


def node_of(broker: MemoryBroker, repository: Repository[int, Pupil], name: str) -> Node:
    return Node(
        broker, repository, name=name, heartbeat=0.05, offer_wait=0.05, shutdown_timeout=1.0
    )


def session_of(repository: Repository[int, Pupil]) -> Session[int, Pupil]:
    session = repository._session
    assert session is not None
    return session


@pytest.fixture
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scrub_module, "PASS_SECONDS", 0.02)


class Three:
    """Nodes a, b and c with a copy each."""

    def __init__(self, source: PupilSource) -> None:
        broker = MemoryBroker()
        self.source = source
        self.repositories = [source.repository() for _ in range(3)]
        self.nodes = [
            node_of(broker, each, name) for each, name in zip(self.repositories, "abc", strict=True)
        ]

    def status(self, place: int) -> dict[str, Any]:
        status: dict[str, Any] = self.nodes[place].status()["repositories"]["Pupil"]
        return status

    @property
    def agree(self) -> list[bool | None]:
        return [self.status(place)["agreed"] for place in range(3)]


@pytest.fixture
async def three() -> AsyncIterator[Three]:
    source = PupilSource()
    three = Three(source)
    opened = []
    try:
        for node in three.nodes:
            await node.__aenter__()
            opened.append(node)
        yield three
    finally:
        for node in opened:
            await node.__aexit__(None, None, None)


@pytest.mark.usefixtures("_often")
async def test_a_mutated_row_is_found_put_right_and_told_to_nobody(
    three: Three, caplog: pytest.LogCaptureFixture
) -> None:
    first, *others = three.repositories
    await eventually(lambda: three.agree == [True] * 3)
    objects = [dict(each.items()) for each in others]
    with caplog.at_level(logging.INFO, "imperfect_dollop"):
        mutated = first[2]
        mutated.name = "mutated"
        await eventually(lambda: first[2] is not mutated)
    assert first[2] == three.source.rows[2]
    assert [each.stats.mutated for each in three.repositories] == [1, 0, 0]
    warned = [each.getMessage() for each in caplog.records if each.levelno >= logging.WARNING]
    assert len(warned) == 1
    assert "a: Pupil: somebody has changed the row of key 2 in place" in warned[0]
    assert "frozen" in warned[0]
    assert "copy=True" in warned[0]
    await settled()
    for each, before in zip(others, objects, strict=True):
        assert all(each[key] is row for key, row in before.items())
        assert each.stats.events_received == 0
    assert three.source.reads == 1


@pytest.mark.usefixtures("_often")
async def test_of_many_in_one_pass_one_is_named_and_all_are_counted(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = PupilSource(50)
    async with source.repository() as repo:
        with caplog.at_level(logging.WARNING, "imperfect_dollop"):
            for row in list(repo.values()):
                row.name = "mutated"
            await eventually(lambda: dict(repo.items()) == source.rows)
        assert repo.stats.mutated == 50
        assert 1 <= len(caplog.records) <= 2  # the pass that was under way, and the next
        assert session_of(repo).upkeep.clean


@pytest.mark.usefixtures("_often")
@clockwork
async def test_every_pass_names_one(caplog: pytest.LogCaptureFixture) -> None:
    source = PupilSource()
    async with source.repository() as repo:
        for key in (1, 2):
            repo[key].name = "mutated"
            await eventually(lambda: dict(repo.items()) == source.rows)
            await asyncio.sleep(2 * scrub_module.PASS_SECONDS)
        said = [each.getMessage() for each in caplog.records if "in place" in each.getMessage()]
        assert [text.partition("key ")[2][0] for text in said] == ["1", "2"]


@pytest.mark.usefixtures("_often")
async def test_while_the_source_is_away_it_is_said_once_and_put_right_when_it_is_back(
    caplog: pytest.LogCaptureFixture,
) -> None:
    source = PupilSource()
    async with source.repository() as repo:
        source.failure = OSError("away")
        repo[1].name = "mutated"
        await eventually(lambda: repo.stats.mutated)
        await eventually(lambda: repo.stats.load_failures > 1)
        await asyncio.sleep(10 * scrub_module.PASS_SECONDS)
        assert repo.stats.mutated == 1
        assert not session_of(repo).upkeep.clean
        said = [each for each in caplog.records if "in place" in each.getMessage()]
        assert len(said) == 1
        source.failure = None
        await eventually(lambda: repo[1] == source.rows[1])


@pytest.mark.usefixtures("_often")
async def test_a_mutated_row_that_the_source_has_no_more_goes() -> None:
    source = PupilSource()
    async with source.repository() as repo:
        del source.rows[1]
        repo[1].name = "mutated"
        await eventually(lambda: 1 not in repo)
        assert dict(repo.items()) == source.rows


@pytest.mark.usefixtures("_often")
async def test_on_demand_held_rows_are_looked_at_too() -> None:
    source = PupilSource()
    async with source.repository(preload=False) as repo:
        row = await soon(repo.get(1))
        assert row is not None
        row.name = "mutated"
        await eventually(lambda: repo.peek(1) == source.rows[1])
        assert repo.stats.mutated == 1
        assert 2 not in session_of(repo).replica.table.live  # nothing else was read for it


async def test_a_refresh_counts_what_it_puts_right() -> None:
    source = PupilSource()
    async with source.repository() as repo:
        repo[1].name = "mutated"
        await soon(repo.refresh())
        assert repo[1] == source.rows[1]
        assert repo.stats.mutated == 1
        assert session_of(repo).upkeep.clean


async def test_a_donor_that_finds_one_puts_it_right_before_it_gives(three: Three) -> None:
    """No pass comes by in these five minutes: the donor itself looks at what it sends."""
    *others, first = three.repositories
    await three.nodes[0].__aexit__(None, None, None)
    await three.nodes[1].__aexit__(None, None, None)
    first[2].name = "mutated"
    for place in (0, 1):
        await three.nodes[place].__aenter__()
        assert dict(three.repositories[place].items()) == three.source.rows
    await eventually(lambda: first[2] == three.source.rows[2])
    assert first.stats.mutated == 1
    assert [each.stats.mutated for each in others] == [0, 0]
    assert three.source.reads == 1


# -- agreement -------------------------------------------------------------------------------------


async def test_agreement_is_lost_on_a_silent_difference_and_regained(three: Three) -> None:
    await eventually(lambda: three.agree == [True] * 3)
    before = [three.status(place) for place in range(3)]
    table = session_of(three.repositories[0]).replica.table
    three.source.failure = OSError("away")  # so that it stays until it was looked at
    table.put(2, Pupil(2, "planted"), table.stamp(2))
    await eventually(lambda: three.agree == [False] * 3)
    for place in range(3):
        status = three.status(place)
        assert status["agreed_since"] is None
        assert status["agreed_at"] > before[place]["agreed_at"] - 0.01  # it stays
        assert three.nodes[place].stats.agreed == {"Pupil": False}
    three.source.failure = None
    await eventually(lambda: three.agree == [True] * 3)
    assert dict(three.repositories[0].items()) == three.source.rows
    for place in range(3):
        status = three.status(place)
        assert status["agreed_since"] > before[place]["agreed_since"]
        assert status["agreed_at"] >= status["agreed_since"]


@pytest.mark.usefixtures("_often")
async def test_a_doubt_of_one_copy_ends_agreement_everywhere(three: Three) -> None:
    await eventually(lambda: three.agree == [True] * 3)
    before = [three.status(place)["agreed_since"] for place in range(3)]
    three.source.failure = OSError("away")
    three.repositories[0][2].name = "mutated"
    await eventually(lambda: three.agree == [False] * 3)
    three.source.failure = None
    await eventually(lambda: three.agree == [True] * 3)
    for place in range(3):
        assert three.status(place)["agreed_since"] > before[place] + 0.02


async def test_a_newcomer_begins_it_anew_and_a_node_that_leaves_does_not(three: Three) -> None:
    await eventually(lambda: three.agree == [True] * 3)
    since = three.status(0)["agreed_since"]
    await three.nodes[2].__aexit__(None, None, None)
    await eventually(lambda: len(three.nodes[0].members) == 2)
    await asyncio.sleep(0.2)
    assert three.status(0)["agreed_since"] == pytest.approx(since, abs=0.01)
    assert three.status(0)["agreed_at"] > since
    await three.nodes[2].__aenter__()
    await eventually(lambda: three.agree == [True] * 3)
    assert three.status(0)["agreed_since"] > since + 0.1


async def test_who_is_alone_agrees_with_itself_and_who_is_cut_off_does_not_know() -> None:
    source, broker = PupilSource(), MemoryBroker()
    node = node_of(broker, source.repository(), "a")
    assert node.stats.agreed == {"Pupil": None}
    async with node:
        await eventually(lambda: node.stats.agreed == {"Pupil": True})
        with broker.outage():
            await eventually(lambda: node.stats.agreed["Pupil"] is None)
            assert node.status()["repositories"]["Pupil"]["agreed_since"] is None
        await eventually(lambda: node.stats.agreed == {"Pupil": True})


async def test_a_clock_that_is_set_does_not_change_for_how_long_they_have_agreed(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    source = PupilSource()
    node = node_of(MemoryBroker(), source.repository(), "a")
    async with node:
        await eventually(lambda: node.stats.agreed == {"Pupil": True})
        wall = time.time
        before = node.status()["repositories"]["Pupil"]["agreed_since"]
        monkeypatch.setattr(time, "time", lambda: wall() + 3_600)
        after = node.status()["repositories"]["Pupil"]["agreed_since"]
        assert after - before == pytest.approx(3_600, abs=0.5)
        monkeypatch.undo()
