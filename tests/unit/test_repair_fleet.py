"""Fleets that miss something: who is asked, what is sent again or compared, and how often the source is read for it."""

from __future__ import annotations

import asyncio
import dataclasses
import functools
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
from msgspec.structs import replace

from imperfect_dollop import DollopError, exchange
from imperfect_dollop import seat as seat_module
from imperfect_dollop.broker import Message
from imperfect_dollop.replica import ring as ring_module
from imperfect_dollop.replica import snapshot as snapshot_module
from imperfect_dollop.replica.messages import Ask, Events, News, Take, decode
from imperfect_dollop.replica.replica import Replica
from imperfect_dollop.replica.snapshot import Donor
from imperfect_dollop.replica.stamp import MAX_DRIFT, at
from imperfect_dollop.seat import VANISHED_BEATS, Seat
from imperfect_dollop.upkeep import Upkeep

from .clockwork import Post, clockwork, now
from .school import Gate, Member, SchoolSource, Student, member, others, settled, students

HEARTBEAT = 1.0


class Tap(Post):
    """`drops` says what does not arrive at the node of an origin."""

    def __init__(self) -> None:
        super().__init__()
        self.drops: Callable[[str, News], bool] = lambda node, message: False
        self.dropped = 0
        self.late: dict[str, float] = {}  # seconds by which everything arrives late, by node
        self.lateness = 0.0  # for the others

    @asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[Any]:
        async with super().connect(namespace, node, after=after) as link:
            put, waiting = link.inbox.put, deque[Any]()

            def putting(delivery: Any) -> None:
                if isinstance(delivery, Message):
                    message = decode(delivery.payload)
                    if self.drops(node, message):
                        self.dropped += 1
                        return
                late = self.late.get(node, self.lateness)
                if not late:
                    put(delivery)
                    return
                waiting.append(delivery)  # timers of one moment keep no order
                asyncio.get_running_loop().call_later(late, lambda: put(waiting.popleft()))

            link.inbox.put = putting
            yield link

    def lose(self, *nodes: Member, of: Member | None = None, number: int | None = None) -> None:
        """These nodes do not get the events of one, or only those with a `number`, when they are first sent."""
        done: set[tuple[str, int]] = set()
        origins = [origin_of(node) for node in nodes]

        def drops(node: str, message: News) -> bool:
            if not isinstance(message, Events) or node not in origins:
                return False
            if of is not None and message.origin != origin_of(of):
                return False
            numbers = range(message.first, message.first + len(message.events))
            if number is not None and number not in numbers:
                return False
            if (node, message.first) in done:
                return False
            done.add((node, message.first))
            return True

        self.drops = drops

    def sent(self, kind: type[News]) -> list[News]:
        return [one for link in self.connections for one in link.taken if isinstance(one, kind)]


async def until(condition: Callable[[], object], seconds: float = 60.0) -> None:
    """Wait until the condition holds, at most for that long by the clock of the loop."""
    deadline = now() + seconds
    while not condition():
        assert now() < deadline, f"did not come about in {seconds:g} s"
        await asyncio.sleep(min(0.05, seconds / 500))


def origin_of(one: Member) -> str:
    return replica_of(one).origin


def seat_of(one: Member) -> Seat:
    (seat,) = one.node._seats
    return seat


def replica_of(one: Member) -> Replica[Any, Any]:
    return seat_of(one).replica


def upkeep_of(one: Member) -> Upkeep[Any, Any]:
    return seat_of(one).session.upkeep


@asynccontextmanager
async def fleet(
    broker: Any, sources: Sequence[Any], **settings: Any
) -> AsyncIterator[list[Member]]:
    """Nodes, one for each source, that know each other, in the order in which they would load."""
    members = [
        member(broker, source, node={"heartbeat": HEARTBEAT, "offer_wait": 0.1}, **settings)
        for source in sources
    ]
    async with AsyncExitStack() as stack:
        for one in members:
            await one.node.__aenter__()
            stack.push_async_callback(leave, one)
        await until(lambda: all(len(one.node.members) == len(members) for one in members))
        await until(lambda: in_step(members))
        await asyncio.sleep(2 * HEARTBEAT)
        yield sorted(members, key=origin_of)


async def leave(one: Member) -> None:
    if one.repository.state != "closed":
        await one.node.__aexit__(None, None, None)


def in_step(members: Sequence[Member]) -> bool:
    """Whether all are, as far as they know, the same and whole."""
    return all(
        one.repository.state == "ready"
        and upkeep_of(one).clean
        and not upkeep_of(one).repairs.wanted
        for one in members
    ) and (len({replica_of(one).table.root for one in members}) == 1)


def equal(members: Sequence[Member], source: SchoolSource) -> bool:
    return in_step(members) and all(one.content == source.rows for one in members)


