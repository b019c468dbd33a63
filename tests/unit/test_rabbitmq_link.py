"""What an end of a transfer over RabbitMQ makes of what it is told; the other end is a stand-in."""

from __future__ import annotations

import asyncio
from collections import deque
from typing import Any

import pytest
from pamqp.commands import Basic

from imperfect_dollop.broker import TRANSFER_WINDOW
from imperfect_dollop.brokers.rabbitmq.transfer import LONGEST_QUEUE, Sender, chunks
from imperfect_dollop.brokers.rabbitmq.transfer import End as RealEnd
from imperfect_dollop.errors import BrokerUnavailableError

from .school import soon


class End:
    """Hears what it is told to, and notes what is said."""

    address = "place"
    timeout = 0.01

    def __init__(self, *heard: tuple[str, bytes]) -> None:
        self.heard = deque(heard)
        self.said: list[tuple[str, bytes]] = []

    @property
    def heard_more(self) -> bool:
        return bool(self.heard)

    async def hear(self) -> tuple[str, bytes] | None:
        return self.heard.popleft() if self.heard else None

    async def say(self, kind: str, body: bytes = b"") -> None:
        self.said.append((kind, body))


@pytest.mark.parametrize("credit", [b"many", b"", b"\xff", b"1.5"])
async def test_a_credit_that_is_none_cuts_the_transfer(credit: bytes) -> None:
    end: Any = End(("credit", credit))
    with pytest.raises(BrokerUnavailableError, match="place"):
        await soon(Sender(end).send(b"chunk"))
    assert end.said == []


async def test_a_sender_without_credit_sends_a_window_and_gives_up() -> None:
    end: Any = End()
    sender = Sender(end)
    for _ in range(TRANSFER_WINDOW):
        await soon(sender.send(b"chunk"))
    with pytest.raises(BrokerUnavailableError, match="read nothing"):
        await soon(sender.send(b"chunk"))
    assert end.said == [("chunk", b"chunk")] * TRANSFER_WINDOW


@pytest.mark.parametrize("kind", ["", "credit", "cut", "nonsense"])
async def test_a_receiver_that_is_told_something_else_takes_it_for_a_cut(kind: str) -> None:
    end: Any = End(("begin", b""), ("chunk", b"a"), (kind, b"b"), ("chunk", b"c"))
    arriving = chunks(end)
    assert await soon(anext(arriving)) == b"a"
    with pytest.raises(BrokerUnavailableError, match="place"):
        await soon(anext(arriving))


async def test_an_end_that_is_told_more_than_its_credit_allows_is_cut() -> None:
    end: Any = RealEnd.__new__(RealEnd)
    end.address, end.timeout, end.peer = "place", 1.0, None
    end._heard, end._something, end._lost = deque(), asyncio.Event(), None
    for number in range(10 * LONGEST_QUEUE):
        await end._arrived(Delivered(b"%d" % number))
    assert len(end._heard) == LONGEST_QUEUE
    heard = [(await soon(end.hear()))[1] for _ in range(LONGEST_QUEUE)]
    assert heard == [b"%d" % number for number in range(LONGEST_QUEUE)]
    with pytest.raises(BrokerUnavailableError, match="credit"):
        await soon(end.hear())


class Delivered:
    """A message as the driver hands it over, as far as that is looked at."""

    def __init__(self, body: bytes) -> None:
        self.body = body
        self.header = self
        self.properties = Basic.Properties(message_type="chunk", reply_to="somebody")
