"""The contract of a broker on Redis and RabbitMQ, and the ways to reach a server."""

from __future__ import annotations

import asyncio
import secrets
import ssl
from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager, suppress
from typing import Any

import aio_pika
import pytest
import redis.asyncio
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from imperfect_dollop.broker import Broker, Gap, Link
from imperfect_dollop.brokers import from_url
from imperfect_dollop.brokers.rabbitmq import RabbitMQBroker
from imperfect_dollop.brokers.redis import RedisBroker
from imperfect_dollop.errors import BrokerUnavailableError
from imperfect_dollop.testing import BrokerContract
from imperfect_dollop.testing.taps import Tap

from .proxy import Proxy
from .servers import Certificates, RabbitMQServer, RedisServer

PATIENCE = 10.0


class ThroughProxy(BrokerContract):
    """Of a server that is reached through a proxy, whose link can be cut."""

    patience = PATIENCE

    @pytest.fixture
    async def proxy(self, url: str) -> AsyncIterator[Proxy]:
        async with Proxy.before(url) as self._proxy:
            yield self._proxy

    def outage(self, broker: Any) -> AbstractAsyncContextManager[None]:
        return self._proxy.outage()


class TestRedis(ThroughProxy):
    narrow_limit = 300  # a stream is trimmed by whole nodes of about 100 entries

    @pytest.fixture
    def url(self, redis_url: str) -> str:
        return redis_url

    @pytest.fixture
    async def broker(self, proxy: Proxy, url: str) -> AsyncIterator[RedisBroker]:
        broker = RedisBroker(proxy.url(url))
        yield broker
        await broker.aclose()

    @pytest.fixture
    async def narrow(self, url: str) -> AsyncIterator[RedisBroker]:
        broker = RedisBroker(url, backlog=200)
        yield broker
        await broker.aclose()


class TestRedisThatWasHandedIn(TestRedis):
    """A client as an application has it: with time-outs, and with attempts of its own."""

    @pytest.fixture
    async def broker(self, proxy: Proxy, url: str) -> AsyncIterator[RedisBroker]:
        client = redis.asyncio.Redis.from_url(
            proxy.url(url), socket_timeout=2.0, protocol=2, retry=Retry(NoBackoff(), 1)
        )
        broker = RedisBroker(client)
        yield broker
        await broker.aclose()
        await client.aclose()


class TestRabbitMQ(ThroughProxy):
    narrow_limit = 20

    @pytest.fixture
    def url(self, rabbitmq_url: str) -> str:
        return rabbitmq_url

    @pytest.fixture
    def broker(self, proxy: Proxy, url: str) -> RabbitMQBroker:
        return RabbitMQBroker(proxy.url(url))

    @pytest.fixture
    def narrow(self, url: str) -> RabbitMQBroker:
        return RabbitMQBroker(url, inbox=self.narrow_limit)


class TestRabbitMQThatWasHandedIn(TestRabbitMQ):
    """A robust connection, which comes back by itself; ours does not rely on it."""

    @pytest.fixture
    async def broker(self, proxy: Proxy, url: str) -> AsyncIterator[RabbitMQBroker]:
        connection = await aio_pika.connect_robust(proxy.url(url), reconnect_interval=0.05)
        broker = RabbitMQBroker(connection)
        yield broker
        await connection.close()


# -- ways to reach a server ------------------------------------------------------------------------


async def carries(broker: Broker, namespace: str = "") -> None:
    """Fails unless a message and a transfer come through."""
    name = namespace or f"reach-{secrets.token_hex(4)}"
    async with broker.connect(name, "one") as one, broker.connect(name, "two") as two:
        async with Tap(two, PATIENCE) as tap:
            await one.publish(b"hello")
            await tap.until_message(b"hello")
        async with two.receive_transfer("place", timeout=PATIENCE) as chunks:
            giving = asyncio.create_task(give(one))
            assert [chunk async for chunk in chunks] == [b"a", b"b"]
        await giving


async def give(link: Link) -> None:
    async with link.send_transfer("place", timeout=PATIENCE) as transfer:
        await transfer.send(b"a")
        await transfer.send(b"b")


@asynccontextmanager
async def opened(broker: Broker) -> AsyncIterator[Broker]:
    try:
        yield broker
    finally:
        await broker.aclose()


