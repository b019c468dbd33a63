"""SQLAlchemySource on SQLite: a row that makes no entity is handed on as an UnreadableRow, and fails no other row."""

from __future__ import annotations

import dataclasses
import enum
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import attrs
import msgspec
import pydantic
import pytest
from sqlalchemy import (
    JSON,
    Column,
    DateTime,
    Enum,
    Integer,
    MetaData,
    String,
    Table,
    TypeDecorator,
    insert,
    text,
)
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from imperfect_dollop.errors import InvalidEntityError
from imperfect_dollop.source import UnreadableRow
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource
from imperfect_dollop.sources.sqlalchemy.source import CHUNK_ROWS, KEY_PARAMETERS


class Status(enum.Enum):
    OPEN = "open"
    PAID = "paid"


class Words(TypeDecorator[list[str]]):
    impl = String
    cache_ok = True

    def process_bind_param(self, value: Any, dialect: object) -> str | None:
        return None if value is None else ",".join(value)

    def process_result_value(self, value: Any, dialect: object) -> list[str] | None:
        if value == "?":
            raise ValueError(f"no words in {object()!r}")
        return None if value is None else value.split(",")


metadata = MetaData()
orders = Table(
    "orders",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("status", Enum(Status, native_enum=False)),
    Column("words", Words),
    Column("data", JSON),
    Column("at", DateTime),
    Column("note", String),
)
named = Table("named", metadata, Column("name", String, primary_key=True), Column("n", Integer))


@pytest.fixture
async def engine(tmp_path: Path) -> AsyncIterator[AsyncEngine]:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/rows.db")
    async with engine.begin() as connection:
        await connection.run_sync(metadata.create_all)
    yield engine
    await engine.dispose()


async def fill(engine: AsyncEngine, rows: int, *statements: str) -> None:
    async with engine.begin() as connection:
        await connection.execute(insert(orders), [{"id": n} for n in range(1, rows + 1)])
    await run(engine, *statements)


async def run(engine: AsyncEngine, *statements: str) -> None:
    async with engine.begin() as connection:
        for statement in statements:
            await connection.execute(text(statement))


async def load_all(source: SQLAlchemySource[Any]) -> list[Any]:
    return [row async for chunk in source.load_all() for row in chunk]


def bad(rows: list[Any]) -> list[Any]:
    return [row for row in rows if isinstance(row, UnreadableRow)]


# -- values that the type of a column cannot convert -------------------------------------------


@pytest.mark.parametrize(
    ("assignment", "reason"),
    [
        (
            "status = 'LOST'",
            "column 'status': its type Enum raised LookupError: 'LOST' is not among",
        ),
        (
            "words = '?'",
            "column 'words': Words.process_result_value raised ValueError: no words in",
        ),
        (
            "data = '{'",
            "column 'data': its type JSON raised JSONDecodeError: Expecting property name",
        ),
        (
            "at = 'noon'",
            "column 'at': its type DateTime raised ValueError: Invalid isoformat string: 'noon'",
        ),
        (
            "note = CAST(x'ff' AS TEXT)",
            "the row cannot be read: OperationalError: Could not",
        ),
    ],
)
async def test_load_of_an_unconvertible_value_returns_an_unreadable_row_beside_the_others(
    engine: AsyncEngine, assignment: str, reason: str
) -> None:
    await fill(engine, 5, f"UPDATE orders SET {assignment} WHERE id = 3")
    source = SQLAlchemySource(engine, orders)
    whole = await load_all(source)
    assert [row.key if isinstance(row, UnreadableRow) else row.id for row in whole] == [
        1,
        2,
        3,
        4,
        5,
    ]
    (row,) = bad(whole)
    assert row.reason.startswith(reason)
    assert " at 0x" not in row.reason
    assert await source.load(3) == row
    many = await source.load_many([2, 3, 4])
    assert (bad(many), len(many)) == ([row], 3)
    assert bad(await load_all(SQLAlchemySource(engine, orders))) == [row], "not deterministic"


async def test_load_all_with_a_row_that_the_driver_cannot_read_yields_each_row_once(
    engine: AsyncEngine,
) -> None:
    rows = 2 * CHUNK_ROWS + 7
    broken = [1, CHUNK_ROWS + 5, CHUNK_ROWS + 6, rows]
    await fill(
        engine,
        rows,
        f"UPDATE orders SET note = CAST(x'ff' AS TEXT) WHERE id IN {tuple(broken[1:])}",
    )
    source = SQLAlchemySource(engine, orders)
    for expected in (broken[1:], broken):
        whole = await load_all(source)
        keys = [row.key if isinstance(row, UnreadableRow) else row.id for row in whole]
        assert sorted(keys) == list(range(1, rows + 1))
        assert sorted(row.key for row in bad(whole)) == expected
        await run(engine, "UPDATE orders SET note = CAST(x'ff' AS TEXT) WHERE id = 1")


