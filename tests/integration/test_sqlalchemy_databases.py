"""SQLAlchemySource on real servers: the contract, and what only a server does."""

from __future__ import annotations

import asyncio
import datetime as dt
import tracemalloc
import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import aclosing
from dataclasses import replace
from decimal import Decimal
from typing import Any

import anyio
import msgspec
import pytest
from sqlalchemy import (
    CheckConstraint,
    Column,
    DateTime,
    ForeignKey,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    insert,
    make_url,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import AsyncAdaptedQueuePool

from imperfect_dollop.errors import (
    ConflictError,
    EntityExistsError,
    EntityNotFoundError,
    InvalidEntityError,
    SourceUnavailableError,
)
from imperfect_dollop.source import Source
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource
from imperfect_dollop.sources.sqlalchemy.source import CHUNK_ROWS, KEY_PARAMETERS
from imperfect_dollop.testing import Record, SourceContract


class Tables:
    """Tables under names that no other run has."""

    def __init__(self) -> None:
        self.metadata = MetaData()
        unique = f"dollop_{uuid.uuid4().hex[:12]}"
        self.records = Table(
            f"{unique}_records",
            self.metadata,
            Column("id", Integer, primary_key=True, autoincrement=False),
            Column("name", String(50), nullable=False),
            Column("city", String(1000), nullable=False),
            Column("version", Integer, nullable=False, default=0),
        )
        self.accounts = Table(
            f"{unique}_accounts",
            self.metadata,
            Column("id", Integer, primary_key=True),
            Column("owner", String(10), unique=True, nullable=False),
            Column("balance", Numeric(10, 2), CheckConstraint("balance >= 0")),
            Column("level", Integer, server_default="3", nullable=False),
            Column("opened", DateTime),
        )
        self.seats = Table(
            f"{unique}_seats",
            self.metadata,
            Column("line", Integer, primary_key=True, autoincrement=False),
            Column("place", String(10), primary_key=True),
            Column("account", ForeignKey(self.accounts.c.id)),
        )


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(database_url, pool_timeout=10)
    yield engine
    await engine.dispose()


@pytest.fixture
async def tables(engine: AsyncEngine) -> AsyncIterator[Tables]:
    tables = Tables()
    async with engine.begin() as connection:
        await connection.run_sync(tables.metadata.create_all)
    yield tables
    async with engine.begin() as connection:
        await connection.run_sync(tables.metadata.drop_all)


def connections_in_use(engine: AsyncEngine) -> int:
    assert isinstance(engine.pool, AsyncAdaptedQueuePool)
    return engine.pool.checkedout()


class Contract(SourceContract):
    @pytest.fixture
    def source(self, engine: AsyncEngine, tables: Tables) -> SQLAlchemySource[Record]:
        self.engine, self.tables = engine, tables
        version = tables.records.c.version if self.versioned else None
        return SQLAlchemySource(engine, tables.records, entity=Record, version_column=version)

    async def fill(self, source: Source[Any, Any], entities: Sequence[Any]) -> None:
        values = [{"id": e.id, "name": e.name, "city": e.city} for e in entities]
        async with self.engine.begin() as connection:
            await connection.execute(insert(self.tables.records), values)

    @pytest.fixture(autouse=True)
    async def every_connection_returns(self, engine: AsyncEngine) -> AsyncIterator[None]:
        yield
        assert connections_in_use(engine) == 0


class Databases(Contract):
    kill: str
    """Ends the connection with this id; `whoami` asks for the id."""
    whoami: str

    # -- what the database makes of a row ----------------------------------------------------------

    async def test_a_row_as_the_database_stores_it(
        self, engine: AsyncEngine, tables: Tables
    ) -> None:
        source = SQLAlchemySource(engine, tables.accounts)
        when = dt.datetime(2024, 2, 29, 12, 30)
        stored = await source.create(
            source.entity(owner="Ada", balance=Decimal("1.239"), opened=when)
        )
        assert stored == source.entity(
            id=1, owner="Ada", balance=Decimal("1.24"), level=3, opened=when
        )
        assert await source.load(1) == stored
        updated = await source.update(msgspec.structs.replace(stored, balance=Decimal("2.718")))
        assert updated.balance == Decimal("2.72")
        assert (await source.create(source.entity(owner="Bob"))).id == 2

    async def test_composite_keys(self, engine: AsyncEngine, tables: Tables) -> None:
        source = SQLAlchemySource(engine, tables.seats)
        seats = [
            source.entity(line=n, place=place) for n in range(KEY_PARAMETERS) for place in "ab"
        ]
        async with engine.begin() as connection:
            await connection.execute(
                insert(tables.seats), [{"line": s.line, "place": s.place} for s in seats]
            )
        keys = [(seat.line, seat.place) for seat in seats]
        found = await source.load_many([*keys, *keys[:10], (-1, "a")])
        assert sorted((seat.line, seat.place) for seat in found) == sorted(keys)
        with pytest.raises(EntityExistsError):
            await source.create(seats[0])
        await source.delete((0, "a"))
        assert await source.load((0, "a")) is None
        with pytest.raises(EntityNotFoundError):
            await source.update(seats[0])

    async def test_where(self, engine: AsyncEngine, tables: Tables) -> None:
        source = SQLAlchemySource(
            engine,
            tables.records,
            entity=Record,
            version_column="version",
            where=tables.records.c.city == "Rome",
        )
        everyone = SQLAlchemySource(engine, tables.records, entity=Record)
        ada = await source.create(Record(1, "Ada", "Rome"))
        bob = await everyone.create(Record(2, "Bob", "Oslo"))
        assert [chunk async for chunk in source.load_all()] == [[ada]]
        assert await source.load_many([1, 2]) == [ada]
        with pytest.raises(InvalidEntityError):
            await source.create(Record(3, "Eve", "Oslo"))
        strict = SQLAlchemySource(
            engine,
            tables.records,
            entity=Record,
            version_column="version",
            where=tables.records.c.city == "Rome",
            check_where=True,
        )
        with pytest.raises(InvalidEntityError):
            await strict.update(replace(ada, city="Oslo"))
        for call in (source.update(replace(bob, city="Rome")), source.delete(2, 0)):
            with pytest.raises(EntityNotFoundError):
                await call
        with pytest.raises(EntityExistsError):
            await source.create(Record(2, "Eve", "Rome"))
        assert await everyone.load_many([1, 2, 3]) == [ada, bob]

    # -- many at once ------------------------------------------------------------------------------

    async def test_no_update_is_lost(self, source: Source[int, Record]) -> None:
        async def add_one(_: int) -> None:
            while True:
                record = await source.load(1)
                assert record is not None
                try:
                    await source.update(replace(record, name=str(int(record.name) + 1)))
                except ConflictError:
                    continue
                return

        await source.create(Record(1, "0", "Paris"))
        await asyncio.gather(*(add_one(n) for n in range(20)))
        assert await source.load(1) == Record(1, "20", "Paris", version=20)

    async def test_one_of_many_creates_and_deletes_wins(self, source: Source[int, Record]) -> None:
        creates = [source.create(Record(1, f"n{n}", "Paris")) for n in range(10)]
        results = await asyncio.gather(*creates, return_exceptions=True)
        assert sum(isinstance(result, EntityExistsError) for result in results) == 9, results
        deletes = [source.delete(1, 0) for _ in range(10)]
        ends = await asyncio.gather(*deletes, return_exceptions=True)
        assert sum(isinstance(end, EntityNotFoundError) for end in ends) == 9, ends

    async def test_load_all_is_of_one_moment(
        self, source: Source[int, Record], tables: Tables, engine: AsyncEngine
    ) -> None:
        await self.fill(source, [self.make(n) for n in range(3 * CHUNK_ROWS)])
        cities: set[str] = set()
        async for chunk in source.load_all():
            cities |= {record.city for record in chunk}
            async with engine.begin() as connection:
                await connection.execute(update(tables.records).values(city="elsewhere"))
        assert cities == {"Paris"}

    async def test_load_all_streams(self, source: Source[int, Record]) -> None:
        rows, width = 20_000, 1_000
        for start in range(0, rows, 1_000):
            numbers = range(start, start + 1_000)
            await self.fill(source, [self.make(n, city="x" * width) for n in numbers])
        tracemalloc.start()
        try:
            read = sum([len(list(chunk)) async for chunk in source.load_all()])
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert read == rows
        assert peak < rows * width / 2, "the rows were in memory all at once"

    async def test_a_cancelled_scope_of_anyio_leaves_no_connection_behind(
        self, source: Source[int, Record], engine: AsyncEngine
    ) -> None:
        # Unlike a task's cancel(), a scope cancels each wait again, those of the clean-up too.
        await self.fill(source, [self.make(n) for n in range(self.rows)])
        for n in range(30):
            with anyio.move_on_after(n / 2_000):
                async with aclosing(source.load_all()) as chunks:  # type: ignore[type-var]
                    async for _ in chunks:
                        await asyncio.sleep(n / 10_000)
            with anyio.move_on_after(n / 10_000):
                await source.load(1)
            assert connections_in_use(engine) == 0
        assert await source.load(1) == self.make(1)

    # -- errors ------------------------------------------------------------------------------------

    async def test_constraints(self, engine: AsyncEngine, tables: Tables) -> None:
        accounts = SQLAlchemySource(engine, tables.accounts)
        account = accounts.entity
        seats = SQLAlchemySource(engine, tables.seats)
        ada = await accounts.create(account(owner="Ada", balance=Decimal(1)))
        seat = await seats.create(seats.entity(line=1, place="a", account=ada.id))

        class Blank(msgspec.Struct):
            id: int | None

        for call in (
            accounts.create(account(owner="Ada")),
            accounts.create(account(owner=None)),
            accounts.create(account(owner="Bob", balance=Decimal(-1))),
            accounts.update(msgspec.structs.replace(ada, balance=Decimal(-1))),
            accounts.delete(ada.id),
            seats.create(seats.entity(line=1, place="b", account=99)),
            seats.update(msgspec.structs.replace(seat, account=99)),
            SQLAlchemySource(engine, tables.accounts, entity=Blank).create(Blank(7)),
        ):
            with pytest.raises(ConflictError, match="a constraint of the database"):
                await call
        with pytest.raises(EntityExistsError):
            await accounts.create(account(id=ada.id, owner="Eve"))
        assert await accounts.load_many(range(10)) == [ada]

    @pytest.mark.parametrize(
        "values",
        [
            {"owner": "much too long for it"},
            {"level": 2**40},
            {"level": "three"},
            {"owner": ["Bob"]},
            {"opened": "yesterday"},
            {"owner": "\ud800"},
        ],
        ids=repr,
    )
    async def test_a_value_that_its_column_cannot_hold(
        self, engine: AsyncEngine, tables: Tables, values: dict[str, Any]
    ) -> None:
        source = SQLAlchemySource(engine, tables.accounts)
        stored = await source.create(source.entity(owner="Ada"))
        with pytest.raises(InvalidEntityError, match="a value"):
            await source.create(source.entity(**{"owner": "Bob", **values}))
        with pytest.raises(InvalidEntityError, match="a value"):
            await source.update(msgspec.structs.replace(stored, **values))
        assert await source.load(stored.id) == stored

    async def test_a_table_that_is_not_there(self, engine: AsyncEngine) -> None:
        source = SQLAlchemySource(engine, Tables().records, entity=Record)

        async def read_all() -> None:
            async for _ in source.load_all():
                pass

        for call in (source.load(1), read_all(), source.create(self.make(1)), source.delete(1)):
            with pytest.raises(SourceUnavailableError, match="_records"):
                await call

    async def test_a_server_that_is_not_there(self, database_url: str) -> None:
        engine = create_async_engine(make_url(database_url).set(host="127.0.0.1", port=1))
        source = SQLAlchemySource(engine, Tables().records, entity=Record)
        for call in (source.load(1), source.update(self.make(1))):
            with pytest.raises(SourceUnavailableError, match="the database failed") as caught:
                await call
            assert caught.value.__cause__ is not None
        await engine.dispose()

    async def test_a_database_that_is_not_there(self, database_url: str) -> None:
        engine = create_async_engine(make_url(database_url).set(database="no_such_database"))
        source = SQLAlchemySource(engine, Tables().records, entity=Record)
        with pytest.raises(SourceUnavailableError, match="no_such_database"):
            await source.load(1)
        await engine.dispose()

    async def test_a_connection_that_was_cut(self, database_url: str, tables: Tables) -> None:
        engine = create_async_engine(database_url, pool_size=1, max_overflow=0)
        executioner = create_async_engine(database_url, isolation_level="AUTOCOMMIT")
        source = SQLAlchemySource(engine, tables.records, entity=Record)
        stored = await source.create(self.make(1))
        async with engine.connect() as connection:
            me = (await connection.execute(text(self.whoami))).scalar_one()
        async with executioner.connect() as connection:
            await connection.execute(text(self.kill.format(me)))
        with pytest.raises(SourceUnavailableError):
            await source.load(1)
        assert await source.load(1) == stored
        await engine.dispose()
        await executioner.dispose()

    async def test_serializable_transactions_conflict(
        self, database_url: str, tables: Tables
    ) -> None:
        engine = create_async_engine(database_url, isolation_level="SERIALIZABLE")
        source = SQLAlchemySource(engine, tables.records, entity=Record, version_column="version")
        stored = await source.create(self.make(1))
        async with engine.begin() as other:
            await other.execute(update(tables.records).values(name="Bob", version=1))
            waiting = asyncio.create_task(source.update(stored))
            await asyncio.sleep(0.2)  # until it waits for the row, as of before it was changed
        with pytest.raises(ConflictError):
            await waiting
        await engine.dispose()


class TestPostgreSQL(Databases):
    whoami = "SELECT pg_backend_pid()"
    kill = "SELECT pg_terminate_backend({})"

    @pytest.fixture
    def database_url(self, postgres_url: str) -> str:
        return postgres_url


class TestMariaDB(Databases):
    whoami = "SELECT CONNECTION_ID()"
    kill = "KILL {}"

    @pytest.fixture
    def database_url(self, mariadb_url: str) -> str:
        return mariadb_url


class TestPostgreSQLWithoutVersions(Contract):
    versioned = False

    @pytest.fixture
    def database_url(self, postgres_url: str) -> str:
        return postgres_url


class TestMariaDBWithoutVersions(Contract):
    versioned = False

    @pytest.fixture
    def database_url(self, mariadb_url: str) -> str:
        return mariadb_url