async def test_redis_with_tls_and_access_control(certificates: Certificates) -> None:
    needed = ["xadd", "xread", "xrange", "xtrim", "del", "expire"]
    connecting = ["hello", "auth", "select", "ping", "client"]
    allowed = [f"+{command}" for command in needed + connecting]
    user = ["--user", "worker", "on", ">secret", "~app:*", "-@all", *allowed]
    async with RedisServer(user, certificates=certificates) as server:
        url = server.tls_url.replace("rediss://", "rediss://worker:secret@")
        trusted = f"{url}?ssl_ca_certs={certificates.authority}"
        async with opened(RedisBroker(trusted, prefix="app")) as broker:
            await carries(broker)
        async with opened(
            RedisBroker(url, prefix="app", ssl_ca_certs=str(certificates.authority))
        ) as b:
            await carries(b)
        for refused in (
            RedisBroker(trusted),  # keys that the user has no access to
            RedisBroker(trusted.replace("secret", "wrong"), prefix="app"),
            RedisBroker(url, prefix="app"),  # signed by nobody that is known
        ):
            async with opened(refused):
                with pytest.raises(BrokerUnavailableError):
                    await carries(refused)


class Guarded(RabbitMQServer):
    """A server on which the worker may do what it needs to, and no more."""

    def _definitions(self) -> dict[str, list[dict[str, object]]]:
        definitions = super()._definitions()
        for permission in definitions["permissions"]:
            if permission["user"] == "worker":
                allowed = r"^(dollop\..*|amq\.gen.*|amq\.default)$"
                permission |= {"configure": allowed, "write": allowed, "read": allowed}
        return definitions


async def test_rabbitmq_with_tls_a_virtual_host_and_a_user(certificates: Certificates) -> None:
    async with Guarded(
        certificates=certificates, users={"worker": "secret"}, virtual_hosts=["app/one"]
    ) as server:
        base = server.tls_url.replace("guest:guest", "worker:secret")
        trusted = f"{base}app%2Fone?cafile={certificates.authority}"
        await carries(RabbitMQBroker(trusted))
        context = ssl.create_default_context(cafile=str(certificates.authority))
        await carries(RabbitMQBroker(f"{base}app%2Fone", ssl_context=context))
        for refused in (
            RabbitMQBroker(f"{base}?cafile={certificates.authority}".replace("secret", "wrong")),
            RabbitMQBroker(f"{base}nowhere?cafile={certificates.authority}"),
            RabbitMQBroker(trusted, prefix="other"),  # names that the user has no access to
            RabbitMQBroker(f"{base}app%2Fone"),  # signed by nobody that is known
        ):
            with pytest.raises(BrokerUnavailableError):
                await carries(refused)


async def test_a_virtual_host_that_is_not_there_is_told(rabbitmq_url: str) -> None:
    broker = RabbitMQBroker(f"{rabbitmq_url.rstrip('/')}/nowhere")
    with pytest.raises(BrokerUnavailableError, match="virtual host"):
        await carries(broker)


async def test_a_server_that_refuses_is_no_error_in_the_drivers_log(
    caplog: pytest.LogCaptureFixture,
) -> None:
    for url in ("amqp://guest:guest@127.0.0.1:1/", "redis://127.0.0.1:1"):
        async with opened(from_url(url)) as broker:
            with pytest.raises(BrokerUnavailableError, match=r"127\.0\.0\.1:1"):
                await carries(broker)
    assert not caplog.records


async def test_a_url_is_enough(redis_url: str, rabbitmq_url: str) -> None:
    for url in (redis_url, rabbitmq_url):
        async with opened(from_url(url)) as broker:
            await carries(broker)


@pytest.mark.parametrize("namespace", ["a:b", "a.b", "ä ö/%2F~", "x" * 256, "\N{SNOWMAN}" * 256])
async def test_namespaces_of_any_name(redis_url: str, rabbitmq_url: str, namespace: str) -> None:
    for url in (redis_url, rabbitmq_url):
        async with opened(from_url(url)) as broker:
            await carries(broker, f"{namespace[:-4]}{secrets.token_hex(2)}")


# -- Redis -----------------------------------------------------------------------------------------


@asynccontextmanager
async def bare(url: str) -> AsyncIterator[redis.asyncio.Redis]:
    client = redis.asyncio.Redis.from_url(url)
    try:
        yield client
    finally:
        await client.aclose()