async def test_load_many_of_more_keys_than_one_statement_takes_returns_the_good_rows(
    engine: AsyncEngine,
) -> None:
    rows = KEY_PARAMETERS + 10
    await fill(engine, rows, "UPDATE orders SET note = CAST(x'ff' AS TEXT) WHERE id % 300 = 0")
    many = await SQLAlchemySource(engine, orders).load_many(range(1, rows + 10))
    assert len(many) == rows
    assert sorted(row.key for row in bad(many)) == [300, 600, 900]


async def test_load_of_a_healed_row_returns_the_entity(engine: AsyncEngine) -> None:
    await fill(engine, 1, "UPDATE orders SET status = 'LOST'")
    source = SQLAlchemySource(engine, orders)
    assert isinstance(await source.load(1), UnreadableRow)
    await run(engine, "UPDATE orders SET status = 'PAID'")
    assert await source.load(1) == source.entity(id=1, status=Status.PAID)


# -- rows that the application's class refuses --------------------------------------------------


@dataclasses.dataclass
class Checked:
    id: int
    note: str | None = None

    def __post_init__(self) -> None:
        self.check()

    def check(self) -> None:
        if self.note == "bad":
            raise ValueError("a bad note")


@attrs.define
class CheckedAttrs:
    id: int
    note: str | None = attrs.field(default=None)

    @note.validator
    def _validate(self, attribute: object, value: str | None) -> None:
        if value == "bad":
            raise ValueError("a bad note")


class CheckedStruct(msgspec.Struct):
    id: int
    note: str | None = None

    def __post_init__(self) -> None:
        if self.note == "bad":
            raise ValueError("a bad note")


class CheckedModel(pydantic.BaseModel):
    id: int
    note: str | None = pydantic.Field(default=None, max_length=2)


@pytest.mark.parametrize(
    ("entity", "reason"),
    [
        (Checked, "Checked.__post_init__ raised ValueError: a bad note"),
        (CheckedAttrs, "CheckedAttrs._validate raised ValueError: a bad note"),
        (CheckedStruct, "CheckedStruct.__post_init__ raised ValueError: a bad note"),
        (
            CheckedModel,
            "CheckedModel() raised ValidationError: 1 validation error for CheckedModel",
        ),
    ],
)
async def test_load_of_a_row_that_the_class_refuses_names_the_function_of_the_class(
    engine: AsyncEngine, entity: Any, reason: str
) -> None:
    await fill(engine, 3, "UPDATE orders SET note = 'bad' WHERE id = 2")
    source = SQLAlchemySource(engine, orders, entity=entity)
    whole = await load_all(source)
    assert [row for row in whole if not isinstance(row, UnreadableRow)] == [
        entity(id=1),
        entity(id=3),
    ]
    (row,) = bad(whole)
    assert row.key == 2
    assert row.reason.startswith(reason)
    assert await source.load(2) == row


async def test_update_whose_stored_row_the_class_refuses_is_undone(engine: AsyncEngine) -> None:
    await fill(engine, 1)
    await run(
        engine,
        "CREATE TRIGGER spoil AFTER UPDATE ON orders BEGIN UPDATE orders SET note = 'bad' WHERE id = new.id; END",
    )
    source = SQLAlchemySource(engine, orders, entity=Checked)
    with pytest.raises(
        InvalidEntityError, match=r"the row 1 of 'orders'.*Checked.__post_init__ raised"
    ):
        await source.update(Checked(1, "good"))
    assert await source.load(1) == Checked(1, None)


# -- rows without a key -----------------------------------------------------------------------


async def test_load_all_of_a_row_with_a_null_key_yields_an_unreadable_row_without_key(
    engine: AsyncEngine,
) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE named"))
        await connection.execute(text("CREATE TABLE named (name TEXT PRIMARY KEY, n INTEGER)"))
        await connection.execute(text("INSERT INTO named VALUES ('a', 1), (NULL, 2), ('b', 3)"))
    source = SQLAlchemySource(engine, named)
    whole = await load_all(source)
    assert bad(whole) == [UnreadableRow(None, "name is NULL, and part of the key")]
    assert [row.name for row in whole if not isinstance(row, UnreadableRow)] == ["a", "b"]


async def test_load_all_of_a_null_key_and_an_undecodable_row_yields_both_as_unreadable(
    engine: AsyncEngine,
) -> None:
    async with engine.begin() as connection:
        await connection.execute(text("DROP TABLE named"))
        await connection.execute(text("CREATE TABLE named (name TEXT PRIMARY KEY, n INTEGER)"))
        await connection.execute(
            text("INSERT INTO named VALUES ('a', 1), (NULL, 2), ('b', CAST(x'ff' AS TEXT))")
        )
    whole = await load_all(SQLAlchemySource(engine, named))
    assert {row.key for row in bad(whole)} == {None, "b"}
    assert [row.name for row in whole if not isinstance(row, UnreadableRow)] == ["a"]