class Counts:
    """What has been counted of a fleet since."""

    NAMES = (
        *("comparisons", "mended", "events_resent", "full_loads", "loads", "gaps", "repairs"),
        *("snapshots", "snapshot_bytes"),
    )

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._before = self._sums()

    def _sums(self) -> dict[str, float]:
        return {
            name: sum(getattr(one.repository.stats, name) for one in self._members)
            for name in self.NAMES
        }

    def __getattr__(self, name: str) -> float:
        if name not in self.NAMES:
            raise AttributeError(name)
        return self._sums()[name] - self._before[name]

    @property
    def reads(self) -> tuple[float, float]:
        """Of the source: of everything, and of single keys."""
        return self.full_loads, self.loads


async def die(one: Member) -> None:
    """As by SIGKILL: no goodbye, and nothing is sent any more."""
    broker = one.node._broker
    assert isinstance(broker, Post)
    broker.conduct, broker.towards = "swallow", origin_of(one)


def vary(student: Student) -> Student:
    return dataclasses.replace(student, name=student.name + "!", version=student.version)


# -- single events ---------------------------------------------------------------------------------


@pytest.mark.parametrize("last", [False, True], ids=["and more follow", "the last before silence"])
@clockwork
async def test_a_lost_event_is_asked_of_its_sender(last: bool) -> None:
    broker, source = Tap(), SchoolSource(*students(20))
    async with fleet(broker, [source] * 5) as members:
        counts, first = Counts(members), members[0]
        broker.lose(members[3], of=first)
        began = now()
        await first.repository.update(vary(source.rows[1]))
        await until(lambda: broker.dropped)
        broker.drops = lambda node, message: False
        if not last:
            await first.repository.update(vary(source.rows[2]))
        await until(lambda: equal(members, source), 2 * HEARTBEAT)
        assert now() - began < (1.2 if last else 0.2) * HEARTBEAT
        assert counts.reads == (0, 0)
        assert (counts.gaps, counts.comparisons, counts.repairs) == (1, 0, 0)
        assert counts.events_resent == 1


@clockwork
async def test_what_all_have_missed_is_sent_once() -> None:
    broker, source = Tap(), SchoolSource(*students(20))
    async with fleet(broker, [source] * 5) as members:
        counts = Counts(members)
        broker.lose(*members[1:], of=members[0])
        for key in range(1, 6):
            await members[0].repository.update(vary(source.rows[key]))
            await asyncio.sleep(0.01)
        await until(lambda: equal(members, source), 2 * HEARTBEAT)
        assert broker.dropped == 20
        assert counts.reads == (0, 0)
        assert (counts.gaps, counts.comparisons) == (4, 0)
        assert counts.events_resent == 5


@clockwork
async def test_of_ranges_that_overlap_each_event_is_sent_once_in_a_while() -> None:
    broker, source = Tap(), SchoolSource(*students(20))
    async with fleet(broker, [source] * 2) as (one, other):
        for key in range(1, 9):
            await one.repository.update(vary(source.rows[key]))
            await asyncio.sleep(0.01)
        seat = seat_of(one)
        sent = []
        for first, last in ((6, 6), (2, 3), (6, 6), (3, 3), (1, 8), (1, 9), (1, 2**60)):
            seat.missed(Ask(origin_of(one), seat.name, first, last))
            await settled()
            sent.append(one.repository.stats.events_resent)
        assert sent == [1, 3, 3, 3, 8, 8, 8]  # each once, whoever asks for it and with what else
        assert other.repository.stats.duplicates == 8
        await asyncio.sleep(HEARTBEAT)
        seat.missed(Ask(origin_of(one), seat.name, 1, 2**60))
        await settled()
        assert one.repository.stats.events_resent == 8 + 8


@clockwork
async def test_nothing_is_sent_again_for_a_newcomer_that_has_read_before_it_heard() -> None:
    broker, source = Tap(), SchoolSource(*students(20))
    async with fleet(broker, [source] * 2) as members:
        for key in range(1, 9):
            await members[0].repository.update(vary(source.rows[key]))
        await asyncio.sleep(HEARTBEAT)
        counts, newcomer = Counts(members), member(broker, source, preload=False)
        broker.lateness = 0.02
        async with newcomer.node:
            assert await newcomer.repository.get(1) == source.rows[1]
            assert not replica_of(newcomer).progress.vector
            await asyncio.sleep(3 * HEARTBEAT)
            assert replica_of(newcomer).progress.last(origin_of(members[0])) == 8
        assert counts.events_resent == 0
        assert not broker.sent(Ask)


