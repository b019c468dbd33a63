"""Nodes of two sources share broker, namespace and the name of a repository: no row crosses, both sides say so."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

import msgspec
import pytest

from imperfect_dollop import Node, SourceMismatchError
from imperfect_dollop.broker import Broker
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.replica.messages import Ask, Events, Heartbeat, Take, decode, encode
from imperfect_dollop.web.health import ready

from .clockwork import clockwork
from .school import (
    Member,
    SchoolSource,
    Student,
    cluster,
    eventually,
    member,
    repository,
    soon,
    students,
    until_all_hold,
)
from .test_node import Lossy

ADA = Student(1, "Ada", version=1)
SECRET = "a secret of sixteen bytes and more"


def source_of(identity: str | None, *rows: Student) -> Any:
    source: Any = SchoolSource(*rows)
    source.identity = identity
    return source


def production() -> Any:
    return source_of("production", *students(30))


def staging() -> Any:
    return source_of("staging", Student(1, "only in staging", version=1))


def node_of(broker: Broker, source: Any, name: str, **given: Any) -> Member:
    settings = {"name": name, **given.pop("node", {})}
    return member(broker, source, node=settings, **given)


@asynccontextmanager
async def two_pairs(
    broker: Broker, one: Any, other: Any, **given: Any
) -> AsyncIterator[tuple[list[Member], list[Member]]]:
    """Two nodes of each source, which have all heard of each other."""
    pairs = [
        [node_of(broker, source, f"{source.identity} {n}", **given) for n in (1, 2)]
        for source in (one, other)
    ]
    members = [*pairs[0], *pairs[1]]
    async with cluster(*members):
        await eventually(lambda: all(len(each.node.members) == 4 for each in members))
        await eventually(lambda: all("identity" in each.repository.causes for each in members))
        yield pairs[0], pairs[1]


def totals(members: Sequence[Member], *names: str) -> dict[str, int]:
    return {name: sum(getattr(each.repository.stats, name) for each in members) for name in names}


def warnings(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


# -- no row crosses -------------------------------------------------------------------------------


@pytest.mark.parametrize("secret", [None, SECRET])
@clockwork
async def test_nodes_of_two_sources_hold_each_their_own_rows(secret: str | None) -> None:
    one, other = production(), staging()
    async with two_pairs(MemoryBroker(), one, other, node={"secret": secret}) as (ours, theirs):
        assert (one.calls["load_all"], other.calls["load_all"]) == (1, 1)
        await ours[0].repository.update(Student(1, "changed", version=1))
        await ours[0].repository.create(Student(99, "new"))
        await ours[1].repository.delete(7)
        await theirs[1].repository.create(Student(50, "new in staging"))
        await until_all_hold(ours, one)
        await until_all_hold(theirs, other)
        await eventually(lambda: all(each.repository._session.agreed for each in [*ours, *theirs]))  # type: ignore[union-attr]
        quiet = totals([*ours, *theirs], "gaps", "doubts", "repairs", "comparisons", "mended")
        assert not any(quiet.values()), quiet
        assert (one.calls["load_all"], other.calls["load_all"]) == (1, 1)
        # Three events of the one and one of the other, at each of the two nodes of the other side.
        await eventually(lambda: totals(theirs, "rejected") == {"rejected": 6})
        await eventually(lambda: totals(ours, "rejected") == {"rejected": 2})
        assert all(each.repository.stats.rejections["identity"] for each in [*ours, *theirs])


@clockwork
async def test_newcomer_takes_its_copy_from_a_node_of_its_own_source() -> None:
    broker, one, other = MemoryBroker(), production(), staging()
    async with two_pairs(broker, one, other) as (ours, theirs):
        async with cluster(node_of(broker, other, "staging 3")) as (newcomer,):
            assert newcomer.content == other.rows
            assert newcomer.repository.stats.snapshots == 1
            assert other.calls["load_all"] == 1
        given = totals(ours, "snapshots_given")["snapshots_given"]
        assert given == 1  # to the other node of the pair
        assert totals(theirs, "snapshots_given") == {"snapshots_given": 2}


@clockwork
async def test_newcomer_whose_siblings_read_another_source_reads_its_own() -> None:
    broker, one, other = MemoryBroker(), production(), staging()
    async with cluster(node_of(broker, one, "production 1")) as (ours,):
        async with cluster(node_of(broker, other, "staging 1")) as (newcomer,):
            assert newcomer.content == other.rows
            assert newcomer.repository.stats.full_loads == 1
            assert newcomer.repository.stats.snapshots == 0
            assert ours.repository.stats.snapshots_given == 0


@clockwork
async def test_refresh_of_one_source_changes_and_loads_nothing_of_the_other() -> None:
    broker, one, other = MemoryBroker(), production(), staging()
    async with two_pairs(broker, one, other) as (ours, theirs):
        one.put(Student(3, "behind everybody's back", version=2))
        await soon(ours[0].repository.refresh())
        await until_all_hold(ours, one)
        await until_all_hold(theirs, other)
        assert one.calls["load_all"] == 2
        assert other.calls["load_all"] == 1
        await soon(theirs[0].repository.clear())
        await until_all_hold(theirs, other)
        assert one.calls["load_all"] == 2
        assert totals(ours, "gaps") == {"gaps": 0}


@clockwork
async def test_on_demand_invalidate_of_one_source_reads_nothing_of_the_other() -> None:
    broker, one, other = MemoryBroker(), production(), staging()
    async with two_pairs(broker, one, other, preload=False) as (ours, theirs):
        for each in (*ours, *theirs):
            await each.repository.get(1)
        before = other.calls["load"]
        await ours[0].repository.invalidate(1)
        await ours[1].repository.update(Student(1, "changed", version=1))
        await eventually(lambda: totals(theirs, "rejected") == {"rejected": 4})
        assert (await ours[0].repository.get(1)) == one.rows[1]
        assert [await each.repository.get(1) for each in theirs] == [other.rows[1]] * 2
        assert other.calls["load"] == before


@clockwork
async def test_lost_event_of_one_source_is_repaired_by_its_own_nodes_only() -> None:
    broker, one, other = Lossy(), production(), staging()
    async with two_pairs(broker, one, other) as (ours, theirs):
        writer = ours[0].node.status()["origin"]

        def of_the_writer(node: str, payload: bytes) -> bool:
            message = decode(payload)
            return isinstance(message, Events) and message.origin == writer and node != writer

        broker.drops = of_the_writer
        await ours[0].repository.update(Student(1, "lost on its way", version=1))
        await ours[0].node.flush()
        await eventually(lambda: broker.dropped >= 3)
        broker.drops = lambda node, payload: False
        await until_all_hold(ours, one)
        assert totals([ours[1]], "gaps") == {"gaps": 1}
        assert totals(theirs, "gaps", "repairs", "comparisons") == {
            "gaps": 0,
            "repairs": 0,
            "comparisons": 0,
        }
        await until_all_hold(theirs, other)
        assert other.calls["load_all"] == 1


@clockwork
async def test_vanished_node_of_another_source_is_looked_after_by_its_own_nodes_only() -> None:
    broker, one, other = Lossy(), production(), staging()
    async with two_pairs(broker, one, other) as (ours, theirs):
        gone = ours[0].node.status()["origin"]
        await asyncio.sleep(1.0)  # or the first load would be recent enough
        broker.drops = lambda node, payload: decode(payload).origin == gone and node != gone
        await eventually(lambda: all(len(each.node.members) == 3 for each in theirs))
        # What it wrote at the last; it goes on itself, and may load as well when it hears of that.
        await eventually(lambda: one.calls["load_all"] >= 2)
        assert [list(_foreign(each).values()) for each in theirs] == [[["production 2"]]] * 2
        assert other.calls["load_all"] == 1
        assert totals(theirs, "gaps") == {"gaps": 0}


@clockwork
async def test_node_that_fills_one_source_lets_the_other_fill_at_once() -> None:
    broker, one, other = MemoryBroker(), production(), staging()
    gate = one.hold("load_all")
    ours = node_of(broker, one, "production 1")
    async with cluster(node_of(broker, other, "staging 1")) as (theirs,):
        async with cluster_of_one_that_waits(ours):
            await eventually(lambda: gate.entered == 1)
            newcomer = node_of(broker, other, "staging 2")
            async with cluster(newcomer):
                assert newcomer.content == other.rows
                assert theirs.content == other.rows
            gate.open()
            await until_all_hold([ours], one)


@asynccontextmanager
async def cluster_of_one_that_waits(one: Member) -> AsyncIterator[None]:
    """Enter a node whose source is held at a gate."""
    entering = asyncio.create_task(one.node.__aenter__())
    try:
        yield
        await soon(entering)
    finally:
        await one.node.__aexit__(None, None, None)


# -- strangers' messages --------------------------------------------------------------------------


@clockwork
async def test_snapshot_and_events_that_a_foreign_node_asks_for_are_not_given() -> None:
    broker, one = MemoryBroker(), production()
    async with cluster(node_of(broker, one, "production 1")) as (ours,):
        await ours.repository.update(Student(1, "changed", version=1))
        await ours.node.flush()
        (seat,) = ours.node._seats
        origin = ours.node.status()["origin"]
        tag = "0123456789abcdef"
        fingerprint = seat.replica.rows.fingerprint
        async with broker.connect(ours.node.namespace, "stranger") as link:
            sent = seat.session.stats.events_resent
            await link.publish(encode(Ask(origin, "Student", 1, 1, tag)))
            take = Take("stranger", origin, "Student", fingerprint, "place", [0], b"", tag)
            await link.publish(encode(take))
            refusal: Any = None
            async for delivery in link.deliveries():
                kind, *fields = msgspec.msgpack.decode(delivery.payload)  # type: ignore[union-attr]
                if kind == "r":
                    refusal = fields
                    break
                assert kind != "e", "events were sent again"
            assert refusal == [origin, "place", "another source"]
            assert seat.session.stats.events_resent == sent
            assert ours.repository.stats.snapshots_given == 0


@clockwork
async def test_heartbeat_tells_the_identity_of_each_repository() -> None:
    broker = MemoryBroker()
    async with cluster(node_of(broker, production(), "production 1")):
        async with broker.connect("default", "listener") as link:
            async for delivery in link.deliveries():
                beat = decode(delivery.payload)  # type: ignore[union-attr]
                assert isinstance(beat, Heartbeat)
                assert [state.identity for state in beat.repositories] == ["production"]
                break


# -- both sides say so ----------------------------------------------------------------------------


def _foreign(one: Member) -> dict[str, list[str]]:
    found = one.node.status()["repositories"]["Student"]["foreign"]
    return {each["identity"]: each["members"] for each in found}


@clockwork
async def test_both_sides_warn_once_for_each_identity_and_say_so_while_it_is_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker, one, other = MemoryBroker(), production(), staging()
    ours = node_of(broker, one, "production 1")
    async with cluster(ours):
        async with cluster(*(node_of(broker, other, f"staging {n}") for n in (1, 2))) as theirs:
            everybody = [ours, *theirs]
            await eventually(lambda: all(len(each.node.members) == 3 for each in everybody))
            await eventually(lambda: _foreign(ours) == {"staging": ["staging 1", "staging 2"]})
            ones = {"production": ["production 1"]}
            await eventually(lambda: [_foreign(each) for each in theirs] == [ones, ones])
            assert ours.node.status()["repositories"]["Student"]["identity"] == "production"
            assert ours.repository.state == "degraded"
            assert ours.repository.causes == {
                "identity": "nothing is exchanged with staging 1, staging 2, which reads staging"
            }
            status, body = ready(ours.node)
            assert status == 200
            assert body["repositories"]["Student"] == {"state": "degraded", "missing": ["identity"]}
        await eventually(lambda: ours.repository.state == "ready")
        assert _foreign(ours) == {}
        async with cluster(node_of(broker, other, "staging 3")):
            await eventually(lambda: _foreign(ours) == {"staging": ["staging 3"]})
    said = [text for text in warnings(caplog) if "another source" in text]
    assert len([text for text in said if text.startswith("production 1")]) == 1
    assert len(said) == 4  # one of each node, whatever the number of members
    assert (
        "here production, there staging" in said[0] or "here staging, there production" in said[0]
    )
    assert all("namespace=" in text and "identity=" in text for text in said)


@clockwork
async def test_node_whose_identity_is_not_known_exchanges_with_everybody() -> None:
    broker = MemoryBroker()
    one, unknown = production(), source_of(None, *students(30))
    async with cluster(node_of(broker, one, "named")) as (named,):
        async with cluster(node_of(broker, unknown, "unnamed")) as (unnamed,):
            assert unnamed.repository.stats.snapshots == 1
            assert _foreign(named) == _foreign(unnamed) == {}


# -- at the start ---------------------------------------------------------------------------------


@clockwork
async def test_start_with_raise_beside_another_source_raises() -> None:
    broker, one, other = MemoryBroker(), production(), staging()
    async with cluster(node_of(broker, one, "production 1")):
        refused = node_of(broker, other, "staging 1", node={"startup": "raise"})
        with pytest.raises(SourceMismatchError) as raised:
            await soon(refused.node.__aenter__())
        for part in ("production 1", "Student", "here staging", "there production", "identity="):
            assert part in str(raised.value)
        assert refused.repository.state == "closed"


@clockwork
async def test_start_with_raise_on_demand_waits_until_siblings_could_be_heard() -> None:
    broker, one, other = MemoryBroker(), production(), staging()
    async with cluster(node_of(broker, one, "production 1", preload=False)):
        refused = node_of(broker, other, "staging 1", node={"startup": "raise"}, preload=False)
        with pytest.raises(SourceMismatchError):
            await soon(refused.node.__aenter__())


@pytest.mark.parametrize("identity", ["production", None])
@clockwork
async def test_start_with_raise_beside_the_same_or_an_unknown_source_succeeds(
    identity: str | None,
) -> None:
    broker, one = MemoryBroker(), production()
    other = source_of(identity, *students(30))
    async with cluster(node_of(broker, one, "production 1")):
        async with cluster(node_of(broker, other, "other", node={"startup": "raise"})) as (joined,):
            assert joined.content == one.rows


@clockwork
async def test_repositories_of_one_node_have_each_their_own_strangers() -> None:
    broker, shared = MemoryBroker(), source_of("shared", ADA)

    def node(name: str, source: Any) -> tuple[Node, Callable[[], dict[str, Any]]]:
        own, common = repository(source), repository(shared, name="common")
        both = Node(broker, own, common, name=name, heartbeat=0.05, offer_wait=0.05)
        return both, lambda: {
            each: both.status()["repositories"][each]["foreign"] for each in ("Student", "common")
        }

    (one, of_one), (other, _) = node("one", production()), node("other", staging())
    async with one, other:
        await eventually(lambda: of_one()["Student"])
        assert of_one()["Student"] == [{"identity": "staging", "members": ["other"]}]
        assert of_one()["common"] == []
        common = one.repositories[1]
        await common.update(Student(1, "Ada Lovelace", version=1))
        await eventually(lambda: other.repositories[1].peek(1) == shared.rows[1])
        assert shared.calls["load_all"] == 1
