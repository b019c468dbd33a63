"""Nodes on real brokers, all in the test's own process: who sees whom, start and stop, and a broker that is away."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
from collections import Counter
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, replace
from typing import Any

import aio_pika
import pytest
import redis.asyncio

from imperfect_dollop import FunctionSource, Node, Repository
from imperfect_dollop.brokers.rabbitmq import RabbitMQBroker
from imperfect_dollop.brokers.redis import RedisBroker
from imperfect_dollop.errors import BrokerUnavailableError

from .proxy import Proxy

PATIENCE = 20.0

BEAT = 0.2


@dataclass(frozen=True, slots=True)
class Row:
    id: int
    text: str


class Rows:
    """What a table is to a source: rows, and a count of what was asked."""

    def __init__(self, count: int) -> None:
        self.rows = {number: Row(number, "first") for number in range(count)}
        self.calls: Counter[str] = Counter()

    def source(self) -> FunctionSource[int, Row]:
        return FunctionSource(
            load=self.load,
            load_all=self.load_all,
            create=self.write,
            update=self.write,
            delete=self.delete,
        )

    async def load(self, key: int) -> Row | None:
        return self.rows.get(key)

    async def load_all(self) -> list[Row]:
        self.calls["load_all"] += 1
        return list(self.rows.values())

    async def write(self, row: Row) -> Row:
        self.rows[row.id] = row
        return row

    async def delete(self, key: int) -> None:
        del self.rows[key]

    def repository(self, name: str = "rows") -> Repository[int, Row]:
        return Repository(Row, source=self.source(), name=name)


@pytest.fixture
async def proxy(url: str) -> AsyncIterator[Proxy]:
    async with Proxy.before(url) as proxy:
        yield proxy


@pytest.fixture
def namespace() -> str:
    return f"nodes-{secrets.token_hex(6)}"


async def eventually(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(PATIENCE):
        while not condition():
            await asyncio.sleep(0.01)


def up(node: Node) -> bool:
    return bool(node.status()["broker"]["up"])


def unsent(node: Node) -> int:
    return sum(each["unsent"] for each in node.status()["repositories"].values())


async def test_nodes_share_a_load_and_see_each_others_writes(url: str, namespace: str) -> None:
    rows = Rows(2_000)
    one, two = rows.repository(), rows.repository()
    async with Node(url, one, namespace=namespace), Node(url, two, namespace=namespace) as node:
        assert rows.calls["load_all"] == 1
        assert two.stats.snapshots == 1
        await one.update(Row(7, "changed"))
        await one.delete(8)
        await two.create(Row(9_999, "new"))
        await node.flush()
        await eventually(lambda: two.peek(7) == Row(7, "changed") and two.peek(8) is None)
        await eventually(lambda: one.peek(9_999) == Row(9_999, "new"))
        assert dict(one.items()) == dict(two.items()) == rows.rows
        assert one.stats.gaps == two.stats.gaps == 0


async def test_several_repositories_and_namespaces_do_not_see_each_other(
    url: str, namespace: str
) -> None:
    apples, pears, others = Rows(10), Rows(20), Rows(30)
    mine = apples.repository("apples"), pears.repository("pears")
    yours = apples.repository("apples"), pears.repository("pears")
    elsewhere = others.repository("apples")
    async with (
        Node(url, *mine, namespace=namespace, heartbeat=BEAT) as one,
        Node(url, *yours, namespace=namespace, heartbeat=BEAT) as two,
        Node(url, elsewhere, namespace=f"{namespace}-2", heartbeat=BEAT) as third,
    ):
        await eventually(lambda: len(one.members) == len(two.members) == 2)
        await mine[0].update(Row(1, "an apple"))
        await mine[1].update(Row(1, "a pear"))
        await eventually(lambda: yours[0].peek(1) == Row(1, "an apple"))
        await eventually(lambda: yours[1].peek(1) == Row(1, "a pear"))
        await elsewhere.update(Row(1, "from elsewhere"))
        await third.flush()
        await mine[0].update(Row(2, "later"))
        await eventually(lambda: yours[0].peek(2) == Row(2, "later"))
        assert yours[0].peek(1) == Row(1, "an apple")
        assert elsewhere.peek(2) == Row(2, "first")
        assert third.members == (third.name,)
        assert apples.calls["load_all"] == pears.calls["load_all"] == 1
        assert sum(each.stats.rejected for each in (*mine, *yours, elsewhere)) == 0


async def test_fifty_nodes(url: str, namespace: str) -> None:
    rows = Rows(200)
    repositories = [rows.repository() for _ in range(50)]
    nodes = [Node(url, each, namespace=namespace, heartbeat=2.0) for each in repositories]
    async with contextlib.AsyncExitStack() as stack:
        for some in range(
            0, 50, 10
        ):  # they share a process: so many can connect in the time that each has
            await asyncio.gather(*map(stack.enter_async_context, nodes[some : some + 10]))
        await eventually(lambda: all(len(node.members) == 50 for node in nodes))
        assert rows.calls["load_all"] == 1
        for number, repository in enumerate(repositories):
            await repository.update(Row(number, f"by node {number}"))
        await eventually(lambda: all(dict(each.items()) == rows.rows for each in repositories))
        assert sum(each.stats.gaps for each in repositories) == 0
        assert rows.calls["load_all"] == 1


# -- start and stop --------------------------------------------------------------------------------


async def test_the_broker_is_away_at_the_start_and_that_is_an_error(
    url: str, proxy: Proxy, namespace: str
) -> None:
    repository = Rows(3).repository()
    node = Node(proxy.url(url), repository, namespace=namespace, startup="raise")
    async with proxy.outage():
        with pytest.raises(BrokerUnavailableError) as caught:
            async with asyncio.timeout(PATIENCE):
                await node.__aenter__()
    assert "guest" not in str(caught.value)
    assert repository.state == "closed"
    async with node:  # and can be tried again
        assert len(repository) == 3


async def test_the_broker_is_away_at_the_start_and_is_waited_for(
    url: str, proxy: Proxy, namespace: str
) -> None:
    rows = Rows(3)
    repository = rows.repository()
    node = Node(proxy.url(url), repository, namespace=namespace, startup="wait")
    async with proxy.outage():
        entering = asyncio.create_task(node.__aenter__())
        await eventually(lambda: node.status()["open"] and node.status()["broker"]["failure"])
        assert not rows.calls
        assert not entering.done()
    async with asyncio.timeout(PATIENCE):
        await entering
    assert up(node)
    assert len(repository) == 3
    await node.__aexit__(None, None, None)


async def test_the_broker_is_away_at_the_start_and_comes_later(
    url: str, proxy: Proxy, namespace: str
) -> None:
    rows = Rows(3)
    one, two = rows.repository(), rows.repository()
    async with proxy.outage():
        first = Node(proxy.url(url), one, namespace=namespace, heartbeat=BEAT)
        second = Node(proxy.url(url), two, namespace=namespace, heartbeat=BEAT)
        await first.__aenter__()
        await second.__aenter__()
        assert one.state == two.state == "degraded"
        await one.update(Row(1, "while it was away"))
        assert unsent(first) == 1
    await eventually(lambda: two.peek(1) == Row(1, "while it was away"))
    await eventually(lambda: one.state == two.state == "ready")
    await eventually(lambda: len(first.members) == len(second.members) == 2)
    await first.__aexit__(None, None, None)
    await second.__aexit__(None, None, None)


async def test_what_is_written_while_the_broker_is_away_arrives_in_order(
    url: str, proxy: Proxy, namespace: str
) -> None:
    rows = Rows(50)
    one, two = rows.repository(), rows.repository()
    async with (
        Node(proxy.url(url), one, namespace=namespace, heartbeat=BEAT) as writer,
        Node(url, two, namespace=namespace, heartbeat=BEAT),
    ):
        async with proxy.outage():
            await eventually(lambda: not up(writer))
            for number in range(300):
                await one.update(Row(number % 50, f"write {number}"))
            flushing = asyncio.create_task(writer.flush())
            await asyncio.sleep(0)
            assert unsent(writer) == 300
            assert not flushing.done()
            assert one.peek(49) == Row(49, "write 299")
        async with asyncio.timeout(PATIENCE):
            await flushing
        await eventually(lambda: dict(two.items()) == rows.rows)
        assert two.stats.applied == 300
        assert two.stats.doubts == two.stats.gaps == 0


async def test_what_is_left_at_shutdown_is_said(
    url: str, proxy: Proxy, namespace: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING, "imperfect_dollop")
    repository = Rows(5).repository()
    node = Node(
        proxy.url(url), repository, namespace=namespace, heartbeat=BEAT, shutdown_timeout=0.3
    )
    async with node:
        await proxy.cut()
        await eventually(lambda: not up(node))
        await repository.update(Row(1, "for nobody"))
    assert "never sent" in caplog.text
    assert "{'rows': 1}" in caplog.text


async def test_a_half_open_link_is_noticed_and_left(url: str, proxy: Proxy, namespace: str) -> None:
    rows = Rows(20)
    one, two = rows.repository(), rows.repository()
    async with (
        Node(proxy.url(url), one, namespace=namespace, heartbeat=BEAT) as behind,
        Node(url, two, namespace=namespace, heartbeat=BEAT),
    ):
        proxy.half_open(new="refused")
        await eventually(lambda: not up(behind))
        await two.update(Row(3, "while nobody heard"))
        await one.update(Row(4, "while nobody was told"))
        await proxy.restore()
        await eventually(lambda: dict(one.items()) == dict(two.items()) == rows.rows)
        await eventually(lambda: one.state == two.state == "ready")


async def test_leaving_while_the_link_is_half_open_comes_to_an_end(
    url: str, proxy: Proxy, namespace: str
) -> None:
    before = asyncio.all_tasks()
    node = Node(proxy.url(url), Rows(3).repository(), namespace=namespace, shutdown_timeout=0.3)
    async with asyncio.timeout(PATIENCE):
        async with node:
            proxy.half_open()
    await proxy.cut()
    await eventually(lambda: not asyncio.all_tasks() - before)


# -- what was handed in ----------------------------------------------------------------------------


async def test_a_redis_client_that_was_handed_in_stays_open(redis_url: str, namespace: str) -> None:
    client = redis.asyncio.Redis.from_url(redis_url)
    async with Node(RedisBroker(client), Rows(3).repository(), namespace=namespace):
        pass
    assert await client.ping()
    await client.aclose()


async def test_a_rabbitmq_connection_that_was_handed_in_stays_open(
    rabbitmq_url: str, namespace: str
) -> None:
    connection = await aio_pika.connect(rabbitmq_url)
    async with Node(RabbitMQBroker(connection), Rows(3).repository(), namespace=namespace):
        pass
    async with connection.channel() as channel:
        queue = await channel.declare_queue(exclusive=True)
        assert queue.name
    await connection.close()


async def test_whose_connection_was_handed_in_keeps_it_whatever_happens_to_our_exchange(
    rabbitmq_url: str, namespace: str
) -> None:
    """The server closes our channel then, and would close the connection for what we send after that."""
    rows = Rows(50)
    mine, yours = rows.repository(), rows.repository()
    connection = await aio_pika.connect(rabbitmq_url)
    broker = RabbitMQBroker(connection)
    async with (
        Node(broker, mine, namespace=namespace, heartbeat=BEAT) as one,
        Node(rabbitmq_url, yours, namespace=namespace, heartbeat=BEAT) as two,
        connection.channel() as channel,
    ):
        await eventually(lambda: len(one.members) == len(two.members) == 2)
        for number in range(5):
            deleted = asyncio.create_task(
                channel.exchange_delete(broker._server.name(namespace), if_unused=False)
            )
            await asyncio.gather(
                *(mine.update(Row(key, f"round {number}")) for key in range(50)), deleted
            )
            await eventually(lambda: dict(yours.items()) == rows.rows)
        assert not connection.is_closed
        assert not channel.is_closed
    await connection.close()


async def test_many_nodes_share_one_redis_broker(redis_url: str, namespace: str) -> None:
    rows = Rows(100)
    repositories = [rows.repository() for _ in range(60)]
    broker = RedisBroker(redis_url)
    async with contextlib.AsyncExitStack() as stack:
        nodes = [Node(broker, each, namespace=namespace, heartbeat=2.0) for each in repositories]
        await asyncio.gather(*map(stack.enter_async_context, nodes))
        assert all(each.state == "ready" for each in repositories)
        assert rows.calls["load_all"] == 1
    await broker.aclose()


async def test_a_connection_that_was_handed_in_and_closed_is_a_broker_that_is_away(
    rabbitmq_url: str, namespace: str
) -> None:
    connection = await aio_pika.connect(rabbitmq_url)
    repository = Rows(3).repository()
    async with Node(
        RabbitMQBroker(connection),
        repository,
        namespace=namespace,
        heartbeat=BEAT,
        shutdown_timeout=0.1,
    ) as node:
        await connection.close()
        await eventually(lambda: not up(node))
        stored = await repository.update(replace(repository[1], text="all the same"))
        assert repository.peek(1) == stored
        failure: Any = node.status()["broker"]["failure"]
        assert "closed" in failure