@clockwork
async def test_a_sender_that_is_slow_to_answer_is_waited_for_however_often_it_beats() -> None:
    broker, source = Tap(), SchoolSource(*students(20))
    async with fleet(broker, [source] * 3) as members:
        counts, (one, other, _) = Counts(members), members
        broker.lose(other, of=one)
        await one.repository.update(vary(source.rows[1]))
        held: list[Ask] = []
        seat = seat_of(one)
        missed = seat.missed
        seat.missed = held.append  # type: ignore[assignment,method-assign]
        for _ in range(20):  # as when many nodes start
            one.node._membership.beat_now()  # type: ignore[union-attr]
            await asyncio.sleep(0.06)
        assert not replica_of(other).progress.complete
        for ask in held:
            missed(ask)
        await until(lambda: equal(members, source), HEARTBEAT)
        assert (counts.comparisons, counts.reads) == (0, (0, 0))


@clockwork
async def test_a_sender_that_does_not_answer_is_asked_again_and_then_copies_are_compared() -> None:
    broker, source = Tap(), SchoolSource(*students(20))
    async with fleet(broker, [source] * 3) as members:
        counts, (one, other, _) = Counts(members), members
        broker.drops = lambda node, message: (
            isinstance(message, Ask) or (node == origin_of(other) and isinstance(message, Events))
        )
        await one.repository.update(vary(source.rows[1]))
        await until(lambda: equal(members, source), 7 * HEARTBEAT)
        assert len(broker.sent(Ask)) == 2
        assert (counts.comparisons, counts.mended, counts.reads) == (1, 1, (0, 0))


# -- more than the sender has ----------------------------------------------------------------------


async def write_unheard(
    broker: Tap, writer: Member, deaf: Member, source: SchoolSource, *keys: int
) -> None:
    """Updates, each a message of its own, of which one node gets none."""
    broker.lose(deaf)
    for key in keys:
        await writer.repository.update(vary(source.rows[key]))
        await asyncio.sleep(0.01)
    broker.drops = lambda node, message: False


@clockwork
async def test_what_the_sender_has_no_longer_is_found_by_comparing_with_a_sibling() -> None:
    source = SchoolSource(*students(5_000))
    broker = Tap()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ring_module, "RING_EVENTS", 1)
        async with fleet(broker, [source] * 3) as members:
            whole = max(one.repository.stats.snapshot_bytes for one in members)
            counts, (one, _, other) = Counts(members), members
            await write_unheard(broker, one, other, source, 7, 1_700, 4_900)
            await until(lambda: equal(members, source), 3 * HEARTBEAT)
            assert counts.reads == (0, 0)
            assert (counts.comparisons, counts.mended, counts.repairs) == (1, 3, 1)
            # Three buckets of five rows each, and of each chunk what does not depend on them.
            assert counts.snapshot_bytes < whole / 50
            assert counts.snapshots == 0


@clockwork
async def test_a_sibling_that_comes_to_vouch_for_its_copy_between_two_answers_is_asked_anew(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # What both copies lacked when the first was given is in no bucket whose leaves are compared.
    hesitates_towards: list[str] = []

    class Hesitant(Donor[Any, Any]):
        def __init__(self, replica: Any, take: Take, clean: Any, **more: Any) -> None:
            hesitates = take.origin in hesitates_towards
            if hesitates:
                hesitates_towards.remove(take.origin)
            super().__init__(replica, take, lambda: not hesitates and clean(), **more)

    monkeypatch.setattr(seat_module, "Donor", Hesitant)
    monkeypatch.setattr(snapshot_module, "MANY_ROWS", -1)
    monkeypatch.setattr(ring_module, "RING_EVENTS", 1)
    source, broker = SchoolSource(*students(50)), Tap()
    async with fleet(broker, [source] * 2) as members:
        counts, (one, other) = Counts(members), members
        hesitates_towards.append(origin_of(other))
        await write_unheard(broker, one, other, source, 7, 17, 49)
        await until(lambda: equal(members, source), 4 * HEARTBEAT)
        takes = [take for take in broker.sent(Take) if isinstance(take, Take)]
        asked = [take for take in takes if take.digests and take.origin == origin_of(other)]
        assert [bool(take.buckets) for take in asked[:3]] == [False, False, True]
        assert (counts.mended, counts.repairs) == (3, 1)


@clockwork
async def test_what_a_sender_that_has_left_is_asked_no_more() -> None:
    broker, source = Tap(), SchoolSource(*students(20))
    async with fleet(broker, [source] * 3) as members:
        first, other, third = members
        counts = Counts(members[1:])
        broker.lose(other)
        await first.repository.update(vary(source.rows[1]))
        await leave(first)
        await until(lambda: equal([other, third], source), 3 * HEARTBEAT)
        assert counts.reads == (0, 0)
        assert (counts.comparisons, counts.mended) == (1, 1)


@pytest.mark.parametrize("how", ["refused", "unheard"])
@clockwork
async def test_while_no_copy_is_given_a_difference_is_asked_about_and_the_rest_goes_on(
    how: str,
) -> None:
    broker, source = Tap(), SchoolSource(*students(20))
    async with fleet(broker, [source] * 2, ttl=20.0) as (one, two):
        table = replica_of(two).table
        table.put(7, vary(source.rows[7]), table.stamp(7))
        give = Seat._why_not
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Seat, "_why_not", lambda seat, take: "not now")
            if how == "unheard":
                patch.setattr(Seat, "asked", lambda seat, take: None)
            counts = Counts([one, two])
            await asyncio.sleep(101)
            assert counts.full_loads >= 4
        assert Seat._why_not is give
        await until(lambda: equal([one, two], source), exchange.TRANSFER_TIMEOUT + 4 * HEARTBEAT)


