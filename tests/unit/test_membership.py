"""One link after another: what goes out and in which order, how a lost link is noticed, when the next one comes."""

from __future__ import annotations

import asyncio
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest

from imperfect_dollop import ClosedError, Node
from imperfect_dollop.broker import Message
from imperfect_dollop.errors import BrokerUnavailableError
from imperfect_dollop.exchange import BUSY
from imperfect_dollop.inbox import Inbox
from imperfect_dollop.membership import LONGEST_PAUSE, RECONNECT_PAUSE, Membership
from imperfect_dollop.pipeline import PIPELINE, Pipeline
from imperfect_dollop.replica.messages import (
    MAX_BATCH,
    Events,
    Heartbeat,
    Phase,
    RepositoryState,
    Take,
    decode,
    encode,
)
from imperfect_dollop.replica.replica import Replica
from imperfect_dollop.seat import MOST_NUMBERED, Seat

from .builders import Row, create
from .clockwork import ClockworkLoop, Connection, Post, clockwork, now, numbers, until
from .school import Member, SchoolSource, Student, cluster, member, others, settled, students

HEARTBEAT = 1.0


def node(broker: Post, source: SchoolSource, **settings: Any) -> Member:
    given = {"heartbeat": HEARTBEAT, "offer_wait": 0.1, **settings}
    return member(broker, source, node=given)


def membership_of(one: Member) -> Membership:
    assert one.node._membership is not None
    return one.node._membership


def pipeline_of(one: Member) -> Pipeline:
    pipeline = membership_of(one)._pipeline
    assert pipeline is not None
    return pipeline


def seat_of(one: Member) -> Seat:
    (seat,) = one.node._seats
    return seat


def replica_of(one: Member) -> Replica[Any, Any]:
    return seat_of(one).replica


async def write(one: Member, *keys: int) -> None:
    for key in keys:
        await one.repository.create(Student(key, f"student {key}"))


async def heard(one: Member) -> None:
    """Until the node's own heartbeats come back."""
    await until(lambda: membership_of(one).listening)


def queue(one: Member, count: int, *, keys: int = 1 << 30) -> None:
    """Events that nobody has written, of so many keys."""
    for number in range(count):
        seat_of(one).publish(create(Row(number % keys), 0))


# -- order ----------------------------------------------------------------------------------------


def vouched(connection: Connection) -> None:
    """Whatever a heartbeat says was sent before it."""
    last = 0
    for message in connection.offered:
        if isinstance(message, Events):
            assert message.first == last + 1 or not last
            last = message.first + len(message.events) - 1
        elif isinstance(message, Heartbeat):
            for state in message.repositories:
                assert state.sequence <= max(last, 0), "a heartbeat has overtaken its events"


@pytest.mark.parametrize("count", [1, MAX_BATCH - 1, MAX_BATCH, 3 * MAX_BATCH + 1])
@clockwork
async def test_a_heartbeat_never_overtakes_events_that_have_a_number(count: int) -> None:
    broker, source = Post(), SchoolSource()
    one = node(broker, source)
    async with one.node:
        await heard(one)
        queue(one, count)
        seat_of(one)._number_all()  # as a donor does
        membership_of(one).beat_now()
        beats = len(broker.connections[0].beats)
        await until(lambda: len(broker.connections[0].beats) > beats + 1)
        vouched(broker.connections[0])
        assert broker.connections[0].numbers == list(range(1, count + 1))
        assert broker.connections[0].beats[-1].repositories[0].sequence == count


@clockwork
async def test_what_is_numbered_while_a_heartbeat_waits_for_its_turn_is_not_vouched_for() -> None:
    broker, source = Post(), SchoolSource()
    one = node(broker, source)
    async with one.node:
        await heard(one)
        await settled()
        broker.hold = asyncio.Event()  # the pipeline fills
        for _ in range(PIPELINE + 4):
            queue(one, 1)
            await settled()
            membership_of(one).beat_now()
            queue(one, MAX_BATCH + 1)
            seat_of(one)._number_all()
            await settled()
        broker.hold.set()
        await until(lambda: not seat_of(one).unsent)
        await asyncio.sleep(2 * HEARTBEAT)
        (connection,) = broker.connections
        vouched(connection)
        assert connection.numbers == list(range(1, replica_of(one).sequence + 1))