async def test_redis_keeps_no_key_for_ever(redis_url: str) -> None:
    prefix = f"t{secrets.token_hex(4)}"
    async with opened(RedisBroker(redis_url, prefix=prefix)) as broker, bare(redis_url) as client:
        async with broker.connect("school", "one") as one, broker.connect("school", "two") as two:
            async with two.receive_transfer("place", timeout=PATIENCE) as chunks:
                giving = asyncio.create_task(give(one))
                assert await anext(chunks) == b"a"
                keys = await client.keys(f"{prefix}:*")
                assert len(keys) == 3
                assert all([0 < await client.ttl(key) <= 3_600 for key in keys])
            await giving_ends(giving)
        left = await client.keys(f"{prefix}:*")
        assert f"{prefix}:events:school".encode() in left
        assert all([0 < await client.ttl(key) <= 3_600 for key in left])


async def giving_ends(giving: asyncio.Task[None]) -> None:
    with suppress(BrokerUnavailableError):  # the reader may have left before the end
        await giving


@pytest.mark.parametrize("how", ["deleted", "trimmed", "flushed"])
async def test_a_stream_that_is_not_what_it_was_is_a_gap(redis_url: str, how: str) -> None:
    prefix = f"t{secrets.token_hex(4)}"
    key = f"{prefix}:events:school"
    async with opened(RedisBroker(redis_url, prefix=prefix)) as broker, bare(redis_url) as client:
        async with broker.connect("school", "reader") as reader, Tap(reader, PATIENCE) as tap:
            await reader.publish(b"before")
            await tap.until_message(b"before")
            position = reader.position
        if how == "trimmed":
            for _ in range(3):
                await client.xadd(key, {b"p": b"missed"})
            await client.xtrim(key, maxlen=1, approximate=False)
        else:
            await client.delete(key)
        if how == "flushed":  # and begun anew by a server whose clock is behind
            await client.xadd(key, {b"p": b"earlier"}, id="1-1")
        async with broker.connect("school", "reader", after=position) as reader:
            async with Tap(reader, PATIENCE) as tap:
                await tap.until_gap()
                await reader.publish(b"after")
                if how != "flushed":
                    await tap.until_message(b"after")
                    assert isinstance(tap.deliveries[0], Gap)


async def test_a_stream_that_is_emptied_under_a_reader_is_a_gap(redis_url: str) -> None:
    prefix = f"t{secrets.token_hex(4)}"
    async with opened(RedisBroker(redis_url, prefix=prefix)) as broker, bare(redis_url) as client:
        async with broker.connect("school", "reader") as reader, Tap(reader, PATIENCE) as tap:
            await reader.publish(b"before")
            await tap.until_message(b"before")
            await client.delete(f"{prefix}:events:school")
            await tap.until_gap()
            await reader.publish(b"after")
            await tap.until_message(b"after")


async def test_a_node_goes_on_where_it_was(redis_url: str) -> None:
    """Nothing is missed, and nothing comes twice, so there is no gap."""
    namespace = f"resume-{secrets.token_hex(4)}"
    async with opened(RedisBroker(redis_url)) as broker:
        async with broker.connect(namespace, "writer") as writer:
            async with broker.connect(namespace, "reader") as reader:
                await writer.publish(b"1")
                async with Tap(reader, PATIENCE) as tap:
                    await tap.until_message(b"1")
            await writer.publish(b"2")
            async with broker.connect(namespace, "reader", after=reader.position) as again:
                async with Tap(again, PATIENCE) as tap:
                    await writer.publish(b"3")
                    await tap.until_message(b"3")
                    assert tap.messages == [b"2", b"3"]
                    assert len(tap.deliveries) == 2


async def test_large_messages_leave_room_for_fewer(redis_url: str) -> None:
    prefix = f"t{secrets.token_hex(4)}"
    async with opened(RedisBroker(redis_url, prefix=prefix)) as broker, bare(redis_url) as client:
        async with broker.connect("school", "writer") as writer:
            for _ in range(300):
                await writer.publish(bytes(1 << 20))
            used = await client.memory_usage(f"{prefix}:events:school", samples=0)
            assert used is not None
            assert used < 200 << 20
        await client.delete(f"{prefix}:events:school")
