"""The contract of a broker on `MemoryBroker`, and what only that one does."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from imperfect_dollop.broker import Broker, Link
from imperfect_dollop.brokers import from_url
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.errors import BrokerUnavailableError, ConfigurationError
from imperfect_dollop.testing import BrokerContract


class TestMemoryBroker(BrokerContract):
    patience = 2.0
    silence = 0.05
    narrow_limit = 20

    @pytest.fixture
    def broker(self) -> MemoryBroker:
        return MemoryBroker()

    @pytest.fixture
    def narrow(self) -> MemoryBroker:
        return MemoryBroker(inbox=self.narrow_limit)

    @asynccontextmanager
    async def outage(self, broker: MemoryBroker) -> AsyncIterator[None]:
        with broker.outage():
            yield


async def test_it_is_what_the_protocols_ask_for() -> None:
    broker = MemoryBroker()
    assert isinstance(broker, Broker)
    async with broker.connect("school", "node") as link:
        assert isinstance(link, Link)


async def test_an_outage_tells_its_reason() -> None:
    broker = MemoryBroker()
    async with broker.connect("school", "node") as link:
        with broker.outage("the cleaner has pulled the plug"):
            with pytest.raises(BrokerUnavailableError, match="pulled the plug"):
                await link.publish(b"x")


async def test_a_url_names_one_broker_of_the_running_loop() -> None:
    one = from_url("memory://school")
    assert from_url("memory://school") is one
    assert from_url("memory://office") is not one
    assert from_url("memory://school/2") is not one


def test_a_url_names_another_broker_in_another_loop() -> None:
    async def broker() -> Broker:
        return from_url("memory://school")

    assert asyncio.run(broker()) is not asyncio.run(broker())


async def test_a_named_broker_lasts_while_it_is_held() -> None:
    one = from_url("memory://school")
    assert isinstance(one, MemoryBroker)
    with one.outage():
        del one
        gc.collect()
    async with from_url("memory://school").connect("school", "node") as link:
        await link.publish(b"a fresh broker, with no outage")


@pytest.mark.parametrize("url", ["carrier-pigeon://loft", "", "localhost", "//localhost"])
def test_a_url_without_a_backend(url: str) -> None:
    with pytest.raises(ConfigurationError, match=r"names no broker .* memory://"):
        from_url(url)