# -- nobody has all of it --------------------------------------------------------------------------


@clockwork
async def test_after_an_outage_one_reads_the_source_and_the_others_compare() -> None:
    broker, source = Tap(), SchoolSource(*students(500))
    async with fleet(broker, [source] * 5) as members:
        counts = Counts(members)
        with broker.outage():
            for place, one in enumerate(members):
                await one.repository.update(vary(source.rows[place + 1]))
            source.put(dataclasses.replace(source.rows[100], name="by SQL", version=2))
            await asyncio.sleep(5)
        await until(lambda: equal(members, source), 20 * HEARTBEAT)
        # Each comes back at a moment of its own. Two, if a second one's turn comes before it has heard of the first.
        loads = counts.full_loads
        assert counts.reads[0] == loads in (1, 2)
        assert counts.comparisons == len(members) - loads
        assert counts.snapshot_bytes < 200_000
        await asyncio.sleep(20 * HEARTBEAT)
        assert counts.reads[0] == loads
        assert in_step(members)


@clockwork
async def test_while_the_source_is_away_nobody_is_clean_and_reads_go_on() -> None:
    broker, source = Tap(), SchoolSource(*students(50))
    async with fleet(broker, [source] * 5) as members:
        counts = Counts(members)
        with broker.outage():
            await members[2].repository.update(vary(source.rows[1]))
            source.put(dataclasses.replace(source.rows[9], name="by SQL", version=2))
            source.failure = OSError("away")
            await asyncio.sleep(2)
        await asyncio.sleep(30)
        for one in members:
            assert one.repository.state == "degraded"
            assert (await one.repository.get(3)) == source.rows[3]
        source.failure = None
        before = counts.reads[0]
        await until(lambda: equal(members, source), 60)  # after the longest of the pauses
        assert counts.reads[0] - before <= 2
        await asyncio.sleep(20 * HEARTBEAT)
        assert counts.reads[0] - before <= 2
        assert in_step(members)


@clockwork
async def test_when_the_source_is_back_one_makes_up_for_the_load_that_all_have_failed_at() -> None:
    broker, source = Tap(), SchoolSource(*students(50))
    async with fleet(broker, [source] * 5) as members:
        source.failure = OSError("away")
        for one in members:
            with pytest.raises(DollopError):
                await one.repository.refresh()
        source.failure = None
        counts = Counts(members)
        await until(lambda: in_step(members), 20 * HEARTBEAT)
        assert counts.reads[0] <= 2


# -- what only the source knows --------------------------------------------------------------------


@clockwork
async def test_what_a_member_that_vanished_has_told_nobody_is_found_by_one() -> None:
    broker, source = Tap(), SchoolSource(*students(50))
    async with fleet(broker, [source] * 5) as members:
        await asyncio.sleep(600)  # in which nothing happens
        dead, *alive = members
        await die(dead)
        counts = Counts(alive)
        await dead.repository.create(Student(99, "nobody was told"))
        began = now()
        await until(lambda: equal(alive, source), 30 * HEARTBEAT)
        assert now() - began < 8 * HEARTBEAT
        assert counts.reads[0] == 1
        await asyncio.sleep(30 * HEARTBEAT)
        assert counts.reads == (1, 0)


@clockwork
async def test_who_knows_of_one_that_vanished_may_leave_before_anybody_has_looked() -> None:
    broker, source = Tap(), SchoolSource(*students(50))
    async with fleet(broker, [source] * 2) as members:
        await asyncio.sleep(60)
        first, last = sorted(members, key=origin_of)
        counts = Counts([first])
        source.put(Student(99, "nobody was told"))
        upkeep_of(last).repairs.want(replica_of(last).clock.tick(time.time()))
        await asyncio.sleep(1.5 * HEARTBEAT)  # not yet its turn
        await leave(last)
        await until(lambda: equal([first], source), 5 * HEARTBEAT)
        assert counts.reads == (1, 0)
        assert not upkeep_of(first).repairs.wanted


