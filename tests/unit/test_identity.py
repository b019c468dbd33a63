"""The identity of a source: how it is named and derived, and how two nodes tell that they read different sources."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import Column, Integer, MetaData, String, Table, select
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from imperfect_dollop import ConfigurationError, FunctionSource, Node, ProtocolError, Repository
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.brokers.rabbitmq import RabbitMQBroker
from imperfect_dollop.brokers.redis import RedisBroker
from imperfect_dollop.replica.frames import Frames
from imperfect_dollop.replica.identity import identity_tag, is_foreign, is_identity, wire_identity
from imperfect_dollop.replica.messages import MAX_NAME, Header, decode, encode
from imperfect_dollop.replica.replica import Replica
from imperfect_dollop.replica.seal import Seal, Secrets
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource

from .builders import KEYS, NOW, ROWS, Row, create, load_all
from .school import SchoolSource, Student, repository

TENANTS = Table(
    "tenants",
    MetaData(),
    Column("id", Integer, primary_key=True),
    Column("name", String(50)),
    Column("data", JSONB().with_variant(String(), "sqlite", "mysql", "mariadb")),
)

HERE = socket.gethostname()

ONE = Row(1, 1, "one")


def engine_of(url: str, **options: Any) -> AsyncEngine:
    return create_async_engine(url, **options)


def derived(url: str, table: Table = TENANTS, **options: Any) -> str | None:
    return SQLAlchemySource(engine_of(url), table, **options).identity


# -- of a database --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "identity"),
    [
        (
            "postgresql+asyncpg://ada:secret@Db.Internal/shop",
            "postgresql://db.internal:5432/shop, table tenants",
        ),
        (
            "postgresql+asyncpg://db.internal:6432/shop",
            "postgresql://db.internal:6432/shop, table tenants",
        ),
        (
            "postgresql+asyncpg://ada@[2001:db8::1]/shop",
            "postgresql://[2001:db8::1]:5432/shop, table tenants",
        ),
        (
            "postgresql+asyncpg://ada@/shop?host=two:5433&host=one:5432",
            "postgresql://one:5432,two:5433/shop, table tenants",
        ),
        (
            "mysql+asyncmy://root:secret@db.internal/shop",
            "mysql://db.internal:3306/shop, table tenants",
        ),
        (
            "mariadb+asyncmy://db.internal:3306/shop",
            "mysql://db.internal:3306/shop, table tenants",
        ),
    ],
)
def test_identity_of_a_server_names_host_port_database_and_table(url: str, identity: str) -> None:
    assert derived(url) == identity


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "[::1]", "LOCALHOST"])
def test_identity_of_a_loopback_address_names_the_machine(host: str) -> None:
    expected = f"postgresql://localhost:5432/shop of {HERE}, table tenants"
    assert derived(f"postgresql+asyncpg://ada@{host}/shop") == expected


def test_identity_of_a_unix_socket_names_the_machine() -> None:
    expected = f"postgresql:///run/postgresql:5432/shop of {HERE}, table tenants"
    assert derived("postgresql+asyncpg://ada@/shop?host=/run/postgresql") == expected


def test_identity_without_a_host_is_the_one_that_the_environment_names(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("PGHOST", "db.internal")
    monkeypatch.setenv("PGPORT", "6432")
    assert (
        derived("postgresql+asyncpg://shop@") == "postgresql://db.internal:6432/shop, table tenants"
    )
    monkeypatch.delenv("PGHOST")
    assert derived("postgresql+asyncpg:///shop") == (
        f"postgresql://localhost:6432/shop of {HERE}, table tenants"
    )


def test_identity_of_a_mysql_url_without_a_database_is_unknown() -> None:
    assert derived("mysql+asyncmy://db.internal") is None


def test_identity_has_the_schema_of_the_table_or_of_the_engine() -> None:
    url = "postgresql+asyncpg://db.internal/shop"
    table = Table("tenants", MetaData(), Column("id", Integer, primary_key=True), schema="sales")
    assert derived(url, table) == "postgresql://db.internal:5432/shop, table sales.tenants"
    engine = engine_of(url).execution_options(schema_translate_map={None: "tenant_a"})
    source = SQLAlchemySource(engine, TENANTS)
    assert source.identity == "postgresql://db.internal:5432/shop, table tenant_a.tenants"


def test_identity_on_mysql_takes_a_schema_for_the_database() -> None:
    table = Table("tenants", MetaData(), Column("id", Integer, primary_key=True), schema="sales")
    assert derived("mysql+asyncmy://db.internal/shop", table) == derived(
        "mysql+asyncmy://db.internal/sales"
    )


def test_identity_of_a_file_is_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    expected = f"sqlite://{tmp_path / 'shop.db'} of {HERE}, table tenants"
    (tmp_path / "link.db").symlink_to("shop.db")
    assert derived("sqlite+aiosqlite:///shop.db") == expected
    assert derived(f"sqlite+aiosqlite:///{tmp_path / 'link.db'}") == expected
    assert derived(f"sqlite+aiosqlite:///file:{tmp_path / 'shop.db'}?uri=true") == expected


def test_identity_in_memory_is_that_of_one_engine_of_one_process() -> None:
    one, two = engine_of("sqlite+aiosqlite://"), engine_of("sqlite+aiosqlite:///:memory:")
    first, again, other = (SQLAlchemySource(each, TENANTS).identity for each in (one, one, two))
    assert first is not None
    assert first == again != other
    assert f"of process {os.getpid()} of {HERE}" in first


def test_identity_has_where_with_its_values_whatever_the_driver() -> None:
    chosen = TENANTS.c.name.like("a%") & (TENANTS.c.id > 5)
    expected = (
        "postgresql://db.internal:5432/shop, table tenants,"
        " where tenants.name LIKE 'a%' AND tenants.id > 5"
    )
    assert derived("postgresql+asyncpg://db.internal/shop", where=chosen) == expected
    others = derived("postgresql+asyncpg://db.internal/shop", where=TENANTS.c.id > 6)
    assert others is not None
    assert others != expected


def test_identity_has_where_with_a_value_that_no_literal_says() -> None:
    url = "postgresql+asyncpg://db.internal/shop"
    one, two = (derived(url, where=TENANTS.c.data.contains({"plan": n})) for n in (1, 2))
    assert one is not None
    assert "{'plan': 1}" in one
    assert one != two


def test_identity_with_a_subquery_is_compiled() -> None:
    inner = select(TENANTS.c.id).where(TENANTS.c.name == "Ada")
    identity = derived("postgresql+asyncpg://db.internal/shop", where=TENANTS.c.id.in_(inner))
    assert identity is not None
    assert "tenants.name = 'Ada'" in identity


IN_A_PROCESS = """
from sqlalchemy import Column, Integer, MetaData, String, Table
from sqlalchemy.ext.asyncio import create_async_engine
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource
table = Table("t", MetaData(), Column("id", Integer, primary_key=True), Column("name", String(9)))
engine = create_async_engine("postgresql+asyncpg://db/shop")
print(SQLAlchemySource(engine, table, where=table.c.name.in_(set("abcdefgh"))).identity)
"""


def test_identity_is_the_same_in_processes_that_order_sets_differently() -> None:
    found = {
        subprocess.run(
            [sys.executable, "-c", IN_A_PROCESS],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            check=True,
            text=True,
        ).stdout
        for seed in ("1", "2", "3")
    }
    assert len(found) == 1
    assert "IN ('a', 'b'" in found.pop()


def test_identity_as_given_replaces_the_derived_one_and_survives_bind() -> None:
    source = SQLAlchemySource(engine_of("sqlite+aiosqlite://"), TENANTS, identity="shop")
    assert source.identity == "shop"
    assert Repository(source.entity, source=source).identity == "shop"


# -- of a repository ------------------------------------------------------------------------------


async def load_none() -> list[Student]:
    return []


def test_repository_identity_is_that_of_its_source() -> None:
    named: FunctionSource[int, Student] = FunctionSource(load_all=load_none, identity="shop")
    unnamed: FunctionSource[int, Student] = FunctionSource(load_all=load_none)
    assert (named.identity, unnamed.identity) == ("shop", None)
    one, other = (Repository(Student, source=source, read_only=True) for source in (named, unnamed))
    assert (one.identity, other.identity) == ("shop", None)
    assert repository(SchoolSource()).identity is None  # a source that has no such attribute


@pytest.mark.parametrize("identity", ["", 5, b"shop", "\ud800"])
def test_repository_with_an_identity_that_is_no_text_is_refused(identity: Any) -> None:
    source: FunctionSource[int, Student] = FunctionSource(load_all=load_none, identity=identity)
    with pytest.raises(ConfigurationError, match="Student: identity="):
        Repository(Student, source=source, read_only=True)


# -- on the wire ----------------------------------------------------------------------------------


def test_wire_identity_of_a_long_text_is_short_and_stays_its_own() -> None:
    one, other = wire_identity("x" * 5_000 + "1"), wire_identity("x" * 5_000 + "2")
    assert len(one) == len(other) == MAX_NAME
    assert one != other
    assert wire_identity("shop") == "shop"
    assert wire_identity(None) == ""


def test_is_foreign_only_where_both_are_known_and_differ() -> None:
    assert is_foreign("one", "other")
    assert not is_foreign("one", "one")
    assert not is_foreign("", "one")
    assert not is_foreign("one", "")
    assert is_identity("one")
    tags = [identity_tag(each) for each in ("one", "other", "")]
    assert len(set(tags)) == 3
    assert tags[2] == ""


def replica_of(origin: str, identity: str | None) -> Replica[int, Any]:
    return Replica(
        origin,
        KEYS,
        ROWS,
        key_of=lambda row: row.id,
        version_of=lambda row: row.version,
        whole=True,
        identity=identity,
    )


@pytest.mark.parametrize("cold", [False, True])
def test_replica_with_events_of_another_source_changes_nothing_but_a_count(cold: bool) -> None:
    ours, theirs = replica_of("a", "production"), replica_of("b", "staging")
    if cold:
        ours.go_cold()
    events = theirs.pack("rows", [create(ONE, 1)])
    assert ours.receive(events, NOW) == []
    assert ours.counts.rejections["identity"] == 1
    assert not ours.progress.vector
    assert ours.counts.gaps == 0
    if cold:
        load_all(ours)
        assert ours.replay() == []
        assert ours.go_warm() == []
    assert not ours.table.live


@pytest.mark.parametrize(
    ("here", "there"), [("shop", "shop"), ("shop", None), (None, "shop"), (None, None)]
)
def test_replica_with_events_of_the_same_or_an_unknown_source_applies_them(
    here: str | None, there: str | None
) -> None:
    ours, theirs = replica_of("a", here), replica_of("b", there)
    ours.receive(theirs.pack("rows", [create(ONE, 1)]), NOW + 2)
    assert ours.table.live == {1: ONE}
    assert ours.counts.rejections["identity"] == 0


def test_frames_of_another_source_are_refused() -> None:
    production, staging = identity_tag("production"), identity_tag("staging")
    frame = encode(Header("t1", "print", {}, 0, [], staging))
    with pytest.raises(ProtocolError, match="another source"):
        Frames("t1", "print", production).take(frame, missing=0)
    Frames("t1", "print", staging).take(frame, missing=0)


# -- with a secret --------------------------------------------------------------------------------

SECRET = "a secret of sixteen bytes and more"


def test_seal_covers_the_identity_of_a_message() -> None:
    tag, other = identity_tag("production").encode(), identity_tag("staging").encode()
    sealing, opening = (Seal(Secrets(SECRET), "shop", each, NOW) for each in "ab")
    events = replica_of("a", "production").pack("rows", [create(ONE, 1)])
    sealed = sealing.close(encode(events), NOW)
    assert sealed.count(tag) == 1  # in what is signed
    with pytest.raises(ProtocolError) as forged:
        opening.open(sealed.replace(tag, other), NOW)
    assert forged.value.reason == "forged"
    assert decode(opening.open(sealed, NOW)) == events


def test_seal_covers_the_identity_of_a_snapshot() -> None:
    tag, other = identity_tag("production").encode(), identity_tag("staging").encode()
    sealing, opening = (Seal(Secrets(SECRET), "shop", each, NOW).frames("t1") for each in "ab")
    sealed = sealing.close(encode(Header("t1", "print", {}, 0, [], tag.decode())))
    assert sealed.count(tag) == 1
    with pytest.raises(ProtocolError) as forged:
        opening.open(sealed.replace(tag, other))
    assert forged.value.reason == "forged"


# -- the namespace --------------------------------------------------------------------------------


class Remote:
    """A broker of somebody else's."""

    def connect(self, namespace: str, node: str, *, after: str | None = None) -> Any:
        raise NotImplementedError

    async def aclose(self) -> None: ...


class Local(Remote):
    local = True


@pytest.mark.parametrize(
    "broker",
    [
        "redis://ada:secret@localhost",
        "rediss://localhost",
        "amqp://localhost",
        "amqps://localhost",
        RedisBroker("redis://localhost"),
        RabbitMQBroker("amqp://localhost"),
        Remote(),
    ],
    ids=str,
)
def test_node_without_a_namespace_on_a_shared_broker_is_refused(broker: Any) -> None:
    with pytest.raises(ConfigurationError, match="needs namespace=") as refused:
        Node(broker)
    assert "secret" not in str(refused.value)
    assert Node(broker, namespace="shop").namespace == "shop"


@pytest.mark.parametrize("broker", ["memory://", "memory://name", MemoryBroker(), Local()], ids=str)
def test_node_without_a_namespace_on_a_local_broker_has_one(broker: Any) -> None:
    assert Node(broker).namespace == "default"
