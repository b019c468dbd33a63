"""Keys of SQLAlchemySource: what a column cannot hold, and what a database takes for the same."""

from __future__ import annotations

import datetime as dt
import uuid
from collections.abc import AsyncIterator
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy import (
    CHAR,
    BigInteger,
    Column,
    Date,
    DateTime,
    Integer,
    Numeric,
    SmallInteger,
    String,
    Uuid,
    func,
    insert,
    select,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from imperfect_dollop import Repository
from imperfect_dollop.errors import (
    ConflictError,
    EntityExistsError,
    EntityNotFoundError,
    InvalidEntityError,
)
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource

from .databases import KINDS, engine_of, table_of, url_of


@pytest.fixture(params=KINDS)
async def engine(request: pytest.FixtureRequest) -> AsyncIterator[AsyncEngine]:
    async with engine_of(url_of(request.param, request)) as engine:
        yield engine


async def stored(engine: AsyncEngine, table: Any) -> list[Any]:
    async with engine.connect() as connection:
        return list((await connection.execute(select(table))).all())


@pytest.mark.parametrize(
    ("kind", "good", "key"),
    [
        (Integer, 1, 2**40),
        (Integer, 1, -(2**70)),
        (SmallInteger, 1, 2**20),
        (BigInteger, 1, 2**64),
        (String(5), "a", "much too long"),
        (String(5), "a", "a\x00b"),
        (String(5), "a", "\ud83d"),
        (Numeric(5, 2), Decimal(1), Decimal(10) ** 40),
        (Numeric(5, 2), Decimal(1), Decimal("NaN")),
    ],
    ids=repr,
)
async def test_key_that_the_column_cannot_hold_belongs_to_no_row(
    engine: AsyncEngine, kind: Any, good: Any, key: Any
) -> None:
    async with table_of(
        engine, Column("id", kind, primary_key=True, autoincrement=False), Column("n", Integer)
    ) as table:
        source = SQLAlchemySource(engine, table)
        row = await source.create(source.entity(id=good, n=1))
        assert await source.load(key) is None
        assert await source.load_many([key, good]) == [row]
        for call in (source.update(source.entity(id=key, n=2)), source.delete(key)):
            with pytest.raises(EntityNotFoundError):
                await call
        rows = await stored(engine, table)
        try:
            await source.create(source.entity(id=key, n=3))
        except (
            InvalidEntityError,
            ConflictError,
        ):  # SQLite stores NaN as NULL, which no key may be
            assert await stored(engine, table) == rows
        else:  # SQLite stores most things; then the row is there under its key
            assert await source.load(key) == source.entity(id=key, n=3)


@pytest.mark.parametrize(
    ("kind", "good", "key"),
    [
        (Integer, 1, "1"),
        (Integer, 1, 1.0),
        (Integer, 1, True),
        (String(5), "a", 1),
        (String(5), "a", b"a"),
        (Numeric(5, 2), Decimal(1), "1"),
        (Date, dt.date(2024, 2, 29), dt.datetime(2024, 2, 29)),
        (DateTime, dt.datetime(2024, 2, 29), "2024-02-29"),
        (Uuid, uuid.UUID(int=1), str(uuid.UUID(int=1))),
    ],
    ids=repr,
)
async def test_key_of_another_type_is_refused(
    engine: AsyncEngine, kind: Any, good: Any, key: Any
) -> None:
    async with table_of(engine, Column("id", kind, primary_key=True, autoincrement=False)) as table:
        source = SQLAlchemySource(engine, table)
        row = await source.create(source.entity(id=good))
        for call in (
            source.load(key),
            source.load_many([good, key]),
            source.create(source.entity(id=key)),
            source.update(source.entity(id=key)),
            source.delete(key),
        ):
            with pytest.raises(InvalidEntityError, match="is no key of"):
                await call
        assert await source.load(good) == row


class Equated:
    """A database that takes two keys for the same, or stores another key than the one it is given."""

    kind: Any
    ours: Any
    """A key in the form in which the database has it."""
    theirs: Any
    """A key that the database takes for `ours`, or stores as `ours`."""
    options: dict[str, Any] = {}  # noqa: RUF012
    database: str

    @pytest.fixture
    async def source(self, request: pytest.FixtureRequest) -> AsyncIterator[SQLAlchemySource[Any]]:
        async with (
            engine_of(url_of(self.database, request)) as engine,
            table_of(
                engine,
                Column("id", self.kind, primary_key=True),
                Column("n", Integer),
                **self.options,
            ) as table,
        ):
            self.engine, self.table = engine, table
            yield SQLAlchemySource(engine, table)

    async def count(self) -> int:
        async with self.engine.connect() as connection:
            return (
                await connection.execute(select(func.count()).select_from(self.table))
            ).scalar_one()

    async def put(self) -> None:
        async with self.engine.begin() as connection:
            await connection.execute(insert(self.table).values(id=self.ours, n=1))

    async def test_reads_by_an_equated_key_find_no_row(self, source: SQLAlchemySource[Any]) -> None:
        await self.put()
        row = await source.load(self.ours)
        assert row == source.entity(id=self.ours, n=1)
        assert await source.load(self.theirs) is None
        assert await source.load_many([self.theirs]) == []
        assert await source.load_many([self.theirs, self.ours]) == [row]

    async def test_create_with_a_key_that_is_stored_otherwise_is_undone(
        self, source: SQLAlchemySource[Any]
    ) -> None:
        if self.stores_as_given:
            row = source.entity(id=self.theirs, n=2)
            assert await source.create(row) == row
            return
        with pytest.raises(InvalidEntityError) as caught:
            await source.create(source.entity(id=self.theirs, n=2))
        assert repr(self.theirs) in str(caught.value)
        assert repr(self.ours) in str(caught.value)
        assert await self.count() == 0

    stores_as_given = False

    async def test_create_beside_an_equated_key_says_that_it_exists(
        self, source: SQLAlchemySource[Any]
    ) -> None:
        await self.put()
        with pytest.raises((EntityExistsError, InvalidEntityError, ConflictError)) as caught:
            await source.create(source.entity(id=self.theirs, n=2))
        if not isinstance(caught.value, ConflictError):  # then it is the database's own message
            assert repr(self.ours) in str(caught.value)
        assert await source.load(self.ours) == source.entity(id=self.ours, n=1)

    async def test_update_by_an_equated_key_is_undone(self, source: SQLAlchemySource[Any]) -> None:
        await self.put()
        with pytest.raises((InvalidEntityError, EntityNotFoundError)) as caught:
            await source.update(source.entity(id=self.theirs, n=2))
        if isinstance(caught.value, InvalidEntityError):
            assert repr(self.theirs) in str(caught.value)
            assert repr(self.ours) in str(caught.value)
        assert await source.load(self.ours) == source.entity(id=self.ours, n=1)

    async def test_delete_by_an_equated_key_is_undone(self, source: SQLAlchemySource[Any]) -> None:
        await self.put()
        with pytest.raises((InvalidEntityError, EntityNotFoundError)) as caught:
            await source.delete(self.theirs)
        if isinstance(caught.value, InvalidEntityError):
            assert repr(self.theirs) in str(caught.value)
            assert repr(self.ours) in str(caught.value)
        assert await source.load(self.ours) == source.entity(id=self.ours, n=1)
        await source.delete(self.ours)
        assert await self.count() == 0

    async def test_delete_by_an_equated_key_is_undone_where_no_returning_is_to_be_had(
        self, source: SQLAlchemySource[Any]
    ) -> None:  # as with MySQL
        await self.put()
        self.engine.dialect.delete_returning = self.engine.dialect.insert_returning = False
        with pytest.raises((InvalidEntityError, EntityNotFoundError)):
            await source.delete(self.theirs)
        with pytest.raises((InvalidEntityError, EntityExistsError, ConflictError)):
            await source.create(source.entity(id=self.theirs, n=2))
        assert await source.load(self.ours) == source.entity(id=self.ours, n=1)
        await source.delete(self.ours)
        with pytest.raises(EntityNotFoundError):
            await source.delete(self.ours)
        assert await self.count() == 0

    @pytest.mark.parametrize("preload", [True, False])
    async def test_repository_shows_the_rows_that_the_database_has_after_writes_by_an_equated_key(
        self, source: SQLAlchemySource[Any], preload: bool
    ) -> None:
        await self.put()
        async with Repository(source.entity, source=source, preload=preload) as rows:
            assert await rows.get(self.ours) is not None
            assert await rows.get(self.theirs) is None
            for write in (
                rows.update(source.entity(id=self.theirs, n=2)),
                rows.delete(self.theirs),
            ):
                with pytest.raises((InvalidEntityError, EntityNotFoundError)):
                    await write
            assert await rows.get(self.ours) == source.entity(id=self.ours, n=1)
            assert await rows.get(self.theirs) is None


class TestMariaDBWithoutCase(Equated):
    database = "mariadb"
    kind = String(50)
    ours, theirs = "ada@x", "ADA@x"
    options = {"mysql_charset": "utf8mb4", "mysql_collate": "utf8mb4_general_ci"}  # noqa: RUF012
    stores_as_given = True


class TestMariaDBTrailingSpace(TestMariaDBWithoutCase):
    theirs = "ada@x "


class TestMariaDBChar(TestMariaDBWithoutCase):
    kind = CHAR(10)
    theirs = "ada@x "
    stores_as_given = False


class TestMariaDBNumericScale(Equated):
    database = "mariadb"
    kind = Numeric(10, 2)
    ours, theirs = Decimal("1.24"), Decimal("1.239")


class TestMariaDBMicroseconds(Equated):
    database = "mariadb"
    kind = DateTime
    ours, theirs = dt.datetime(2024, 2, 29, 12), dt.datetime(2024, 2, 29, 12, 0, 0, 400_000)


class TestPostgreSQLChar(Equated):
    database = "postgresql"
    kind = CHAR(6)
    ours, theirs = "ada   ", "ada"


class TestPostgreSQLNumericScale(Equated):
    database = "postgresql"
    kind = Numeric(10, 2)
    ours, theirs = Decimal("1.24"), Decimal("1.239")


class TestSQLiteWithoutCase(Equated):
    database = "sqlite"
    kind = String(50, collation="NOCASE")
    ours, theirs = "ada@x", "ADA@x"
    stores_as_given = True