@clockwork
async def test_a_load_that_is_wanted_from_a_time_on_that_no_clock_has_is_not() -> None:
    source = SchoolSource(*students(50))
    async with fleet(Tap(), [source]) as (one,):
        session = one.repository._session
        assert session is not None
        odd = at(time.time() + 2 * MAX_DRIFT)
        said = replace(session.state_for(["b"], 1), wanted=odd)
        session.heard("b", said, ["b"], all_numbered=True, timely=True)
        assert not session.upkeep.repairs.wanted


@clockwork
async def test_several_that_vanish_at_once_are_one_load() -> None:
    broker, source = Tap(), SchoolSource(*students(50))
    async with fleet(broker, [source] * 5) as members:
        await asyncio.sleep(60)
        gone, alive = members[3:], members[:3]
        broker.drops = lambda node, message: (
            getattr(message, "origin", "") in {origin_of(one) for one in gone}
        )
        counts = Counts(alive)
        await until(lambda: all(len(one.node.members) == 3 for one in alive))
        await asyncio.sleep(30 * HEARTBEAT)
        assert counts.reads == (1, 0)


@clockwork
async def test_one_that_says_goodbye_has_told_all() -> None:
    broker, source = Tap(), SchoolSource(*students(50))
    async with fleet(broker, [source] * 3) as (one, two, three):
        await asyncio.sleep(60)
        await one.repository.update(vary(source.rows[1]))
        counts = Counts([two, three])
        await leave(one)
        await asyncio.sleep(30 * HEARTBEAT)
        assert counts.reads == (0, 0)
        assert equal([two, three], source)


# -- refresh ---------------------------------------------------------------------------------------

TTL = 60.0


@clockwork
async def test_at_ttl_one_reads_the_source_for_all() -> None:
    broker, source = Tap(), SchoolSource(*students(50))
    async with fleet(broker, [source] * 5, ttl=TTL) as members:
        counts = Counts(members)
        for period in range(1, 6):
            source.put(dataclasses.replace(source.rows[period], name="by SQL", version=2))
            await until(lambda: equal(members, source), TTL)
        assert (counts.reads, counts.comparisons) == ((5, 0), 0)


class Own(SchoolSource):
    """Another way to the same rows."""

    def __init__(self, school: SchoolSource) -> None:
        super().__init__()
        self.rows = school.rows


def ways(count: int, rows: int = 50) -> tuple[SchoolSource, list[Own]]:
    school = SchoolSource(*students(rows))
    return school, [Own(school) for _ in range(count)]


def way_of(one: Member, sources: Sequence[Own]) -> Own:
    (found,) = (
        source for source in sources if seat_of(one).session.upkeep._reader.source is source
    )
    return found


@clockwork
async def test_where_the_first_in_line_cannot_read_the_source_the_next_does() -> None:
    broker = Tap()
    school, sources = ways(5)
    async with fleet(broker, sources, ttl=TTL) as members:
        first = way_of(members[0], sources)
        first.failure = OSError("no route")
        counts, good = Counts(members), Counts(members[1:])
        for period in range(1, 6):
            school.put(dataclasses.replace(school.rows[period], name="by SQL", version=2))
            await until(
                lambda: all(one.content == school.rows for one in members), TTL + 6 * HEARTBEAT
            )
        assert good.full_loads == 5
        assert counts.comparisons == 0
        assert members[0].repository.state == "degraded"
        first.failure = None
        await until(lambda: in_step(members), 2 * TTL)


@clockwork
async def test_one_that_dies_in_the_middle_of_its_load_costs_one_more() -> None:
    broker = Tap()
    school, sources = ways(5)
    async with fleet(broker, sources, ttl=TTL, jitter=0.0) as members:
        first, *alive = members
        gate = way_of(first, sources).hold("load_all")
        counts = Counts(alive)
        await until(lambda: gate.entered, 2 * TTL)
        school.put(dataclasses.replace(school.rows[1], name="by SQL", version=2))
        await die(first)
        await until(lambda: equal(alive, school), 15 * HEARTBEAT)
        assert counts.reads[0] == 1  # and the one that hangs
        await asyncio.sleep(TTL / 2)
        assert counts.reads[0] == 1
        gate.open()


@clockwork
async def test_a_load_that_hangs_does_not_keep_the_fleet_stale() -> None:
    broker = Tap()
    school, sources = ways(5)
    async with fleet(broker, sources, ttl=TTL, jitter=0.0, hard_timeout=10.0) as members:
        first, *rest = members
        gate, counts = way_of(first, sources).hold("load_all"), Counts(rest)
        await until(lambda: gate.entered, 2 * TTL)
        school.put(dataclasses.replace(school.rows[1], name="by SQL", version=2))
        await until(lambda: all(one.content == school.rows for one in members), 20.0)
        assert counts.full_loads == 1
        way_of(first, sources).gates.clear()
        gate.open()


