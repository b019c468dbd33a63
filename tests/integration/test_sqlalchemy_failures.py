"""What SQLAlchemySource makes of refusals and failures of each kind of database."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import msgspec
import pytest
from sqlalchemy import (
    JSON,
    CheckConstraint,
    Column,
    Computed,
    DateTime,
    Float,
    ForeignKey,
    Identity,
    Integer,
    MetaData,
    Numeric,
    String,
    Table,
    cast,
    event,
    select,
    text,
    update,
)
from sqlalchemy.ext.asyncio import AsyncEngine

from imperfect_dollop import Repository
from imperfect_dollop.errors import (
    ConfigurationError,
    ConflictError,
    DollopError,
    InvalidEntityError,
    SourceUnavailableError,
)
from imperfect_dollop.source import UnreadableRow
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource

from .databases import KINDS, engine_of, run, table_of, url_of

SERVERS = ("postgresql", "mariadb")


@pytest.fixture
def kind(request: pytest.FixtureRequest) -> str:
    found: str = request.param
    return found


@pytest.fixture
async def engine(kind: str, request: pytest.FixtureRequest) -> AsyncIterator[AsyncEngine]:
    async with engine_of(url_of(kind, request)) as engine:
        if kind == "sqlite":
            await run(engine, "PRAGMA journal_mode=WAL")
        yield engine


every_database = pytest.mark.parametrize("kind", KINDS, indirect=True)
every_server = pytest.mark.parametrize("kind", SERVERS, indirect=True)
postgresql = pytest.mark.parametrize("kind", ["postgresql"], indirect=True)


# -- the reason of a ConflictError ------------------------------------------------------------


@every_database
async def test_conflict_error_gives_the_constraint_that_forbids_the_write(
    engine: AsyncEngine, kind: str
) -> None:
    async with table_of(engine, Column("id", Integer, primary_key=True)) as parent:
        metadata = parent.metadata
        child = Table(
            f"{parent.name}_child",
            metadata,
            Column("id", Integer, primary_key=True),
            Column("name", String(20), unique=True, nullable=False),
            Column("parent", ForeignKey(parent.c.id)),
            Column("n", Integer, CheckConstraint("n >= 0")),
            Column("version", Integer, nullable=False, default=0),
        )
        async with engine.begin() as connection:
            await connection.run_sync(child.create)
        rows: Any = SQLAlchemySource(engine, child, version_column="version")
        parents: Any = SQLAlchemySource(engine, parent)
        make = rows.entity
        if kind == "sqlite":
            event.listen(
                engine.sync_engine,
                "begin",
                lambda c: c.exec_driver_sql("PRAGMA foreign_keys=ON"),
            )
            await engine.dispose()
        await parents.create(parents.entity(id=1))
        first = await rows.create(make(id=1, name="a", parent=1))
        second = await rows.create(make(id=2, name="b", parent=1))
        changed = msgspec.structs.replace
        for call, reason in (
            (rows.create(make(id=3, name="a")), "unique"),
            (rows.update(changed(second, name="a")), "unique"),
            (rows.create(make(id=3, name="c", parent=9)), "foreign key"),
            (rows.update(changed(second, parent=9)), "foreign key"),
            (parents.delete(1), "foreign key"),
            (rows.create(make(id=3, name="c", n=-1)), "other"),
            (rows.create(make(id=3, name=None)), "other"),
            (rows.update(changed(first, version=7)), "version"),
            (rows.delete(1, 7), "version"),
        ):
            with pytest.raises(ConflictError) as caught:
                await call
            assert caught.value.reason == reason, caught.value
        assert len(await rows.load_many([1, 2, 3])) == 2


async def transaction_waits(engine: AsyncEngine, kind: str, table: Table) -> None:
    """Return when a statement on this table waits for a lock."""
    waiting = (
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND query LIKE :table"
        if kind == "postgresql"
        else "SELECT count(*) FROM information_schema.innodb_trx "
        "WHERE trx_state = 'LOCK WAIT' AND trx_query LIKE :table"
    )
    async with asyncio.timeout(20):
        while True:
            async with engine.connect() as connection:
                found = await connection.execute(text(waiting), {"table": f"%{table.name}%"})
                if found.scalar_one():
                    return
            await asyncio.sleep(
                0.2
            )  # MariaDB shows nothing new to who asks more than ten times a second


@every_server
async def test_deadlock_is_a_conflict_error_with_nothing_stored(
    engine: AsyncEngine, kind: str
) -> None:
    columns = Column("id", Integer, primary_key=True), Column("n", Integer)
    async with (
        table_of(engine, *columns) as table,
        table_of(engine, Column("id", Integer, primary_key=True), Column("n", Integer)) as other,
    ):
        # An update of the table goes on to update the other one, which the rival has locked by then.
        body = f"UPDATE {other.name} SET n = n + 1 WHERE id = 1;"
        if kind == "postgresql":
            await run(
                engine,
                f"CREATE FUNCTION {table.name}() RETURNS trigger LANGUAGE plpgsql AS "
                f"'BEGIN {body} RETURN NEW; END'",
                f"CREATE TRIGGER deadlock AFTER UPDATE ON {table.name} FOR EACH ROW "
                f"EXECUTE FUNCTION {table.name}()",
            )
        else:
            await run(
                engine,
                f"CREATE TRIGGER {table.name} AFTER UPDATE ON {table.name} FOR EACH ROW {body}",
            )
        async with engine.begin() as connection:
            await connection.execute(table.insert(), [{"id": 1, "n": 0}])
            await connection.execute(other.insert(), [{"id": n, "n": 0} for n in range(1, 100)])
        source: Any = SQLAlchemySource(engine, table)
        async with engine.connect() as rival:
            if (
                kind == "postgresql"
            ):  # the source finds the deadlock, and so is the one that ends it
                await rival.execute(text("SET LOCAL deadlock_timeout = '60s'"))
            await rival.execute(
                update(other).values(n=7)
            )  # many rows: MariaDB ends the smaller one
            ours = asyncio.create_task(source.update(source.entity(id=1, n=5)))
            await transaction_waits(engine, kind, table if kind == "postgresql" else other)
            await rival.execute(update(table).where(table.c.id == 1).values(n=8))
            with pytest.raises(ConflictError, match="ended a deadlock") as caught:
                await ours
            assert caught.value.reason == "deadlock"
            await rival.rollback()
        assert await source.load(1) == source.entity(id=1, n=0)
        if kind == "postgresql":
            await run(engine, f"DROP FUNCTION {table.name} CASCADE")


@postgresql
async def test_serialization_failure_is_a_conflict_error_with_nothing_stored(
    kind: str, request: pytest.FixtureRequest
) -> None:
    async with (
        engine_of(url_of(kind, request), isolation_level="REPEATABLE READ") as engine,
        table_of(engine, Column("id", Integer, primary_key=True), Column("n", Integer)) as table,
    ):
        source: Any = SQLAlchemySource(engine, table)
        await source.create(source.entity(id=1, n=0))
        async with engine.begin() as rival:
            await rival.execute(update(table).values(n=1))
            ours = asyncio.create_task(source.update(source.entity(id=1, n=5)))
            await transaction_waits(engine, kind, table)
        with pytest.raises(ConflictError, match="at the same time") as caught:
            await ours
        assert caught.value.reason == "serialization"
        assert await source.load(1) == source.entity(id=1, n=1)


@every_database
async def test_conflict_error_of_a_repository_keeps_its_reason(engine: AsyncEngine) -> None:
    columns = Column("id", Integer, primary_key=True), Column("name", String(9), unique=True)
    async with table_of(engine, *columns) as table:
        source: Any = SQLAlchemySource(engine, table)
        async with Repository(source.entity, source=source, name="rows") as rows:
            await rows.create(source.entity(id=1, name="a"))
            with pytest.raises(ConflictError, match=r"^rows: ") as caught:
                await rows.create(source.entity(id=2, name="a"))
        assert caught.value.reason == "unique"


# -- what the database refuses as the caller's mistake ------------------------------------------


@every_server
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
async def test_write_of_a_number_that_is_not_finite_is_the_callers_error_or_stored(
    engine: AsyncEngine, kind: str, value: float
) -> None:
    columns = Column("id", Integer, primary_key=True), Column("n", Float)
    async with table_of(engine, *columns) as table:
        source: Any = SQLAlchemySource(engine, table)
        row = await source.create(source.entity(id=1, n=1.0))
        for write in (
            source.create(source.entity(id=2, n=value)),
            source.update(source.entity(id=1, n=value)),
        ):
            if kind == "postgresql":
                assert repr((await write).n) == repr(value)
            else:
                with pytest.raises(InvalidEntityError, match="finite"):
                    await write
        if kind == "mariadb":
            assert await source.load_many([1, 2]) == [row]


@every_server
async def test_write_of_nan_to_a_numeric_column_is_the_callers_error_or_stored(
    engine: AsyncEngine, kind: str
) -> None:
    columns = Column("id", Integer, primary_key=True), Column("n", Numeric(5, 2, asdecimal=False))
    async with table_of(engine, *columns) as table:
        source: Any = SQLAlchemySource(engine, table)
        write = source.create(source.entity(id=1, n=float("nan")))
        if kind == "postgresql":
            assert repr((await write).n) == "nan"
        else:
            with pytest.raises(InvalidEntityError, match="finite"):
                await write


@postgresql
async def test_create_with_a_key_that_is_always_generated_is_the_callers_error(
    engine: AsyncEngine,
) -> None:
    columns = Column("id", Integer, Identity(always=True), primary_key=True), Column("n", Integer)
    async with table_of(engine, *columns) as table:
        source: Any = SQLAlchemySource(engine, table)
        with pytest.raises(InvalidEntityError, match="a value is not one that its column can hold"):
            await source.create(source.entity(id=5, n=1))
        assert await source.create(source.entity(n=1)) == source.entity(id=1, n=1)


@every_database
async def test_write_to_a_generated_column_that_the_mapping_takes_for_a_plain_one_is_refused(
    engine: AsyncEngine, kind: str
) -> None:
    async with table_of(
        engine,
        Column("id", Integer, primary_key=True, autoincrement=False),
        Column("twice", Integer, Computed("id * 2", persisted=True)),
    ) as table:
        plain = Table(
            table.name,
            MetaData(),
            Column("id", Integer, primary_key=True),
            Column("twice", Integer),
        )
        await run(engine, f"INSERT INTO {table.name} (id) VALUES (1)")
        source: Any = SQLAlchemySource(engine, plain)
        for write in (
            source.create(source.entity(id=2, twice=5)),
            source.update(source.entity(id=1, twice=5)),
        ):
            with pytest.raises((InvalidEntityError, ConflictError)):
                await write
        async with engine.connect() as connection:
            assert (await connection.execute(select(table))).all() == [(1, 2)]


@every_database
async def test_write_to_a_view_that_takes_none_is_a_conflict_error(engine: AsyncEngine) -> None:
    columns = Column("id", Integer, primary_key=True), Column("n", Integer)
    async with table_of(engine, *columns) as table:
        name = f"{table.name}_view"
        await run(
            engine, f"CREATE VIEW {name} AS SELECT id, max(n) AS n FROM {table.name} GROUP BY id"
        )
        try:
            await run(engine, f"INSERT INTO {table.name} VALUES (1, 1)")
            view = Table(
                name, MetaData(), Column("id", Integer, primary_key=True), Column("n", Integer)
            )
            source: Any = SQLAlchemySource(engine, view)
            row = await source.load(1)
            for write in (
                source.create(source.entity(id=2, n=1)),
                source.update(row),
                source.delete(1),
            ):
                with pytest.raises(ConflictError, match="cannot be written") as caught:
                    await write
                assert caught.value.reason == "other"
        finally:
            await run(engine, f"DROP VIEW {name}")


@every_database
async def test_refusal_by_a_trigger_is_a_conflict_error(engine: AsyncEngine, kind: str) -> None:
    columns = Column("id", Integer, primary_key=True), Column("n", Integer)
    async with table_of(engine, *columns) as table:
        name = table.name
        statements = {
            "sqlite": f"CREATE TRIGGER no BEFORE INSERT ON {name} "
            "BEGIN SELECT RAISE(ABORT, 'closed'); END",
            "postgresql": f"CREATE CONSTRAINT TRIGGER no AFTER INSERT ON {name} DEFERRABLE "
            f"INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION {name}()",  # so that COMMIT fails
            "mariadb": f"CREATE TRIGGER {name} BEFORE INSERT ON {name} FOR EACH ROW "
            "SIGNAL SQLSTATE '45000' SET MESSAGE_TEXT = 'closed'",
        }
        if kind == "postgresql":
            body = "BEGIN RAISE EXCEPTION ''closed''; END"
            await run(
                engine,
                f"CREATE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS '{body}'",
            )
        await run(engine, statements[kind])
        source: Any = SQLAlchemySource(engine, table)
        with pytest.raises(ConflictError, match="closed") as caught:
            await source.create(source.entity(id=1, n=1))
        assert caught.value.reason == "other"
        assert await source.load(1) is None
        if kind == "postgresql":
            await run(engine, f"DROP FUNCTION {name} CASCADE")


@postgresql
async def test_deferred_foreign_key_that_fails_at_commit_is_a_conflict_error(
    engine: AsyncEngine,
) -> None:
    async with table_of(engine, Column("id", Integer, primary_key=True)) as parent:
        child = Table(
            f"{parent.name}_child",
            parent.metadata,
            Column("id", Integer, primary_key=True),
            Column("parent", ForeignKey(parent.c.id, deferrable=True, initially="DEFERRED")),
        )
        async with engine.begin() as connection:
            await connection.run_sync(child.create)
        source: Any = SQLAlchemySource(engine, child)
        with pytest.raises(ConflictError) as caught:
            await source.create(source.entity(id=1, parent=9))
        assert caught.value.reason == "foreign key"
        assert await source.load(1) is None


# -- JSON ------------------------------------------------------------------------------------


@every_database
async def test_json_null_and_sql_null_stay_what_they_are(engine: AsyncEngine, kind: str) -> None:
    columns = (
        Column("id", Integer, primary_key=True),
        Column("name", String(20)),
        Column("data", JSON),
        Column("must", JSON, nullable=False),
    )
    async with table_of(engine, *columns) as table:
        await run(
            engine,
            f"INSERT INTO {table.name} VALUES (1, 'a', NULL, '1'), (2, 'a', 'null', 'null')",
        )
        source: Any = SQLAlchemySource(engine, table)
        make = source.entity
        for n in (1, 2):
            row = await source.load(n)
            assert row.data is None
            await source.update(make(id=n, name="b", data=None, must=row.must))
        await source.create(make(id=3, name="b", data=None, must=None))
        await source.create(make(id=4, name="b", data={"a": 1}, must=[]))
        assert (await source.update(make(id=4, name="c", data=None, must=[]))).data is None
        async with engine.connect() as connection:
            nulls = await connection.execute(
                text(f"SELECT id FROM {table.name} WHERE data IS NULL ORDER BY id")
            )
            assert nulls.scalars().all() == [1, 3, 4]


# -- failures --------------------------------------------------------------------------------


@postgresql
async def test_call_after_ddl_is_tried_once_more(engine: AsyncEngine) -> None:
    columns = Column("id", Integer, primary_key=True), Column("n", Integer)
    async with engine_of(engine.url, pool_size=1, max_overflow=0) as pooled:
        async with table_of(engine, *columns) as table:
            source: Any = SQLAlchemySource(pooled, table)

            async def whole() -> list[Any]:
                return [row async for chunk in source.load_all() for row in chunk]

            row = await source.create(source.entity(id=1, n=1))
            calls: list[Callable[[], Awaitable[Any]]] = [
                lambda: source.load(1),
                lambda: source.load_many([1, 2]),
                whole,
                lambda: source.update(row),
            ]
            for number, call in enumerate(calls):
                await call()
                kind = ("bigint", "integer")[number % 2]
                await run(engine, f"ALTER TABLE {table.name} ALTER COLUMN n TYPE {kind}")
                found = await call()
                assert (found if isinstance(found, list) else [found]) == [row]


@every_database
async def test_missing_table_and_missing_column_have_messages_of_their_own(
    engine: AsyncEngine,
) -> None:
    columns = Column("id", Integer, primary_key=True), Column("n", Integer)
    async with table_of(engine, *columns) as table:
        absent = Table(f"{table.name}_absent", MetaData(), Column("id", Integer, primary_key=True))
        wider = Table(
            table.name, MetaData(), Column("id", Integer, primary_key=True), Column("city", Integer)
        )
        missing: Any = SQLAlchemySource(engine, absent)
        unknown: Any = SQLAlchemySource(engine, wider)
        for source, said in (
            (missing, "the table or view does not exist"),
            (unknown, "a column does"),
        ):
            for call in (source.load(1), source.create(source.entity(id=1)), source.delete(1)):
                if source is unknown and call.__name__ == "delete":
                    call.close()
                    continue
                with pytest.raises(SourceUnavailableError, match=said):
                    await call


@every_server
async def test_refused_login_and_missing_database_have_messages_of_their_own(
    engine: AsyncEngine, kind: str
) -> None:
    table = Table("anything", MetaData(), Column("id", Integer, primary_key=True))
    for url, said in (
        (engine.url.set(username="dollop_nobody", password="wrong"), "refuses the login"),
        (engine.url.set(database="dollop_no_such_database"), "create it, or correct the URL"),
    ):
        async with engine_of(url) as other:
            with pytest.raises(SourceUnavailableError, match=said):
                await SQLAlchemySource(other, table).load(1)


@postgresql
async def test_missing_privilege_has_a_message_of_its_own(engine: AsyncEngine) -> None:
    columns = Column("id", Integer, primary_key=True), Column("n", Integer)
    async with table_of(engine, *columns) as table:
        role = f"{table.name}_reader"
        await run(engine, f"CREATE ROLE {role} LOGIN", f"GRANT SELECT ON {table.name} TO {role}")
        try:
            async with engine_of(engine.url.set(username=role)) as other:
                source: Any = SQLAlchemySource(other, table)
                assert await source.load(1) is None
                with pytest.raises(SourceUnavailableError, match="lacks a privilege; GRANT"):
                    await source.create(source.entity(id=1))
        finally:
            await run(engine, f"DROP OWNED BY {role}", f"DROP ROLE {role}")


@every_server
async def test_engine_of_another_event_loop_has_a_message_of_its_own(
    engine: AsyncEngine, kind: str
) -> None:
    columns = Column("id", Integer, primary_key=True), Column("n", Integer)
    async with table_of(engine, *columns) as table:
        async with engine_of(engine.url, pool_size=1) as other:
            source: Any = SQLAlchemySource(other, table)
            await source.load(1)

            def elsewhere() -> str:
                async def read() -> str:
                    try:
                        await source.load(1)
                    except DollopError as error:
                        return str(error)
                    return "no error"

                return asyncio.run(read())

            assert "make one engine in each event loop" in await asyncio.to_thread(elsewhere)


@every_database
@pytest.mark.parametrize("way", ["create_async_engine", "execution_options"])
async def test_engine_in_autocommit_is_refused(
    kind: str, way: str, request: pytest.FixtureRequest
) -> None:
    table = Table("anything", MetaData(), Column("id", Integer, primary_key=True))
    options = {"isolation_level": "AUTOCOMMIT"}
    async with engine_of(
        url_of(kind, request), **(options if way == "create_async_engine" else {})
    ) as engine:
        chosen = engine if way == "create_async_engine" else engine.execution_options(**options)
        with pytest.raises(ConfigurationError, match="is in AUTOCOMMIT"):
            SQLAlchemySource(chosen, table)


# -- rows that cannot be read -----------------------------------------------------------------


@postgresql
async def test_row_that_asyncpg_cannot_read_is_unreadable_beside_the_others(
    engine: AsyncEngine,
) -> None:
    columns = Column("id", Integer, primary_key=True), Column("at", DateTime)
    async with table_of(engine, *columns) as table:
        await run(
            engine,
            f"INSERT INTO {table.name} SELECT n, now() FROM generate_series(1, 2500) AS n",
            f"UPDATE {table.name} SET at = '0044-03-15 BC' WHERE id IN (7, 1800)",
        )
        source: Any = SQLAlchemySource(engine, table)
        whole = [row async for chunk in source.load_all() for row in chunk]
        bad = [row for row in whole if isinstance(row, UnreadableRow)]
        assert {row.key for row in bad} == {7, 1800}
        assert {row.reason for row in bad} == {
            "the row cannot be read: OverflowError: date value out of range"
        }
        keys = [row.key if isinstance(row, UnreadableRow) else row.id for row in whole]
        assert sorted(keys) == list(range(1, 2501))
        assert await source.load(7) in bad
        assert len(await source.load_many(range(1, 20))) == 19


@postgresql
async def test_row_of_a_view_that_the_database_cannot_compute_is_unreadable_beside_the_others(
    engine: AsyncEngine,
) -> None:
    columns = Column("id", Integer, primary_key=True), Column("n", Integer)
    async with table_of(engine, *columns) as table:
        name = f"{table.name}_view"
        await run(
            engine,
            f"INSERT INTO {table.name} SELECT n, n - 1200 FROM generate_series(1, 2500) AS n",
            f"CREATE VIEW {name} AS SELECT id, 100 / n AS n FROM {table.name}",
        )
        try:
            view = Table(
                name, MetaData(), Column("id", Integer, primary_key=True), Column("n", Integer)
            )
            source: Any = SQLAlchemySource(engine, view)
            whole = [row async for chunk in source.load_all() for row in chunk]
            (bad,) = [row for row in whole if isinstance(row, UnreadableRow)]
            assert (bad.key, "division by zero" in bad.reason) == (1200, True)
            assert len(whole) == 2500
            assert await source.load(1200) == bad
            assert len(await source.load_many([1199, 1200, 1201])) == 3
        finally:
            await run(engine, f"DROP VIEW {name}")


@postgresql
async def test_read_with_a_where_that_fails_is_an_error_and_not_an_absent_row(
    engine: AsyncEngine,
) -> None:
    columns = Column("id", Integer, primary_key=True), Column("n", String(5))
    async with table_of(engine, *columns) as table:
        await run(engine, f"INSERT INTO {table.name} VALUES (1, 'x'), (2, 'y')")
        wrong = cast(table.c.n, Integer) > 0
        source: Any = SQLAlchemySource(engine, table, where=wrong)
        for call in (source.load(1), source.load_many([1, 2])):
            with pytest.raises(InvalidEntityError, match="invalid input syntax"):
                await call
        with pytest.raises(InvalidEntityError, match="invalid input syntax"):
            _ = [chunk async for chunk in source.load_all()]


# -- rows that leave where= --------------------------------------------------------------------


@every_database
async def test_update_that_moves_a_row_out_of_where_deletes_it_in_the_repository(
    engine: AsyncEngine,
) -> None:
    columns = (
        Column("id", Integer, primary_key=True),
        Column("deleted", Integer),
        Column("version", Integer, nullable=False, default=0),
    )
    async with table_of(engine, *columns) as table:
        source: Any = SQLAlchemySource(
            engine, table, version_column="version", where=table.c.deleted.is_(None)
        )
        make = source.entity
        async with Repository(make, source=source, version="version") as rows:
            row = await rows.create(make(id=1))
            gone = make(id=1, deleted=1, version=row.version)
            assert await rows.update(gone) == make(id=1, deleted=1, version=row.version + 1)
            assert dict(rows.items()) == {}
            assert await rows.get(1) is None
            await rows.refresh()
            assert len(rows) == 0
            with pytest.raises(InvalidEntityError, match="outside of the source's where="):
                await rows.create(make(id=2, deleted=1))
        async with engine.connect() as connection:
            assert (await connection.execute(select(table))).all() == [(1, 1, 1)]
