"""What is missing on real brokers: sent again, found by comparing copies, or read from the source by one for all.

The nodes share the test's process. What one of them does not hear is dropped between its link and it; all else, the
answers and the transfers of a repair too, goes over the broker.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import pytest
import redis.asyncio

from imperfect_dollop import Node
from imperfect_dollop.broker import Broker, Delivery, Message
from imperfect_dollop.brokers.rabbitmq import RabbitMQBroker
from imperfect_dollop.brokers.redis import RedisBroker
from imperfect_dollop.replica import ring as ring_module
from imperfect_dollop.replica.messages import Events, News, decode
from imperfect_dollop.replica.replica import Replica
from imperfect_dollop.upkeep import Upkeep

from .proxy import Proxy
from .servers import Server
from .test_nodes import PATIENCE, Row, Rows, eventually

BEAT = 0.25

ROWS = 2_000


class Lossy:
    """A broker whose deliveries to one node are lost as `drops` says."""

    def __init__(self, inner: Broker) -> None:
        self.inner = inner
        self.drops: Callable[[News], bool] = lambda message: False
        self.dropped = 0

    @asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[Any]:
        async with self.inner.connect(namespace, node, after=after) as link:
            deliveries = link.deliveries

            async def lossy() -> AsyncGenerator[Delivery, None]:
                async with contextlib.aclosing(deliveries()) as all_of_them:
                    async for delivery in all_of_them:
                        if isinstance(delivery, Message) and self.drops(decode(delivery.payload)):
                            self.dropped += 1
                        else:
                            yield delivery

            link.deliveries = lossy  # type: ignore[method-assign]
            yield link

    async def aclose(self) -> None:
        await self.inner.aclose()

    def lose(self, count: int) -> None:
        """The next messages with events do not arrive."""
        left = count

        def drops(message: News) -> bool:
            nonlocal left
            if not isinstance(message, Events) or not left:
                return False
            left -= 1
            return True

        self.drops = drops


class Member:
    """One node and its repository."""

    def __init__(self, url: str, rows: Rows, namespace: str, beat: float) -> None:
        self.broker = Lossy(RedisBroker(url) if url.startswith("redis") else RabbitMQBroker(url))
        self.rows = rows.repository()
        self.node = Node(self.broker, self.rows, namespace=namespace, heartbeat=beat)

    @property
    def upkeep(self) -> Upkeep[Any, Any]:
        session = self.rows._session
        assert session is not None
        return session.upkeep

    @property
    def replica(self) -> Replica[Any, Any]:
        return self.upkeep.replica

    def equal(self, rows: Rows) -> bool:
        ready = self.rows.state == "ready" and self.upkeep.clean
        return ready and dict(self.rows.items()) == rows.rows


@asynccontextmanager
async def fleet(rows: Rows, *urls: str, beat: float = BEAT) -> AsyncIterator[list[Member]]:
    namespace = f"repairs-{secrets.token_hex(6)}"
    members = [Member(url, rows, namespace, beat) for url in urls]
    async with AsyncExitStack() as stack:
        for one in members:
            stack.push_async_callback(one.broker.aclose)
            await stack.enter_async_context(one.node)
        await eventually(lambda: all(len(one.node.members) == len(members) for one in members))
        await all_equal(members, rows)
        # Before they have heard so of each other, what differs is read again rather than taken over.
        await eventually(lambda: all(one.replica.agreement.agreed for one in members))
        assert rows.calls["load_all"] == 1
        yield members


async def all_equal(members: Sequence[Member], rows: Rows, patience: float = PATIENCE) -> None:
    """Wait until all hold what the source has, and know of nothing that is missing."""
    async with asyncio.timeout(patience):
        while not (
            all(one.equal(rows) for one in members)
            and len({one.replica.table.root for one in members}) == 1
        ):
            await asyncio.sleep(0.02)


def counted(members: Sequence[Member], name: str) -> int:
    return sum(getattr(one.rows.stats, name) for one in members)


async def test_a_lost_event_is_sent_again(url: str) -> None:
    rows = Rows(ROWS)
    async with fleet(rows, url, url, url) as members:
        one, other, _ = members
        other.broker.lose(1)
        await one.rows.update(Row(7, "the last before silence"))
        await all_equal(members, rows)
        assert other.broker.dropped == 1
        assert counted(members, "events_resent") == 1
        assert (counted(members, "comparisons"), counted(members, "loads")) == (0, 0)
        assert rows.calls["load_all"] == 1


async def test_what_its_sender_has_no_longer_is_found_in_a_siblings_copy(
    url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring_module, "RING_EVENTS", 1)
    rows = Rows(ROWS)
    async with fleet(rows, url, url, url) as members:
        one, _, other = members
        whole = other.rows.stats.snapshot_bytes
        other.broker.lose(3)
        for key in (7, 8, 9):
            await one.rows.update(Row(key, "changed"))
            await one.node.flush()
        await all_equal(members, rows)
        stats = other.rows.stats
        assert (stats.comparisons, stats.mended, stats.loads) == (1, 3, 0)
        assert stats.snapshot_bytes - whole < whole / 10
        assert rows.calls["load_all"] == 1


async def test_a_difference_that_nobody_knows_of_is_found_by_heartbeats(url: str) -> None:
    rows = Rows(ROWS)
    async with fleet(rows, url, url, url) as members:
        table = members[1].replica.table
        table.put(7, Row(7, "planted"), table.stamp(7))
        table.forget(8)
        await all_equal(members, rows)
        assert 1 <= counted(members, "comparisons") <= 6
        assert 1 <= counted(members, "loads") <= 6
        assert rows.calls["load_all"] == 1


async def test_what_was_written_while_one_was_cut_off_is_in_its_siblings_copies(url: str) -> None:
    rows = Rows(ROWS)
    async with Proxy.before(url) as proxy:
        async with fleet(rows, url, proxy.url(url), url) as members:
            one, cut_off, _ = members
            async with proxy.outage():
                await eventually(lambda: cut_off.rows.state == "degraded")
                for key in range(5):
                    await one.rows.update(Row(key, "changed"))
                await cut_off.rows.update(Row(99, "written without a broker"))
                await one.node.flush()
            await all_equal(members, rows)
            assert cut_off.rows.stats.snapshots == 1  # with which it has begun
            assert rows.calls["load_all"] == 1


async def test_what_one_that_vanished_has_told_nobody_is_read_by_one(url: str) -> None:
    rows = Rows(ROWS)
    async with Proxy.before(url) as proxy:
        async with fleet(rows, proxy.url(url), url, url, url) as members:
            dead, *alive = members
            await proxy.cut()
            await dead.rows.create(Row(ROWS, "nobody was told"))
            await all_equal(alive, rows)
            assert counted(alive, "full_loads") == 1
            await asyncio.sleep(8 * BEAT)
            assert counted(alive, "full_loads") == 1
            await proxy.restore()
            await all_equal(members, rows)


async def test_what_a_stream_has_dropped_before_a_slow_reader_came_is_made_up_for(
    redis_url: str,
) -> None:
    rows = Rows(ROWS)
    async with Proxy.before(redis_url) as proxy:
        # Nobody is to vanish while the reader is slow.
        ways = (redis_url, proxy.url(redis_url), redis_url)
        async with fleet(rows, *ways, beat=1.0) as members:
            one, slow, third = members
            link = one.node._membership.link  # type: ignore[union-attr]
            client = redis.asyncio.Redis.from_url(redis_url)
            try:
                proxy.stall()
                for key in range(5):
                    await one.rows.update(Row(key, "changed"))
                    await one.node.flush()
                await eventually(lambda: third.rows.peek(4) == Row(4, "changed"))
                await asyncio.sleep(1.1)  # after another heartbeat the others are well past it
                stream = link._key  # type: ignore[union-attr]
                entries: Any = await client.xrevrange(stream, count=50)
                deleted = 0
                for entry, fields in entries:
                    if any(b"changed" in value for value in fields.values()):
                        deleted += await client.xdel(stream, entry)
                assert deleted
                proxy.resume()
                await all_equal(members, rows)
                assert slow.rows.stats.gaps
                assert rows.calls["load_all"] == 1
            finally:
                await client.aclose()


async def test_after_the_broker_was_away_for_all_one_reads_the_source(server: Server) -> None:
    rows = Rows(ROWS)
    async with fleet(rows, *[server.url] * 4) as members:
        await server.kill()
        await eventually(lambda: all(one.rows.state == "degraded" for one in members))
        for number, one in enumerate(members):
            await one.rows.update(Row(number, "written without a broker"))
        rows.rows[50] = Row(50, "by SQL")
        await server.start()
        await all_equal(members, rows, 2 * PATIENCE)
        assert rows.calls["load_all"] == 2
        assert counted(members, "comparisons") >= len(members) - 1