@clockwork
async def test_everybody_may_ask_for_a_refresh_at_once() -> None:
    broker, source = Tap(), SchoolSource(*students(50))
    async with fleet(broker, [source] * 5, ttl=TTL) as members:
        counts = Counts(members)
        source.put(dataclasses.replace(source.rows[1], name="by SQL", version=2))
        await asyncio.gather(*(one.repository.refresh() for one in members))
        assert all(one.content == source.rows for one in members)
        await until(lambda: in_step(members), 5 * HEARTBEAT)
        await asyncio.sleep(10)
        assert counts.reads[0] <= 10
        assert equal(members, source)


@clockwork
async def test_without_a_broker_each_refreshes_itself() -> None:
    broker, source = Tap(), SchoolSource(*students(50))
    async with fleet(broker, [source] * 3, ttl=TTL) as members:
        with broker.outage():
            source.put(dataclasses.replace(source.rows[1], name="by SQL", version=2))
            counts = Counts(members)
            await asyncio.sleep(
                TTL + 10
            )  # those behind had meant to give the first in line its time
            assert all(one.content == source.rows for one in members)
            assert counts.reads[0] == 3
        await until(lambda: equal(members, source), 20 * HEARTBEAT)


# -- what differs and nobody knows -----------------------------------------------------------------


@clockwork
async def test_a_difference_that_came_silently_is_found_by_heartbeats() -> None:
    broker, source = Tap(), SchoolSource(*students(2_000))
    async with fleet(broker, [source] * 5) as members:
        counts, odd = Counts(members), members[2]
        table = replica_of(odd).table
        table.put(7, dataclasses.replace(source.rows[7], name="planted"), table.stamp(7))
        await until(lambda: equal(members, source), 6 * HEARTBEAT)
        assert counts.reads[0] == 0
        assert 1 <= counts.loads <= 5  # at most one of each
        assert 1 <= counts.comparisons <= 5
        await asyncio.sleep(10)
        assert counts.loads <= 5


@clockwork
async def test_a_row_that_one_has_lost_and_one_that_it_has_too_many() -> None:
    broker, source = Tap(), SchoolSource(*students(200))
    async with fleet(broker, [source] * 2) as members:
        counts, table = Counts(members), replica_of(members[1]).table
        table.forget(7)
        table.put(999, Student(999, "of nobody", version=1), table.stamp(8))
        await until(lambda: equal(members, source), 6 * HEARTBEAT)
        assert counts.reads[0] == 0
        assert counts.loads <= 4


@clockwork
async def test_two_that_have_missed_the_same_do_not_vouch_for_each_other() -> None:
    """Of what its sender was the only one to have."""
    broker, source = Tap(), SchoolSource(*students(50))
    async with fleet(broker, [source] * 3) as members:
        dead, *alive = members
        broker.drops = lambda node, message: (
            isinstance(message, Events)
            and message.origin == origin_of(dead)
            and node != origin_of(dead)
        )
        await dead.repository.update(vary(source.rows[1]))
        await until(lambda: not any(replica_of(one).progress.complete for one in alive))
        await die(dead)
        counts = Counts(alive)
        await until(lambda: equal(alive, source), 10 * HEARTBEAT)
        assert counts.reads[0] == 1


# -- while other things go on ----------------------------------------------------------------------


def miss_something(broker: Tap, one: Member) -> None:
    """It knows that something is missing, and not what."""
    seat_of(one).session.lost("for this test")


@clockwork
async def test_writes_go_on_while_copies_are_compared() -> None:
    broker, source = Tap(), SchoolSource(*students(2_000))
    async with fleet(broker, [source] * 3) as members:
        stop = asyncio.Event()

        async def write(one: Member, keys: range) -> None:
            while not stop.is_set():
                for key in keys:
                    await one.repository.update(vary(one.repository[key]))
                    await asyncio.sleep(0.002)

        writing = [
            asyncio.create_task(write(one, range(1 + 100 * n, 50 + 100 * n)))
            for n, one in enumerate(members)
        ]
        await asyncio.sleep(0.5)
        counts = Counts(members)
        for _ in range(5):
            miss_something(broker, members[1])
            await until(lambda: upkeep_of(members[1]).repairs.known is None, 5)
            await asyncio.sleep(0.1)
        stop.set()
        await asyncio.gather(*writing)
        await until(lambda: equal(members, source), 5 * HEARTBEAT)
        assert counts.reads[0] == 0
        assert 5 <= counts.comparisons <= 8  # each once: none of them has led to another


