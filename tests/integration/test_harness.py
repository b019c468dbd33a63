"""The servers and the proxy that the other tests rely on do what they say."""

from __future__ import annotations

import asyncio
import os
import ssl
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path
from urllib.parse import urlsplit

import aio_pika
import pytest
from aio_pika.exceptions import ChannelNotFoundEntity
from redis.asyncio import Redis
from redis.exceptions import ConnectionError as RedisConnectionError

from . import services
from .presence import rabbitmq_answers, redis_answers
from .proxy import Proxy, reset
from .servers import Certificates, RabbitMQServer, RedisServer, Server
from .services import REDIS, Services

QUIET = 0.2
"""Seconds of silence that count as silence: an answer takes a thousandth of that."""


async def answers(server: Server) -> None:
    ask = redis_answers if isinstance(server, RedisServer) else rabbitmq_answers
    await ask(server.url)


async def leave_something(server: Server) -> None:
    if isinstance(server, RedisServer):
        async with Redis.from_url(server.url) as client:
            await client.set("left", "here")
    else:
        async with await aio_pika.connect(server.url) as connection:
            await (await connection.channel()).declare_queue("left", durable=True)


async def something_left(server: Server) -> bool:
    if isinstance(server, RedisServer):
        async with Redis.from_url(server.url) as client:
            return bool(await client.exists("left"))
    async with await aio_pika.connect(server.url) as connection:
        try:
            await (await connection.channel()).get_queue("left")
        except ChannelNotFoundEntity:
            return False
        return True


def processes_of(server: Server) -> list[int]:
    """Those that work in the server's folder or know of it, its children included."""
    folder = os.fsencode(server.folder)
    found: list[int] = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            known = process.joinpath("environ").read_bytes()
            place = os.fsencode(process.joinpath("cwd").readlink())
        except OSError:
            continue  # it is gone, or another user's
        if folder in known or folder in place:
            found.append(int(process.name))
    return found


async def nothing_remains_of(server: Server) -> None:
    assert not server.running
    assert not server.folder.exists()
    if sys.platform == "linux":
        while processes_of(server):  # its children notice on their own that it is gone
            await asyncio.sleep(0.01)


# -- servers ---------------------------------------------------------------------------------------


@pytest.fixture(params=["redis_server", "rabbitmq_server"])
def server(request: pytest.FixtureRequest) -> Server:
    server = request.getfixturevalue(request.param)
    assert isinstance(server, Server)
    return server


async def test_a_frozen_server_accepts_and_is_silent_until_it_is_thawed(server: Server) -> None:
    server.freeze()
    _, writer = await asyncio.open_connection(server.host, server.port)
    writer.close()
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(QUIET):
            await answers(server)
    assert server.running
    server.thaw()
    await answers(server)


async def test_a_killed_server_refuses_and_starts_again_empty_where_it_was(server: Server) -> None:
    await leave_something(server)
    assert await something_left(server)
    url, pid = server.url, server.pid
    server.freeze()  # which does not protect it
    await server.kill()
    with pytest.raises(ProcessLookupError):
        os.kill(pid, 0)
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection(server.host, server.port)
    await server.start()
    assert server.url == url
    assert not await something_left(server)


async def test_redis_with_options_users_and_tls(certificates: Certificates) -> None:
    options = ["--stream-node-max-entries", "10"]
    options += ["--user", "worker", "on", ">secret", "~app:*", "+@all"]
    async with RedisServer(options, certificates=certificates) as server:
        assert processes_of(server) == [server.pid]
        url = server.tls_url.replace("//", "//worker:secret@")
        authority = str(certificates.authority)
        async with Redis.from_url(url, ssl_ca_certs=authority) as client:
            assert await client.acl_whoami() == "worker"
            found = await client.config_get("stream-node-max-entries")
            assert found == {"stream-node-max-entries": "10"}
    await nothing_remains_of(server)


