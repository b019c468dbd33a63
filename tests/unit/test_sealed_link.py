"""The link that seals: what it lets through of what a broker delivers, and where old messages are expected."""

from __future__ import annotations

import time
from collections.abc import AsyncGenerator, Sequence
from typing import Any

import pytest

from imperfect_dollop.broker import Delivery, Gap, Link, Message
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.errors import ProtocolError
from imperfect_dollop.replica.seal import Seal, Secrets
from imperfect_dollop.sealed import SealedLink

SECRETS = Secrets("what only members know")
HOUR = 3_600.0


def seal(origin: str) -> Seal:
    return Seal(SECRETS, "default", origin, time.time() - HOUR)


def said(body: bytes, ago: float, origin: str = "never heard") -> Message:
    return Message(seal(origin).close(body, time.time() - ago))


class Delivering:
    """Of a link only what it delivers."""

    position = "a place"
    waiting = 7

    def __init__(self, deliveries: Sequence[Delivery]) -> None:
        self._deliveries = deliveries

    async def deliveries(self) -> AsyncGenerator[Delivery, None]:
        for delivery in self._deliveries:
            yield delivery


async def let_through(
    *deliveries: Delivery, resumed: bool, seen_by: Seal | None = None
) -> tuple[list[Delivery], list[str]]:
    rejected: list[str] = []
    inner: Any = Delivering(deliveries)
    link = SealedLink(
        inner,
        seen_by or seal("reader"),
        resumed=resumed,
        rejected=lambda error: rejected.append(error.reason),
    )
    assert (link.position, link.waiting) == ("a place", 7)
    found = [delivery async for delivery in link.deliveries()]
    return found, rejected


async def test_a_link_that_goes_on_brings_what_was_said_since() -> None:
    old, new = said(b"old", HOUR - 30), said(b"new", 0.0, "another")
    assert await let_through(old, new, resumed=True) == ([Message(b"old"), Message(b"new")], [])


async def test_one_that_begins_anew_brings_nothing_old() -> None:
    old, new = said(b"old", HOUR - 30), said(b"new", 0.0)
    assert await let_through(old, new, resumed=False) == ([Message(b"new")], ["stale"])


async def test_nor_does_one_behind_a_gap() -> None:
    gap = Gap("trimmed")
    old, new = said(b"old", HOUR - 30), said(b"new", 0.0)
    assert await let_through(gap, old, new, resumed=True) == ([gap, Message(b"new")], ["stale"])


async def test_what_was_heard_over_one_link_is_not_heard_over_the_next() -> None:
    reader, one = seal("reader"), said(b"once", 0.0)
    assert await let_through(one, resumed=False, seen_by=reader) == ([Message(b"once")], [])
    assert await let_through(one, resumed=False, seen_by=reader) == ([], ["stale"])


async def test_whatever_is_sent_is_sealed_and_opened_at_the_other_end() -> None:
    broker = MemoryBroker()
    errors: list[ProtocolError] = []

    def sealed(link: Link, origin: str) -> Link:
        return SealedLink(link, seal(origin), resumed=False, rejected=errors.append)

    async with broker.connect("default", "a") as inner, broker.connect("default", "b") as other:
        one, two = sealed(inner, "a"), sealed(other, "b")
        assert isinstance(one, Link)
        await one.publish(b"said")
        await inner.publish(b"said in plain")
        await one.publish(b"and again")
        deliveries = two.deliveries()
        assert await anext(deliveries) == Message(b"said")
        assert await anext(deliveries) == Message(b"and again")
        assert [error.reason for error in errors] == ["unsigned"]
        await deliveries.aclose()
        async with two.receive_transfer("address", timeout=1.0) as chunks:
            async with one.send_transfer("address", timeout=1.0) as transfer:
                await transfer.send(b"one")
                await transfer.send(b"two")
            assert [chunk async for chunk in chunks] == [b"one", b"two"]
        async with two.receive_transfer("address", timeout=1.0) as chunks:
            async with inner.send_transfer("address", timeout=1.0) as transfer:
                await transfer.send(b"in plain")
            with pytest.raises(ProtocolError):
                await anext(chunks)
        assert [error.reason for error in errors] == ["unsigned", "unsigned"]
