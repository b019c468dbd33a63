"""What an end of a transfer over RabbitMQ makes of what it is told; the other end is a stand-in."""

from __future__ import annotations

from collections import deque
from typing import Any

import pytest

from imperfect_dollop.broker import TRANSFER_WINDOW
from imperfect_dollop.brokers.rabbitmq.transfer import Sender, chunks
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