async def test_rabbitmq_with_config_users_virtual_hosts_and_tls(certificates: Certificates) -> None:
    async with RabbitMQServer(
        ["channel_max = 7"],
        users={"worker": "secret"},
        virtual_hosts=["app"],
        certificates=certificates,
    ) as server:
        assert server.pid in processes_of(server)
        url = server.tls_url.replace("guest:guest", "worker:secret") + "app"
        context = ssl.create_default_context(cafile=certificates.authority)
        async with await aio_pika.connect(url, ssl_context=context) as connection:
            await (await connection.channel()).declare_queue("here", exclusive=True)
            assert connection.transport is not None
            tuned = connection.transport.connection.connection_tune
            assert tuned is not None
            assert tuned.channel_max == 7
    await nothing_remains_of(server)


async def test_two_servers_at_once() -> None:
    async with RedisServer() as one, RedisServer() as other:
        assert one.url != other.url
        await leave_something(one)
        assert not await something_left(other)


async def test_a_server_that_does_not_start_says_why_and_leaves_nothing() -> None:
    server = RedisServer(["--no-such-option", "1"])
    with pytest.raises(RuntimeError, match="no-such-option"):
        async with server:
            pytest.fail("it has started")
    await nothing_remains_of(server)


@pytest.mark.parametrize("promised", [False, True])
async def test_without_the_program_a_test_is_skipped_or_fails_as_promised(
    promised: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DOLLOP_REQUIRE_SERVICES", str(int(promised)))
    monkeypatch.setattr(RedisServer, "program", "no-such-program")
    outcome = pytest.fail.Exception if promised else pytest.skip.Exception
    with pytest.raises(outcome, match="no no-such-program on this machine"):
        async with RedisServer():
            pass


# -- where services come from ----------------------------------------------------------------------


async def test_the_services_answer(redis_url: str, rabbitmq_url: str) -> None:
    await redis_answers(redis_url)
    await rabbitmq_answers(rabbitmq_url)


def test_a_url_in_the_environment_comes_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DOLLOP_REDIS_URL", "redis://example.org:1/0")
    assert Services().find(REDIS) == "redis://example.org:1/0"


async def test_then_without_docker_a_private_process_which_ends_with_the_session(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.delenv("DOLLOP_REDIS_URL", raising=False)
    monkeypatch.setattr(services, "docker_answers", lambda: False)
    found = Services()
    url = found.url(REDIS)
    assert urlsplit(url).port != REDIS.port
    assert found.url(REDIS) == url
    await redis_answers(url)
    found.close()
    with pytest.raises(RedisConnectionError):
        await redis_answers(url)


async def test_then_what_listens_on_the_usual_port(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("DOLLOP_REDIS_URL", raising=False)
    monkeypatch.setattr(services, "docker_answers", lambda: False)
    monkeypatch.setattr(RedisServer, "program", "no-such-program")
    service = replace(REDIS, port=redis_server.port)
    assert Services().find(service) == redis_server.url
    await redis_server.kill()
    assert isinstance(Services().find(service), LookupError)


# -- the proxy -------------------------------------------------------------------------------------


@dataclass
class Far:
    """A server that a proxy leads to, and what it is asked without a driver."""

    url: str
    question: bytes
    answer: bytes


@dataclass
class Caller:
    """A bare connection through the proxy."""

    far: Far
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter

    async def hears(self) -> None:
        assert await self.reader.readexactly(len(self.far.answer)) == self.far.answer

    async def hears_nothing(self) -> None:
        """Neither a byte, nor an end, nor a reset."""
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(QUIET):
                await self.reader.read(1)

    async def is_reset(self) -> None:
        with pytest.raises(ConnectionResetError):
            await self.reader.read(1)

    def asks(self) -> None:
        self.writer.write(self.far.question)


class Callers:
    """Bare connections through a proxy, closed at the end of the test."""

    def __init__(self, far: Far, proxy: Proxy) -> None:
        self.far, self.proxy = far, proxy
        self.writers: list[asyncio.StreamWriter] = []

    async def another(self) -> Caller:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.proxy.port)
        self.writers.append(writer)
        return Caller(self.far, reader, writer)

    async def another_that_is_served(self) -> Caller:
        caller = await self.another()
        caller.asks()
        await caller.hears()
        return caller


@pytest.fixture
async def proxy(far: Far) -> AsyncIterator[Proxy]:
    async with Proxy.before(far.url) as proxy:
        yield proxy
    assert proxy.connections == 0


@pytest.fixture
async def callers(far: Far, proxy: Proxy) -> AsyncIterator[Callers]:
    callers = Callers(far, proxy)
    yield callers
    for writer in callers.writers:
        writer.transport.abort()


class OnAnyServer:
    async def test_it_carries_and_counts(self, proxy: Proxy, callers: Callers) -> None:
        assert (proxy.connections, proxy.accepted) == (0, 0)
        first = await callers.another_that_is_served()
        await callers.another_that_is_served()
        assert (proxy.connections, proxy.accepted) == (2, 2)
        first.writer.close()
        while proxy.connections != 1:  # both ends have to agree
            await asyncio.sleep(0)
        assert proxy.accepted == 2

    async def test_a_cut_resets_and_refuses(self, proxy: Proxy, callers: Callers) -> None:
        caller = await callers.another_that_is_served()
        await proxy.cut()
        assert proxy.connections == 0
        await caller.is_reset()
        with pytest.raises(ConnectionRefusedError):
            await callers.another()
        await proxy.restore()
        await callers.another_that_is_served()

    async def test_an_outage_is_a_cut_with_an_end(self, proxy: Proxy, callers: Callers) -> None:
        async with proxy.outage():
            with pytest.raises(ConnectionRefusedError):
                await callers.another()
        await callers.another_that_is_served()

    async def test_a_stall_delivers_late_what_was_sent(
        self, proxy: Proxy, callers: Callers
    ) -> None:
        old = await callers.another()
        proxy.stall()
        new = await callers.another()
        old.asks()
        new.asks()
        await old.hears_nothing()
        await new.hears_nothing()
        proxy.resume()
        await old.hears()
        await new.hears()

    async def test_a_stall_delays_a_reset_too(self, proxy: Proxy, callers: Callers) -> None:
        caller = await callers.another_that_is_served()
        proxy.stall()
        reset(caller.writer)
        await asyncio.sleep(QUIET)
        assert proxy.connections == 1
        proxy.resume()
        while proxy.connections:
            await asyncio.sleep(0)

    async def test_a_half_open_link_tells_nobody(self, proxy: Proxy, callers: Callers) -> None:
        old = await callers.another()
        proxy.half_open()
        new = await callers.another()
        for caller in (old, new):
            caller.asks()
            await caller.hears_nothing()
        assert proxy.accepted == 2
        await proxy.restore()
        await old.is_reset()
        await new.is_reset()
        await callers.another_that_is_served()

    async def test_behind_a_half_open_link_new_connections_may_work(
        self, proxy: Proxy, callers: Callers
    ) -> None:
        old = await callers.another()
        while proxy.connections == 0:
            await asyncio.sleep(0)
        proxy.half_open(new="carried")
        await callers.another_that_is_served()
        old.asks()
        await old.hears_nothing()

    async def test_behind_a_half_open_link_new_connections_may_be_refused(
        self, proxy: Proxy, callers: Callers
    ) -> None:
        old = await callers.another()
        while proxy.connections == 0:
            await asyncio.sleep(0)
        proxy.half_open(new="refused")
        with pytest.raises(ConnectionRefusedError):
            await callers.another()
        old.asks()
        await old.hears_nothing()
        await proxy.restore()
        await callers.another_that_is_served()

    async def test_it_leaves_no_task_behind(self, far: Far) -> None:
        before = asyncio.all_tasks()
        async with Proxy.before(far.url) as proxy:
            callers = Callers(far, proxy)
            served = await callers.another_that_is_served()
            await callers.another()
            proxy.stall()
            await callers.another()
        assert asyncio.all_tasks() == before
        await served.is_reset()
        for writer in callers.writers:
            writer.transport.abort()


class TestToRedis(OnAnyServer):
    @pytest.fixture
    def far(self, redis_server: RedisServer) -> Far:
        return Far(redis_server.url, b"PING\r\n", b"+PONG\r\n")

    async def test_the_driver_goes_through_it(self, far: Far, proxy: Proxy) -> None:
        async with Redis.from_url(proxy.url(far.url)) as client:
            await client.ping()
            assert proxy.connections == 1

    async def test_what_is_delayed_stays_in_order(self, proxy: Proxy, callers: Callers) -> None:
        caller = await callers.another_that_is_served()
        proxy.delay(0.05)
        now = asyncio.get_running_loop().time
        began = now()
        for number in range(100):
            caller.writer.write(b"ECHO %03d\r\n" % number)
            await asyncio.sleep(0)
        for number in range(100):
            assert await caller.reader.readexactly(9) == b"$3\r\n%03d\r\n" % number
        assert now() - began >= 0.1  # there and back
        proxy.delay(0)
        caller.asks()
        await caller.hears()

    async def test_half_open_to_the_server_only(
        self, far: Far, proxy: Proxy, callers: Callers
    ) -> None:
        caller = await callers.another()
        caller.writer.write(b"SUBSCRIBE dollop-news\r\n")
        assert (await caller.reader.readexactly(4)) == b"*3\r\n"
        await caller.reader.readuntil(b":1\r\n")
        proxy.half_open("up")
        caller.asks()
        await caller.hears_nothing()
        async with Redis.from_url(far.url) as client:
            assert await client.publish("dollop-news", "still") == 1
            await caller.reader.readuntil(b"still\r\n")
            caller.writer.transport.abort()
            for _ in range(3):  # what it answers this with does not reach the server either
                assert await client.publish("dollop-news", "nobody") == 1
                await asyncio.sleep(0.01)

    async def test_half_open_from_the_server_only(
        self, far: Far, proxy: Proxy, callers: Callers
    ) -> None:
        caller = await callers.another_that_is_served()
        proxy.half_open("down")
        key = f"dollop-{proxy.port}"
        caller.writer.write(b"SET %s 1 EX 60\r\n" % key.encode())
        await caller.hears_nothing()
        async with Redis.from_url(far.url) as client:
            assert await client.get(key) == b"1"
            await client.delete(key)


class TestToRabbitMQ(OnAnyServer):
    @pytest.fixture
    def far(self, rabbitmq_server: RabbitMQServer) -> Far:
        return Far(rabbitmq_server.url, b"AMQP\x00\x00\x09\x01", b"\x01\x00\x00")

    async def test_the_driver_goes_through_it(self, far: Far, proxy: Proxy) -> None:
        async with await aio_pika.connect(proxy.url(far.url)):
            assert proxy.connections == 1


async def test_a_proxy_before_a_dead_server(redis_server: RedisServer) -> None:
    async with Proxy.before(redis_server.url) as proxy:
        far = Far(redis_server.url, b"PING\r\n", b"+PONG\r\n")
        callers = Callers(far, proxy)
        caller = await callers.another_that_is_served()
        await redis_server.kill()
        assert await caller.reader.read(1) == b""
        caller.writer.close()
        await (await callers.another()).is_reset()
        await redis_server.start()
        await callers.another_that_is_served()
    for writer in callers.writers:
        writer.transport.abort()


@pytest.mark.parametrize("stalled", [True, False])
async def test_a_sender_is_held_back_by_a_stall_and_by_a_slow_receiver_and_nothing_is_lost(
    stalled: bool,
) -> None:
    received, reading = 0, asyncio.Event()

    async def sink(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal received
        await reading.wait()
        while data := await reader.read(1 << 20):
            received += len(data)
        writer.write(b"all")
        writer.close()

    listener = await asyncio.start_server(sink, "127.0.0.1", 0)
    async with listener, Proxy("127.0.0.1", listener.sockets[0].getsockname()[1]) as proxy:
        reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port)
        if stalled:
            proxy.stall()
            reading.set()
        sent, held_back, chunk = 0, False, bytes(1 << 20)
        while not held_back:
            assert sent < 100 * len(chunk), "it takes whatever comes"
            writer.write(chunk)
            sent += len(chunk)
            try:
                async with asyncio.timeout(QUIET):
                    await writer.drain()
            except TimeoutError:
                held_back = True
        assert received == 0
        proxy.resume()
        reading.set()
        writer.write_eof()
        assert await reader.read() == b"all"
        assert received == sent
        writer.close()
        await writer.wait_closed()


async def test_a_url_through_the_proxy_keeps_all_but_host_and_port() -> None:
    proxy = Proxy("127.0.0.1", 1)
    through = proxy.url("amqps://user:p%40ss@example.org:5671/host?heartbeat=3")
    assert through == f"amqps://user:p%40ss@127.0.0.1:{proxy.port}/host?heartbeat=3"
    async with proxy:
        pass