@clockwork
async def test_what_is_only_late_is_not_missed_when_copies_are_compared() -> None:
    broker, source = Tap(), SchoolSource(*students(200))
    async with fleet(broker, [source] * 3) as members:
        one, other, third = members
        broker.late[origin_of(one)] = 0.4  # what copies are compared by is not

        async def write(writer: Member, key: int) -> None:
            for _ in range(300):
                await writer.repository.update(vary(writer.repository[key]))
                await asyncio.sleep(0.01)

        writing = [asyncio.create_task(write(other, 1)), asyncio.create_task(write(third, 2))]
        await asyncio.sleep(1)
        counts = Counts([one])
        miss_something(broker, one)
        await asyncio.gather(*writing)
        await until(lambda: equal(members, source), 5 * HEARTBEAT)
        assert (counts.gaps, counts.comparisons, counts.full_loads) == (1, 1, 0)
        assert counts.loads == 0


@clockwork
async def test_a_complete_load_has_what_was_missing_when_it_began() -> None:
    broker, source = Tap(), SchoolSource(*students(20))
    async with fleet(broker, [source] * 2) as (one, other):
        broker.drops = lambda node, message: (
            isinstance(message, Ask) or (node == origin_of(other) and isinstance(message, Events))
        )
        await one.repository.update(vary(source.rows[1]))
        await until(lambda: not replica_of(other).progress.complete)
        counts = Counts([one, other])
        await other.repository.refresh()
        assert replica_of(other).progress.complete
        broker.drops = lambda node, message: False
        await asyncio.sleep(10 * HEARTBEAT)
        assert equal([one, other], source)
        assert (counts.comparisons, counts.full_loads) == (0, 1)


@clockwork
async def test_everything_is_dropped_while_copies_are_compared() -> None:
    broker, source = Tap(), SchoolSource(*students(200))
    async with fleet(broker, [source] * 3) as members:
        one, other, _ = members
        gate = Gate()
        comparing = seat_of(one)._take

        async def held(*arguments: Any) -> Any:
            await gate.pass_through()
            return await comparing(*arguments)

        seat_of(one)._take = held  # type: ignore[assignment,method-assign]
        miss_something(broker, one)
        await until(lambda: gate.entered)
        counts = Counts(members)
        await other.repository.clear()
        await until(lambda: replica_of(one).cold)
        gate.open()
        await until(lambda: equal(members, source), 20 * HEARTBEAT)
        await asyncio.sleep(5)
        assert counts.reads[0] == 1
        assert counts.repairs == 0  # what was missing is in nothing that is held


@clockwork
async def test_a_load_that_fails_after_everything_was_dropped_leaves_nothing_to_repair() -> None:
    broker, source = Tap(), SchoolSource(*students(20))
    async with fleet(broker, [source]) as (one,):
        gate = source.hold("load_all")
        miss_something(broker, one)
        await until(lambda: gate.entered)
        await one.repository.clear()
        source.gates.clear()
        source.failure = OSError("away")
        gate.open()
        await asyncio.sleep(0.01)
        source.failure = None
        await until(lambda: in_step([one]), 10)
        assert one.repository.stats.repairs == 0


