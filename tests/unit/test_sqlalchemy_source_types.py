"""The struct that SQLAlchemySource makes of columns: a field for every type of SQLAlchemy, or a refusal."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import inspect
import uuid
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import Any

import msgspec
import pytest
import sqlalchemy
from sqlalchemy import ARRAY, JSON, Column, Integer, MetaData, String, Table, TypeDecorator
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.dialects.mysql.asyncmy import dialect as asyncmy
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.dialects.sqlite.aiosqlite import dialect as aiosqlite
from sqlalchemy.engine import Dialect
from sqlalchemy.types import NullType, TypeEngine

from imperfect_dollop.codecs import EntityCodec
from imperfect_dollop.errors import ConfigurationError
from imperfect_dollop.sources.sqlalchemy.column_types import annotation_of
from imperfect_dollop.sources.sqlalchemy.mapping import mapped, struct_of

asyncpg: Callable[..., Dialect] = PGDialect_asyncpg

DIALECTS: dict[str, Dialect] = {"sqlite": aiosqlite(), "postgresql": asyncpg(), "mysql": asyncmy()}

REFUSED = {"BIT", "CIDR", "INET"}
"""Beside the ranges, the types of PostgreSQL whose values no copy can carry."""


class Color(enum.Enum):
    RED = "red"


def instance_of(kind: type[TypeEngine[Any]]) -> TypeEngine[Any] | None:
    """The type with the arguments it needs; ``None`` for one that no column can have."""
    for arguments in ((), (Integer,), ("a", Integer)):
        try:
            return kind(*arguments)
        except TypeError:
            continue
        except (
            NotImplementedError,
            AttributeError,
            AssertionError,
        ):  # a base class, or a placeholder
            return None
    return None


def types_of(module: ModuleType, dialect: str) -> Iterator[Any]:
    for name, kind in sorted(vars(module).items()):
        if (
            inspect.isclass(kind)
            and issubclass(kind, TypeEngine)
            and not name.startswith(("_", "Abstract"))
        ):
            made = instance_of(kind)
            if made is not None and kind not in (TypeEngine, postgresql.NamedType):
                yield pytest.param(made, dialect, id=f"{dialect}-{name}")


def column_of(kind: Any) -> Column[Any]:
    column: Column[Any] = Column("value", kind)
    Table("t", MetaData(), Column("id", Integer, primary_key=True), column)
    return column


@pytest.mark.parametrize(
    ("kind", "dialect"),
    [
        *types_of(sqlalchemy.types, "sqlite"),
        *types_of(sqlalchemy.types, "postgresql"),
        *types_of(sqlalchemy.types, "mysql"),
        *types_of(sqlite, "sqlite"),
        *types_of(postgresql, "postgresql"),
        *types_of(mysql, "mysql"),
    ],
)
def test_struct_of_a_column_of_any_type_has_a_codec_or_is_refused_with_a_remedy(
    kind: TypeEngine[Any], dialect: str
) -> None:
    _, columns, _ = mapped(column_of(kind).table)
    name = type(kind).__name__
    if dialect == "postgresql" and (name in REFUSED or "RANGE" in name):
        with pytest.raises(ConfigurationError, match=r"Pass entity= .* leave the column out"):
            struct_of("Row", columns, None, DIALECTS[dialect])
        return
    struct = struct_of("Row", columns, None, DIALECTS[dialect])
    assert msgspec.structs.fields(struct)[1].type is not object
    EntityCodec(struct, key="id")


class Decorated(TypeDecorator[Any]):
    impl = String
    cache_ok = True


class Converted(Decorated):
    def process_result_value(self, value: Any, dialect: Dialect) -> Any:
        return value.split(",")


class Named(Converted):
    @property
    def python_type(self) -> type[Any]:
        return tuple


@pytest.mark.parametrize(
    ("kind", "dialect", "values"),
    [
        (String(5), "sqlite", str),
        (sqlalchemy.Enum(Color), "postgresql", Color),
        (sqlalchemy.Enum("a", "b", name="e"), "postgresql", str),
        (sqlalchemy.Uuid(), "sqlite", uuid.UUID),
        (sqlalchemy.Uuid(as_uuid=False), "sqlite", str),
        (sqlalchemy.Numeric(), "mysql", decimal.Decimal),
        (sqlalchemy.Numeric(asdecimal=False), "mysql", float),
        (sqlalchemy.Interval(), "sqlite", dt.timedelta),
        (sqlalchemy.LargeBinary(), "postgresql", bytes),
        (JSON(), "sqlite", Any),
        (postgresql.JSONB(), "postgresql", Any),
        (NullType(), "sqlite", Any),
        (ARRAY(Integer), "postgresql", list[int | None]),
        (postgresql.ARRAY(sqlalchemy.Date), "postgresql", list[dt.date | None]),
        (ARRAY(Integer, dimensions=2), "postgresql", list[list[int | None]]),
        (ARRAY(String, as_tuple=True), "postgresql", tuple[str | None, ...]),
        (postgresql.HSTORE(), "postgresql", dict[str, str | None]),
        (postgresql.MACADDR(), "postgresql", str),
        (postgresql.DOMAIN("d", Integer), "postgresql", int),
        (mysql.SET("a", "b"), "mysql", set[str]),
        (mysql.SET("a", "b", retrieve_as_bitwise=True), "mysql", int),
        (mysql.BIT(4), "mysql", int),
        (mysql.YEAR(), "mysql", int),
        (mysql.DOUBLE(), "mysql", decimal.Decimal),
        (String(5).with_variant(Integer(), "mysql"), "mysql", int),
        (String(5).with_variant(Integer(), "mysql"), "sqlite", str),
        (Decorated(), "sqlite", str),
        (Converted(), "sqlite", Any),
        (Named(), "sqlite", tuple),
    ],
)
def test_annotation_of_a_column_is_the_type_of_its_values(
    kind: Any, dialect: str, values: Any
) -> None:
    assert annotation_of("value", column_of(kind), DIALECTS[dialect]) == values


def test_annotation_of_inet_is_text_where_the_engine_returns_text() -> None:
    column = column_of(postgresql.INET())
    with pytest.raises(ConfigurationError, match="native_inet_types=False"):
        annotation_of("value", column, asyncpg())
    assert annotation_of("value", column, asyncpg(native_inet_types=False)) is str