# -- several messages at a time -------------------------------------------------------------------


@clockwork
async def test_no_more_than_a_pipeline_of_messages_is_under_way() -> None:
    broker, source = Post(), SchoolSource()
    one = node(broker, source)
    async with one.node:
        await heard(one)
        await settled()
        broker.hold = asyncio.Event()
        for _ in range(3 * PIPELINE):
            queue(one, 1)
            await settled()
        assert broker.under_way == broker.most_under_way == PIPELINE
        broker.hold.set()
        await one.node.flush()
        assert broker.most_under_way == PIPELINE
        # What had to wait has shared a message.
        assert len(broker.connections[0].events) < 3 * PIPELINE
        assert broker.connections[0].numbers == list(range(1, 3 * PIPELINE + 1))


@clockwork
async def test_answers_of_the_broker_that_come_out_of_order() -> None:
    broker, source = Post(), SchoolSource()
    one = node(broker, source)
    async with one.node:
        await heard(one)
        seat = seat_of(one)
        for _ in range(3):
            queue(one, 2)
            seat._number_all()
        first, second, third = (seat.next_batch() for _ in range(3))
        assert first is not None
        assert second is not None
        assert third is not None
        assert seat.next_batch() is None
        seat.taken(second)
        assert (seat.unsent, seat.handed_over, seat.packed) == (4, 0, False)
        seat.rewind()
        assert seat.packed
        assert [seat.next_batch(), seat.next_batch(), seat.next_batch()] == [first, third, None]
        seat.taken(third)
        queue(one, 1)
        fourth = seat.next_batch()
        assert fourth is not None
        assert fourth.first == 7
        seat.taken(first)
        seat.taken(fourth)
        assert (seat.unsent, seat.handed_over, seat.packed) == (0, 7, False)
        seat.rewind()
        assert seat.next_batch() is None


# -- a link that is lost --------------------------------------------------------------------------


def lose_by_outage(broker: Post) -> None:
    with broker.outage("cut"):
        pass


def lose_by_refusal(broker: Post) -> None:
    broker.conduct = "refuse"


@pytest.mark.parametrize("lose", [lose_by_outage, lose_by_refusal])
@clockwork
async def test_what_was_under_way_is_sent_again_with_its_numbers_and_in_order(
    lose: Callable[[Post], None],
) -> None:
    broker, source = Post(), SchoolSource()
    one, two = node(broker, source), node(broker, source)
    async with cluster(one, two):
        await until(lambda: len(one.node.members) == len(two.node.members) == 2)
        await settled()
        broker.towards = membership_of(one).origin
        for key in range(1, 6):
            await write(one, key)
        await one.node.flush()
        first = [each for each in broker.connections if each.node == broker.towards][-1]
        broker.hold = asyncio.Event()
        for key in range(10, 10 + PIPELINE + 3):
            await write(one, key)
            await settled()
        under_way = first.events[5:]
        assert len(under_way) == PIPELINE
        lose(broker)
        broker.hold.set()
        await until(lambda: not membership_of(one).up)
        await write(one, 50)
        broker.hold, broker.conduct = None, "well"
        await until(lambda: not seat_of(one).unsent)
        links = [each for each in broker.connections if each.node == broker.towards]
        assert links[-1] is not first
        assert links[-1].events[:PIPELINE] == under_way  # the very same messages
        taken = sorted({number for link in links for number in numbers_taken(link)})
        assert taken == list(range(1, 5 + PIPELINE + 3 + 2))
        assert links[-1].numbers == list(range(6, 5 + PIPELINE + 3 + 2))
        await until(lambda: two.content == source.rows)


def numbers_taken(link: Connection) -> list[int]:
    return numbers([message for message in link.taken if isinstance(message, Events)])


@clockwork
async def test_events_arrive_once_whatever_links_are_lost() -> None:
    broker, source = Post(keeps=True), SchoolSource()
    one, two = node(broker, source), node(broker, source)
    async with cluster(one, two):
        await until(lambda: len(one.node.members) == len(two.node.members) == 2)
        for key in range(1, 30):
            await write(one, key)
            if not key % 5:
                await settled(key)
                broker.conduct, broker.towards = "refuse", membership_of(one).origin
                await until(lambda: not membership_of(one).up)
                broker.conduct = "well"
        await one.node.flush()
        await until(lambda: two.content == source.rows)
        assert two.repository.stats.gaps == 0
        assert two.repository.stats.applied == 29
        assert source.calls["load"] == 0


