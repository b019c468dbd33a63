"""What waits for its reader: in order, bounded, and never dropped in silence."""

from __future__ import annotations

import asyncio

import pytest

from imperfect_dollop import inbox as inbox_module
from imperfect_dollop.broker import Delivery, Gap, Message
from imperfect_dollop.errors import BrokerUnavailableError
from imperfect_dollop.inbox import Inbox

from .school import settled, soon


def messages(count: int, size: int = 1) -> list[Delivery]:
    return [Message(bytes([number]) * size) for number in range(count)]


def filled(*deliveries: Delivery, limit: int = 100) -> Inbox:
    inbox = Inbox("the broker", limit)
    for delivery in deliveries:
        inbox.put(delivery)
    return inbox


async def read(inbox: Inbox) -> list[Delivery]:
    """All that is there, up to the loss of the link."""
    inbox.lose("that is all")
    found: list[Delivery] = []
    with pytest.raises(BrokerUnavailableError, match="that is all"):  # noqa: PT012 - see below
        async for delivery in inbox.deliveries():
            found.append(delivery)  # noqa: PERF401 - it raises in the end
    return found


async def test_what_arrives_is_read_in_its_order() -> None:
    inbox = filled(*messages(3), Gap("told by the broker"), *messages(2))
    assert await soon(read(inbox)) == [*messages(3), Gap("told by the broker"), *messages(2)]


async def test_what_waits_is_counted() -> None:
    inbox = filled(*messages(3))
    assert inbox.waiting == 3
    reading = inbox.deliveries()
    await anext(reading)
    assert inbox.waiting == 2
    await reading.aclose()


async def test_a_reader_waits_for_what_has_not_arrived() -> None:
    inbox = Inbox("the broker")
    deliveries = inbox.deliveries()
    for message in messages(3):
        reading = asyncio.ensure_future(anext(deliveries))
        await settled()
        assert not reading.done()
        inbox.put(message)
        assert await soon(reading) == message


@pytest.mark.parametrize("count", [1, 4, 5, 6, 9, 10, 100])
async def test_it_is_bounded_by_number_and_a_gap_stands_for_what_was_dropped(count: int) -> None:
    sent = messages(count)
    found = await soon(read(filled(*sent, limit=5)))
    kept = [delivery for delivery in found if isinstance(delivery, Message)]
    assert kept == sent[count - len(kept) :]
    assert kept
    assert len(found) <= 6
    if count <= 5:
        assert found == sent
    else:
        assert isinstance(found[0], Gap)
        assert "dropped" in found[0].reason
        assert all(isinstance(delivery, Message) for delivery in found[1:])


async def test_a_gap_says_how_many_were_dropped() -> None:
    found = await soon(read(filled(*messages(6), limit=5)))
    assert found == [Gap("5 messages were waiting and have been dropped"), messages(6)[-1]]


async def test_it_is_bounded_by_bytes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "INBOX_BYTES", 100)
    assert await soon(read(filled(*messages(10, 10)))) == messages(10, 10)
    found = await soon(read(filled(*messages(11, 10))))
    assert isinstance(found[0], Gap)
    assert found[1:] == messages(11, 10)[-1:]


async def test_what_was_read_or_dropped_no_longer_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inbox_module, "INBOX_BYTES", 100)
    inbox = Inbox("the broker")
    deliveries = inbox.deliveries()
    for message in messages(50, 90):  # one at a time they all pass
        inbox.put(message)
        assert await soon(anext(deliveries)) == message
    for message in messages(3, 90):
        inbox.put(message)
    assert isinstance(await soon(anext(deliveries)), Gap)
    assert await soon(anext(deliveries)) == messages(3, 90)[-1]
    for message in messages(10, 10):
        inbox.put(message)
    assert await soon(read(inbox)) == messages(10, 10)


async def test_one_message_may_be_larger_than_all_may_be_together(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(inbox_module, "INBOX_BYTES", 100)
    large = Message(bytes(1_000))
    assert await soon(read(filled(large))) == [large]
    found = await soon(read(filled(*messages(2), large, *messages(2))))
    assert isinstance(found[0], Gap)
    assert found[1:] == messages(2)  # it had to make way in its turn


async def test_the_reader_is_told_of_a_lost_link_after_what_had_arrived() -> None:
    inbox = filled(*messages(2))
    inbox.lose("cut")
    inbox.lose("and cut again")
    found: list[Delivery] = []
    with pytest.raises(BrokerUnavailableError, match=r"^the broker: cut$"):  # noqa: PT012 - see below
        async for delivery in inbox.deliveries():
            found.append(delivery)  # noqa: PERF401 - it raises in the end
    assert found == messages(2)


async def test_a_reader_that_waits_is_told_of_a_lost_link() -> None:
    inbox = Inbox("the broker")
    reading = asyncio.ensure_future(anext(inbox.deliveries()))
    await settled()
    inbox.lose("cut")
    with pytest.raises(BrokerUnavailableError, match="cut"):
        await soon(reading)


async def test_a_link_that_was_left_delivers_nothing_more() -> None:
    inbox = filled(*messages(3))
    deliveries = inbox.deliveries()
    assert await soon(anext(deliveries)) == messages(1)[0]
    inbox.end()
    with pytest.raises(StopAsyncIteration):
        await soon(anext(deliveries))
    assert [delivery async for delivery in inbox.deliveries()] == []


@pytest.mark.parametrize("lost", [False, True])
async def test_a_reader_that_waits_ends_with_the_link_that_was_left(lost: bool) -> None:
    inbox = Inbox("the broker")
    reading = asyncio.ensure_future(anext(inbox.deliveries(), None))
    await settled()
    if lost:
        inbox.lose("cut")
    inbox.end()
    assert await soon(reading) is None


def test_what_is_done_on_a_link_that_is_gone_says_what_and_why() -> None:
    inbox = Inbox("the broker")
    inbox.check()
    inbox.lose("cut by a digger")
    with pytest.raises(
        BrokerUnavailableError, match=r"^the link to the broker is lost: cut by a digger$"
    ):
        inbox.check()
    inbox.end()
    with pytest.raises(BrokerUnavailableError, match=r"^the link to the broker was closed$"):
        inbox.check()