@pytest.mark.parametrize("what", ["the node", "its donor"])
@clockwork
async def test_nothing_hangs_when_a_node_is_closed_while_copies_are_compared(
    what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    broker, source = Tap(), SchoolSource(*students(2_000))
    before = others()
    async with fleet(broker, [source] * 2) as (one, other):
        table = replica_of(one).table
        table.clear()
        table.put(1, source.rows[1], replica_of(other).table.stamp(1))
        gate = Gate()
        publish = exchange.give

        async def give(*arguments: Any) -> None:
            await gate.pass_through()
            await publish(*arguments)

        monkeypatch.setattr("imperfect_dollop.seat.give", give)
        miss_something(broker, one)
        await until(lambda: gate.entered, 5)
        asyncio.get_running_loop().call_later(0.5, gate.open)
        await asyncio.wait_for(leave(one if what == "the node" else other), 10)
        left = other if what == "the node" else one
        await until(lambda: equal([left], source), 30 * HEARTBEAT)
    await settled()
    assert others() == before


@clockwork
async def test_a_donor_that_is_busy_is_asked_again() -> None:
    broker, source = Tap(), SchoolSource(*students(50))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(exchange, "MAX_DONATIONS", 0)
        patch.setattr("imperfect_dollop.seat.MAX_DONATIONS", 0)
        async with fleet(broker, [source]) as (one,):
            other = member(
                broker,
                source,
                node={"heartbeat": HEARTBEAT, "offer_wait": 0.1},
                bootstrap=("source",),
            )
            async with other.node:
                await until(lambda: len(one.node.members) == 2 and in_step([one, other]))
                await asyncio.sleep(2 * HEARTBEAT)
                counts = Counts([one, other])
                miss_something(broker, one)
                await asyncio.sleep(5)
                assert upkeep_of(one).repairs.known is not None
                assert counts.reads == (0, 0)
                patch.setattr("imperfect_dollop.seat.MAX_DONATIONS", 8)
                await until(lambda: equal([one, other], source), 5)
                assert counts.reads == (0, 0)
                assert counts.comparisons == 1


@clockwork
async def test_a_donor_that_lies_is_passed_over() -> None:
    broker, source = Tap(), SchoolSource(*students(50))
    async with fleet(broker, [source] * 4) as members:
        one = members[1]
        liars: set[str] = set()

        async def lying(seat: Seat, take: Take) -> None:
            link = seat.membership.link
            assert link is not None
            async with link.send_transfer(take.address, timeout=1.0) as transfer:
                await transfer.send(b"\xc1 nonsense")

        for each in members:
            if each is not one and each is not members[3]:
                seat = seat_of(each)
                liars.add(origin_of(each))
                seat._give = functools.partial(lying, seat)  # type: ignore[method-assign]
        counts = Counts(members)
        replica_of(one).table.forget(7)
        miss_something(broker, one)
        await until(lambda: equal(members, source), 10 * HEARTBEAT)
        assert counts.reads[0] == 0


# -- on demand -------------------------------------------------------------------------------------


@clockwork
async def test_on_demand_what_is_missing_is_asked_for_and_else_read_again_when_it_is_asked_for() -> (
    None
):
    broker, source = Tap(), SchoolSource(*students(20))
    async with fleet(broker, [source] * 2, preload=False) as (one, other):
        await one.repository.get_many([1, 2, 3])
        await other.repository.get_many([1, 2, 3])
        counts = Counts([one, other])
        broker.lose(other, of=one)
        await one.repository.update(vary(source.rows[1]))
        await until(lambda: other.repository.peek(1) == source.rows[1], 2 * HEARTBEAT)
        assert counts.events_resent == 1
        assert counts.reads[0] == 0
        with broker.outage():
            await one.repository.update(vary(source.rows[2]))
            await asyncio.sleep(1)
        await until(lambda: one.repository.state == other.repository.state == "ready", 10)
        await asyncio.sleep(2 * HEARTBEAT)
        await other.repository.get(2)  # it is read again, and until then answered with what is held
        await until(lambda: other.repository.peek(2) == source.rows[2], 1)
        assert counts.reads[0] == 0
        await die(one)
        await one.repository.update(vary(source.rows[3]))
        await asyncio.sleep(10 * HEARTBEAT)
        await other.repository.get(3)
        await until(lambda: other.repository.peek(3) == source.rows[3], 1)
        assert counts.reads[0] == 0


# -- two shapes ------------------------------------------------------------------------------------


@clockwork
async def test_nodes_of_another_shape_neither_load_nor_vouch_for_these() -> None:
    @dataclasses.dataclass(frozen=True, slots=True)
    class Pupil(Student):
        grade: int = 0

    broker = Tap()
    school = SchoolSource(*students(20))
    pupils = SchoolSource(*(Pupil(n, f"pupil {n}", version=1) for n in range(1, 21)))
    from imperfect_dollop import Node, Repository

    def node(source: Any, entity: type) -> Member:
        repo: Any = Repository(
            entity, name="Student", source=source, version="version", ttl=TTL, retry_after=0.02
        )
        return Member(Node(broker, repo, heartbeat=HEARTBEAT, offer_wait=0.1), repo)

    members = [node(school, Student), node(school, Student)]
    strangers = [node(pupils, Pupil), node(pupils, Pupil)]
    async with AsyncExitStack() as stack:
        for one in [*members, *strangers]:
            await one.node.__aenter__()
            stack.push_async_callback(leave, one)
        await until(lambda: in_step(members) and in_step(strangers), 20)
        ours, theirs = Counts(members), Counts(strangers)
        with broker.outage():
            await asyncio.sleep(3)
        await asyncio.sleep(20 * HEARTBEAT)
        assert equal(members, school)
        assert equal(strangers, pupils)
        assert (ours.reads[0], theirs.reads[0]) == (1, 1)
        await asyncio.sleep(2 * TTL)
        assert ours.reads[0] <= 1 + 3
        assert theirs.reads[0] <= 1 + 3


# -- that it can be seen ---------------------------------------------------------------------------


def test_what_a_member_may_have_done_unseen_is_within_what_a_load_for_it_reaches_back() -> None:
    from imperfect_dollop.replica.members import ALIVE_BEATS

    assert VANISHED_BEATS < ALIVE_BEATS
