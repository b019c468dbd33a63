"""Two sources in one namespace of a real broker: pairs of nodes write, start, refresh and repair beside each other."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import redis.asyncio
from redis.exceptions import ClusterDownError
from sqlalchemy import Column, Integer, MetaData, String, Table
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from imperfect_dollop import (
    BrokerUnavailableError,
    ConfigurationError,
    Node,
    Repository,
    SourceMismatchError,
)
from imperfect_dollop.brokers import from_url
from imperfect_dollop.brokers.redis import RedisBroker
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource

from .servers import RedisServer
from .test_nodes import PATIENCE, eventually
from .test_repairs import Lossy

BEAT = 0.25

TENANTS = Table(
    "tenants",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("name", String(50), nullable=False),
    Column("region", String(9), nullable=False),
)


@dataclass(frozen=True, slots=True)
class Tenant:
    id: int
    name: str
    region: str


class Side:
    """One source, and the nodes that read it."""

    def __init__(self, engine: AsyncEngine, region: str, *, chosen: bool = False) -> None:
        where = TENANTS.c.region == region if chosen else None
        self.source = SQLAlchemySource(engine, TENANTS, entity=Tenant, where=where)
        self.region = region
        self.nodes: list[Node] = []
        self.brokers: list[Lossy] = []

    @property
    def repositories(self) -> list[Repository[int, Tenant]]:
        return [node.repositories[0] for node in self.nodes]

    def row(self, key: int, name: str) -> Tenant:
        return Tenant(key, name, self.region)

    async def holds_what_the_database_has(self) -> None:
        there = {row.id: row async for chunk in self.source.load_all() for row in chunk}
        await eventually(
            lambda: all(
                each.state == "degraded" and dict(each.items()) == there
                for each in self.repositories
            )
        )

    def total(self, name: str) -> int:
        return sum(getattr(each.stats, name) for each in self.repositories)

    def foreign(self) -> list[list[str]]:
        """What each node says of the members of the other source."""
        found = [node.status()["repositories"]["tenants"]["foreign"] for node in self.nodes]
        return [sorted(name for each in one for name in each["members"]) for one in found]


@asynccontextmanager
async def engine_with_rows(path: Path, **regions: int) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{path}")
    async with engine.begin() as connection:
        await connection.run_sync(TENANTS.metadata.create_all)
        for region, count in regions.items():
            for _ in range(count):
                values = {"name": f"of {path.stem} {region}", "region": region}
                await connection.execute(TENANTS.insert().values(values))
    try:
        yield engine
    finally:
        await engine.dispose()


@pytest.fixture(params=["two databases", "two where="])
async def sides(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[tuple[Side, Side]]:
    async with AsyncExitStack() as stack:
        if request.param == "two databases":
            one = await stack.enter_async_context(engine_with_rows(tmp_path / "one.db", eu=50))
            two = await stack.enter_async_context(engine_with_rows(tmp_path / "two.db", eu=3))
            yield Side(one, "eu"), Side(two, "eu")
            return
        both = await stack.enter_async_context(engine_with_rows(tmp_path / "both.db", eu=50, us=3))
        yield Side(both, "eu", chosen=True), Side(both, "us", chosen=True)


class Pairs:
    """Opens nodes of both sides in one namespace of a broker."""

    def __init__(self, url: str, stack: AsyncExitStack, secret: str | None) -> None:
        self.url = url
        self.stack = stack
        self.secret = secret
        self.namespace = f"identity-{secrets.token_hex(6)}"

    def node(self, side: Side, name: str, **given: Any) -> tuple[Node, Lossy]:
        repository = Repository(Tenant, source=side.source, name="tenants", ttl=None)
        broker = Lossy(from_url(self.url))
        settings: dict[str, Any] = {"heartbeat": BEAT, "secret": self.secret, **given}
        # What is lost is chosen by what it says, which a seal hides.
        over = broker if self.secret is None else broker.inner
        return Node(over, repository, namespace=self.namespace, name=name, **settings), broker

    async def join(self, side: Side, name: str) -> None:
        node, broker = self.node(side, name)
        self.stack.push_async_callback(broker.aclose)
        await self.stack.enter_async_context(node)
        side.nodes.append(node)
        side.brokers.append(broker)


@pytest.mark.parametrize("secret", [None, "a secret of sixteen bytes and more"])
async def test_two_sources_in_one_namespace_exchange_nothing(
    url: str, sides: tuple[Side, Side], secret: str | None
) -> None:
    one, two = sides
    async with AsyncExitStack() as stack:
        pairs = Pairs(url, stack, secret)
        for name in ("1", "2"):
            await pairs.join(one, f"one {name}")
            await pairs.join(two, f"two {name}")
        await eventually(lambda: one.foreign() == [["two 1", "two 2"]] * 2)
        await eventually(lambda: two.foreign() == [["one 1", "one 2"]] * 2)
        # One load of each source, and a copy of it for the other node.
        assert [side.total("full_loads") for side in sides] == [1, 1]
        assert [side.total("snapshots") for side in sides] == [1, 1]

        first, second = one.repositories
        await first.update(one.row(1, "written by one"))
        await second.create(one.row(900, "written by one"))
        await two.repositories[0].create(two.row(901, "written by two"))
        for side in sides:
            await side.holds_what_the_database_has()

        if secret is None:
            one.brokers[1].lose(1)
            await first.update(one.row(1, "lost on its way"))
            await one.holds_what_the_database_has()
            assert one.brokers[1].dropped == 1
        await pairs.join(two, "two 3")
        await two.repositories[0].clear()
        for side in sides:
            await side.holds_what_the_database_has()
        await first.refresh()
        for side in sides:
            await side.holds_what_the_database_has()

        assert two.total("gaps") == 0
        assert one.total("full_loads") == 2
        assert all(each.causes.keys() == {"identity"} for each in one.repositories)
        assert all(each.stats.rejections["identity"] > 0 for each in one.repositories)


async def test_start_with_raise_beside_another_source_raises(
    url: str, sides: tuple[Side, Side]
) -> None:
    one, two = sides
    async with AsyncExitStack() as stack:
        pairs = Pairs(url, stack, None)
        await pairs.join(one, "one 1")
        node, broker = pairs.node(two, "two 1", startup="raise")
        stack.push_async_callback(broker.aclose)
        with pytest.raises(SourceMismatchError, match="one 1 of namespace") as raised:
            await node.__aenter__()
        for side in sides:
            assert str(side.source.identity) in str(raised.value)


# -- Redis Cluster --------------------------------------------------------------------------------


async def takes_commands(client: Any) -> None:
    """Wait until the cluster says that it is up, some two seconds after it has its slots."""
    async with asyncio.timeout(PATIENCE):
        while True:
            with contextlib.suppress(ClusterDownError):
                await client.xadd("any", {"a": "b"})
                return
            await asyncio.sleep(0.05)


async def test_node_of_a_redis_cluster_is_refused_by_its_name() -> None:
    async with RedisServer(["--cluster-enabled", "yes"]) as server:
        for url in (server.url, f"{server.url}?protocol=3"):
            node = Node(url, namespace="shop", startup="raise")
            with pytest.raises(BrokerUnavailableError, match="Redis Cluster, which is not support"):
                await node.__aenter__()
        client: Any = redis.asyncio.Redis.from_url(server.url)
        try:
            async with Node(RedisBroker(client), namespace="shop") as node:
                assert not node.stats.broker_up
                assert "Redis Cluster" in node.status()["broker"]["failure"]
            # With all slots on it, one node of a cluster takes every command: it must not pass for a server.
            await client.execute_command("CLUSTER", "ADDSLOTSRANGE", 0, 16383)
            await takes_commands(client)
            with pytest.raises(BrokerUnavailableError, match="Redis Cluster"):
                await Node(server.url, namespace="shop", startup="raise").__aenter__()
        finally:
            await client.aclose()


async def test_client_of_a_redis_cluster_is_refused_by_its_name() -> None:
    client = redis.asyncio.RedisCluster(host="127.0.0.1", port=1)
    with pytest.raises(ConfigurationError, match="Redis Cluster"):
        RedisBroker(client)  # type: ignore[arg-type]