@clockwork
async def test_a_message_that_hangs_is_given_up_and_with_it_the_link(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker, source = Post(), SchoolSource()
    one = node(broker, source)
    async with one.node:
        await heard(one)
        broker.conduct = "hang"
        await write(one, 1)
        await settled()
        began = now()
        await until(lambda: not membership_of(one).up)
        assert now() - began == pytest.approx(3 * HEARTBEAT, abs=0.1)
        assert "took no message for 3 s" in (membership_of(one).failure or "")
        assert "took no message" in one.node.status()["broker"]["failure"]
        await until(lambda: broker.connections[0].left is not None)
        assert broker.under_way == 0
        broker.conduct = "well"
        await one.node.flush()
        assert broker.connections[-1].numbers == [1]


@clockwork
async def test_a_half_open_link_is_noticed_within_three_heartbeats() -> None:
    broker, source = Post(), SchoolSource(*students(3))
    one = node(broker, source)
    async with one.node:
        await heard(one)
        await asyncio.sleep(10 * HEARTBEAT)
        (link,) = broker.connections
        broker.conduct = "swallow"
        came_back = len(link.beats)
        await until(lambda: not membership_of(one).up)
        assert len(link.beats) - came_back in (3, 4)  # and the next one would have been too many
        assert membership_of(one).failure == "own heartbeats do not come back"
        await until(lambda: link.left is not None)
        broker.conduct = "well"
        await heard(one)
        assert one.node.status()["broker"] == {"up": True, "failure": None}


@clockwork
async def test_a_half_open_link_is_noticed_as_fast_after_an_hour_without_a_broker() -> None:
    broker, source = Post(), SchoolSource(*students(3))
    one = node(broker, source)
    async with one.node:
        await heard(one)
        with broker.outage():
            await asyncio.sleep(3_600)
        broker.conduct = "swallow"
        count = len(broker.connections)
        await until(lambda: len(broker.connections) > count)
        await until(lambda: not membership_of(one).up)
        link = broker.connections[count]
        await until(lambda: link.left is not None)
        assert link.left is not None
        assert 3 * HEARTBEAT <= link.left - link.opened <= 4 * HEARTBEAT + 0.1


@clockwork
async def test_a_link_that_brings_what_others_say_is_not_given_up() -> None:
    broker, source = Post(), SchoolSource(*students(3))
    one, two = node(broker, source), node(broker, source)
    async with cluster(one, two):
        await heard(one)
        await heard(two)
        broker.conduct, broker.towards = "mute", membership_of(one).origin
        await asyncio.sleep(20 * HEARTBEAT)
        assert membership_of(one).up
        assert len(broker.connections) == 2
        await two.node.__aexit__(None, None, None)  # and now nobody says anything
        await until(lambda: not membership_of(one).up, 5 * HEARTBEAT)


@clockwork
async def test_a_process_that_stood_still_keeps_its_link_and_its_members() -> None:
    broker, source = Post(), SchoolSource(*students(3))
    one, two = node(broker, source), node(broker, source)
    async with cluster(one, two):
        await until(lambda: len(one.node.members) == len(two.node.members) == 2)
        await asyncio.sleep(5 * HEARTBEAT)
        loop = asyncio.get_running_loop()
        assert isinstance(loop, ClockworkLoop)
        for _ in range(5):
            loop.stand_still(30.0)
            for _ in range(10):
                await asyncio.sleep(HEARTBEAT / 10)
                assert len(one.node.members) == len(two.node.members) == 2
                assert membership_of(one).up
        assert len(broker.connections) == 2


# -- the next link --------------------------------------------------------------------------------


def pauses(broker: Post) -> list[float]:
    """Between the end of one link and the beginning of the next."""
    return [
        after.opened - (before.left or 0.0)
        for before, after in itertools.pairwise(broker.connections)
    ]


@pytest.mark.parametrize("conduct", ["refuse", "hang", "swallow"])
@clockwork
async def test_a_broker_that_lets_in_and_takes_nothing_is_asked_ever_more_rarely(
    conduct: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broker, source = Post(), SchoolSource(*students(3))
    one = node(broker, source)
    async with one.node:
        await heard(one)
        with broker.behaving(conduct):
            await until(lambda: len(broker.connections) == 12, 600)
            found = pauses(broker)
            longest = [min(RECONNECT_PAUSE * 2**n, LONGEST_PAUSE) for n in range(len(found))]
            for pause, at_most in zip(found, longest, strict=True):
                assert 0.5 * at_most - 1e-6 <= pause <= at_most + 1e-6
        await heard(one)  # one that works: from now on all begins anew
        count = len(broker.connections)
        await asyncio.sleep(0.01)
        with broker.behaving(conduct):
            await until(lambda: len(broker.connections) == count + 2)
        assert pauses(broker)[count - 1] <= RECONNECT_PAUSE + 1e-6
        assert pauses(broker)[count] <= 2 * RECONNECT_PAUSE + 1e-6


@clockwork
async def test_an_echo_from_before_the_link_does_not_vouch_for_it() -> None:
    broker, source = Post(), SchoolSource(*students(3))
    one = node(broker, source)
    async with one.node:
        await heard(one)
        membership = membership_of(one)
        old = broker.connections[0].beats[-1]
        with broker.behaving("refuse"):
            await until(lambda: len(broker.connections) == 5, 600)
            failures = membership._backoff.failures
            assert failures >= 3
            membership._message(encode(old))  # as a broker that keeps messages delivers it
            assert membership._backoff.failures == failures
        await until(lambda: not membership._backoff.failures)


@clockwork
async def test_a_broker_that_is_away_is_told_of_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    broker, source = Post(), SchoolSource(*students(3))
    one = node(broker, source)
    async with one.node:
        await heard(one)
        with broker.outage("no power"):
            await asyncio.sleep(600)
            status = one.node.status()["broker"]
            assert status["up"] is False
            assert "no power" in status["failure"]
        await heard(one)
    told = [each.message for each in caplog.records if each.levelno == logging.WARNING]
    assert len(told) == 2
    assert "the broker is away: the memory broker: no power" in told[0]
    assert "the broker is back after 60" in told[1]
    assert sum("connected to the broker" in each.message for each in caplog.records) == 1


@pytest.mark.parametrize("keeps", [False, True])
@clockwork
async def test_only_a_link_without_a_position_means_that_something_was_missed(keeps: bool) -> None:
    broker, source = Post(keeps=keeps), SchoolSource(*students(3))
    one = node(broker, source)
    async with one.node:
        await heard(one)
        await until(lambda: one.content is not None)
        for lost in range(1, 4):
            with broker.outage():
                await until(lambda: not membership_of(one).up)
            await heard(one)
            await asyncio.sleep(10 * HEARTBEAT)
            assert one.repository.stats.gaps == (0 if keeps else lost)
            assert source.calls["load_all"] == 1 + (0 if keeps else lost)
        expected = [None, "1", "2", "3"] if keeps else [None] * 4
        assert [each.after for each in broker.connections] == expected


@clockwork
async def test_a_broker_that_comes_after_the_start_means_that_something_was_missed() -> None:
    broker, source = Post(keeps=True), SchoolSource(*students(3))
    one = node(broker, source)
    with broker.outage():
        await one.node.__aenter__()
        assert source.calls["load_all"] == 1
    await heard(one)
    await until(lambda: source.calls["load_all"] == 2)
    await one.node.__aexit__(None, None, None)


# -- waiting for it, and leaving ------------------------------------------------------------------


@clockwork
async def test_flush_waits_for_as_long_as_the_broker_is_away() -> None:
    broker, source = Post(), SchoolSource()
    one = node(broker, source)
    async with one.node:
        await heard(one)
        with broker.outage():
            await write(one, 1, 2, 3)
            flushing = asyncio.create_task(one.node.flush())
            await asyncio.sleep(3_600)
            assert not flushing.done()
            assert one.node.status()["repositories"]["Student"]["unsent"] == 3
        await until(flushing.done, 2 * LONGEST_PAUSE)
        flushing.result()
        assert broker.connections[-1].numbers == [1, 2, 3]


@clockwork
async def test_flush_of_nothing_returns_though_the_broker_is_away() -> None:
    broker, source = Post(), SchoolSource(*students(3))
    one = node(broker, source)
    with broker.outage():
        async with one.node:
            await asyncio.wait_for(one.node.flush(), 0.01)


@clockwork
async def test_what_was_merged_meanwhile_does_not_count_as_handed_over() -> None:
    broker = Post()
    one = node(broker, SchoolSource(), outbox=3 * MAX_BATCH)
    async with one.node:
        await heard(one)
        with broker.outage():
            seat = seat_of(one)
            queue(one, 3 * MAX_BATCH, keys=700)
            goal = seat.queued
            queue(one, 2 * MAX_BATCH, keys=700)
            assert seat.outbox.merged >= goal
            assert seat.handed_over == 0
            first, second, third = seat.next_batch(), seat.next_batch(), seat.next_batch()
            assert first is not None
            assert second is not None
            seat.taken(first)
            assert 0 < seat.handed_over < goal  # some of what was queued first still waits
            seat.taken(second)
            assert seat.handed_over >= goal
            if third is not None:
                seat.taken(third)
            assert seat.handed_over == seat.queued


@clockwork
async def test_the_outbox_bounds_what_waits_also_where_everything_is_dropped_meanwhile() -> None:
    broker, source = Post(), SchoolSource()
    one = node(broker, source, outbox=10)
    async with one.node:
        await heard(one)
        with broker.outage():
            for key in range(1, 31):
                await write(one, key)
                await one.repository.clear()
                assert await one.repository.get(key) is not None
            assert seat_of(one).unsent <= 10


@pytest.mark.parametrize("conduct", ["refuse", "hang", None])
@clockwork
async def test_a_node_that_is_left_says_what_was_never_sent_and_leaves_in_time(
    conduct: Any, caplog: pytest.LogCaptureFixture
) -> None:
    broker, source = Post(), SchoolSource()
    one = node(broker, source, shutdown_timeout=5.0)
    await one.node.__aenter__()
    await heard(one)
    away = broker.outage() if conduct is None else broker.behaving(conduct)
    with away:
        await write(one, 1, 2, 3)
        began = now()
        flushing = asyncio.create_task(one.node.flush())
        await settled()
        await one.node.__aexit__(None, None, None)
        assert now() - began <= 5.0 + 0.1
        with pytest.raises(ClosedError):
            await flushing
    assert "events that were never sent" in caplog.text
    assert "{'Student': 3}" in caplog.text
    assert not others()


@clockwork
async def test_a_node_that_is_left_with_nothing_to_send_does_not_wait_for_the_broker(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker, source = Post(), SchoolSource(*students(3))
    one = node(broker, source, shutdown_timeout=5.0)
    await one.node.__aenter__()
    await heard(one)
    with broker.outage():
        await settled()
        began = now()
        await one.node.__aexit__(None, None, None)
        assert now() == began
    assert "never sent" not in caplog.text


@clockwork
async def test_the_last_write_and_the_goodbye_are_sent_in_time() -> None:
    broker, source = Post(), SchoolSource()
    one = node(broker, source, shutdown_timeout=30.0)
    async with one.node:
        await heard(one)
        with broker.outage():
            await write(one, 1)
            leaving = asyncio.create_task(one.node.__aexit__(None, None, None))
            await asyncio.sleep(0.5)
            assert not leaving.done()
        await leaving
        *_, events, goodbye = broker.connections[-1].offered
        assert isinstance(events, (Events, Heartbeat))
        assert isinstance(goodbye, Heartbeat)
        assert goodbye.leaving
        assert broker.connections[-1].numbers == [1]


# -- what strangers say in our name ---------------------------------------------------------------


def forged(origin: str, number: int) -> bytes:
    state = RepositoryState("Student", "x", Phase.READY, True, True, 0, 0, 0, 0, 0, 0, 0)
    return encode(Heartbeat(origin, "forged", number, 0, False, 1.0, [state]))


@clockwork
async def test_a_heartbeat_of_ours_that_we_have_never_sent_proves_nothing() -> None:
    broker, source = Post(), SchoolSource(*students(3))
    one = node(broker, source)
    async with one.node:
        await heard(one)
        membership = membership_of(one)
        membership._message(forged(membership.origin, 2**62))
        with broker.behaving("swallow"):
            began = now()
            await membership.round_trip(0.5)
            assert now() - began == pytest.approx(0.5)


@clockwork
async def test_a_heartbeat_that_comes_late_takes_no_echo_back() -> None:
    broker, source = Post(), SchoolSource(*students(3))
    one = node(broker, source)
    async with one.node:
        await heard(one)
        await asyncio.sleep(5 * HEARTBEAT)
        membership = membership_of(one)
        old = membership.members.echo
        assert old > 3
        membership._message(encode(broker.connections[0].beats[0]))
        assert membership.members.echo == old


# -- a broker that breaks its word ----------------------------------------------------------------


class Broken(Post):
    """Raises what a broker must not raise."""

    error: Exception | None = None

    def connect(self, namespace: str, node: str, *, after: str | None = None) -> Any:
        if self.error is not None:
            raise self.error
        return super().connect(namespace, node, after=after)


@clockwork
async def test_a_broker_that_raises_what_it_must_not_is_away_and_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker, source = Broken(), SchoolSource(*students(3))
    broker.error = ZeroDivisionError("a bug of the driver")
    one = node(broker, source)
    async with one.node:
        assert one.content is not None
        status = one.node.status()
        assert not status["broker"]["up"]
        assert "a bug of the driver" in status["broker"]["failure"]
        assert status["crashes"] > 0
        broker.error = None
        await heard(one)
        assert one.node.status()["broker"] == {"up": True, "failure": None}
    assert "crashed, and is started again" in caplog.text


@clockwork
async def test_with_startup_raise_the_reason_is_told() -> None:
    broker = Broken()
    broker.error = ZeroDivisionError("a bug of the driver")
    one = Node(broker, startup="raise")
    with pytest.raises(BrokerUnavailableError, match="a bug of the driver"):
        await one.__aenter__()


class DeafToTakes(Post):
    """Never answers to whoever asks for a snapshot."""

    @asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[Any]:
        async with super().connect(namespace, node, after=after) as link:
            publish = link.publish

            async def selective(payload: bytes) -> None:
                if isinstance(decode(payload), Take):
                    await asyncio.sleep(1e9)
                await publish(payload)

            link.publish = selective
            yield link


@clockwork
async def test_a_broker_that_hangs_does_not_keep_a_joiner_from_the_source() -> None:
    broker, source = DeafToTakes(), SchoolSource(*students(3))
    one, two = node(broker, source), node(broker, source)
    async with one.node:
        await heard(one)
        entering = asyncio.create_task(two.node.__aenter__())
        await until(entering.done, 60)
        await entering
        assert two.content == source.rows
        assert two.repository.stats.full_loads == 1
        await two.node.__aexit__(None, None, None)


@clockwork
async def test_donors_that_are_silent_do_not_keep_a_joiner_from_the_source(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(Seat, "asked", lambda seat, take: None)  # as if the question was not let in
    broker, source = Post(), SchoolSource(*students(3))
    silent, newcomer = [node(broker, source) for _ in range(5)], node(broker, source)
    async with AsyncExitStack() as fleet:
        for each in silent:
            await fleet.enter_async_context(each.node)
        await heard(silent[0])
        before = now()
        await fleet.enter_async_context(newcomer.node)
        assert newcomer.content == source.rows
        assert now() - before < 20  # three of them, five seconds each


# -- what an adversary found ----------------------------------------------------------------------


class Answers:
    """A broker whose links answer when they are told to."""

    local = True

    def __init__(self) -> None:
        self.links: list[AnsweringLink] = []

    @asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[Any]:
        self.links.append(AnsweringLink())
        yield self.links[-1]

    async def aclose(self) -> None:
        """Nothing is open."""


class AnsweringLink:
    """Echoes; while it holds, it takes messages only when it is told to."""

    position: str | None = None
    waiting: int = 0

    def __init__(self) -> None:
        self.holds = False
        self.publishing: list[asyncio.Future[None]] = []
        self.inbox = Inbox("a broker that answers")
        self.deliveries = self.inbox.deliveries

    async def publish(self, payload: bytes) -> None:
        if self.holds:
            self.publishing.append(asyncio.get_running_loop().create_future())
            await self.publishing[-1]
        self.inbox.put(Message(payload))


@clockwork
@pytest.mark.parametrize("lost_first", [False, True])
async def test_an_answer_in_the_turn_in_which_the_link_is_lost_is_no_crash(
    lost_first: bool,
) -> None:
    broker: Any = Answers()
    one = node(broker, SchoolSource(*students(3)))
    async with one.node:
        (link,) = broker.links
        link.holds = True
        await until(lambda: link.publishing)
        if lost_first:
            link.inbox.lose("cut")
        link.publishing[0].set_result(None)
        if not lost_first:
            link.inbox.lose("cut")
        await until(lambda: len(broker.links) > 1)
        assert one.node.status()["crashes"] == 0


@clockwork
async def test_a_message_that_waits_behind_others_has_its_time_when_they_are_taken() -> None:
    """A broker that takes one message in nearly the time that it has is slow, and not away."""
    broker: Any = Answers()
    one = node(broker, SchoolSource(*students(3)))
    async with one.node:
        (link,) = broker.links
        patience = pipeline_of(one).timeout
        link.holds = True
        queue(one, 20 * MAX_BATCH)
        await until(lambda: link.publishing)
        for _ in range(15):
            await asyncio.sleep(patience * 0.9)
            next(each for each in link.publishing if not each.done()).set_result(None)
        assert len(broker.links) == 1
        await until(lambda: len(broker.links) == 2, 2 * patience)


class Forgetful(Post):
    """Never answers to what is `forgotten`, and takes all that comes after it."""

    def __init__(self) -> None:
        super().__init__()
        self.forgotten = ""

    @asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[Any]:
        async with super().connect(namespace, node, after=after) as link:
            publish = link.publish

            async def publishing(payload: bytes) -> None:
                if self.forgotten and self.forgotten.encode() in payload:
                    self.forgotten = ""
                    await asyncio.sleep(1e9)
                await publish(payload)

            link.publish = publishing
            yield link


@clockwork
async def test_a_message_that_is_never_answered_is_given_up_though_later_ones_are_taken() -> None:
    broker, source = Forgetful(), SchoolSource()
    one = node(broker, source)
    async with one.node:
        await heard(one)
        broker.forgotten = "student 1"
        await write(one, 1)
        flushing = asyncio.ensure_future(one.node.flush())
        for key in range(2, 40):  # one within each timeout, and a heartbeat too
            await write(one, key)
            await asyncio.sleep(0.9)
            if flushing.done():
                break
        await asyncio.wait_for(flushing, 5)
        first, second = broker.connections
        assert first.left is not None
        assert first.left - first.opened < 2 * pipeline_of(one).timeout
        assert second.numbers[0] == 1


@clockwork
async def test_a_node_that_has_much_to_say_to_a_slow_broker_gives_no_snapshot() -> None:
    one = node(Post(), SchoolSource(*students(3)))
    async with one.node:
        await heard(one)
        seat, replica = seat_of(one), replica_of(one)
        take = Take("b", replica.origin, seat.name, replica.rows.fingerprint, "place", [0])
        assert seat._why_not(take) is None
        queue(one, (MOST_NUMBERED + 1) * MAX_BATCH)
        seat._number_all()
        assert seat._why_not(take) == BUSY


@clockwork
async def test_in_a_large_fleet_heartbeats_are_rare_and_say_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    broker, source = Post(), SchoolSource()
    one = node(broker, source)
    caplog.set_level(logging.INFO, "imperfect_dollop")
    async with one.node:
        await heard(one)

        def hear(first: int, last: int) -> None:
            for number in range(first, last):
                beat = Heartbeat(f"o{number}", f"n{number}", 1, 0, False, 60.0, [])
                membership_of(one)._heard(beat)

        async def beats(seconds: float) -> list[float]:
            """What each of its heartbeats says of the next one."""
            (connection,) = broker.connections
            sent = len(connection.offered)
            await asyncio.sleep(seconds)
            news = connection.offered[sent:]
            return [each.every for each in news if isinstance(each, Heartbeat)]

        hear(0, 140)
        await beats(2.0)
        assert await beats(10.0) == [1.0] * 10
        assert "less often" not in caplog.text
        hear(140, 282)  # each of whom is answered
        await beats(5.0)
        assert set(await beats(40.0)) == {283 * 283 / 20_000}
        assert len(await beats(40.0)) == 10
        assert caplog.text.count("less often") == 1
        assert "with 283 nodes heartbeats come every 4.0 s" in caplog.text
