"""The Python type of the values that a column holds, as a struct made of the columns declares it.

SQLAlchemy names it in `TypeEngine.python_type`, but since 2.1 says ``object`` for every type of which it does not
know one, and names for some what their values are not: a ``SET`` of MySQL says ``str`` and returns sets.
"""

from __future__ import annotations

import datetime as dt
import decimal
import types
import typing
import uuid
from collections.abc import Mapping
from typing import Any, Final, Protocol

from sqlalchemy import ARRAY, JSON, Column
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.engine import Dialect
from sqlalchemy.types import TypeDecorator, TypeEngine

from ...errors import ConfigurationError

__all__ = ["Convert", "annotation_of", "key_type_of", "plain_values_of", "takes_key"]

UNNAMED: Final[Mapping[type[TypeEngine[Any]], Any]] = {
    mysql.SET: set[str],  # int, if retrieve_as_bitwise
    mysql.BIT: int,
    mysql.YEAR: int,
    postgresql.HSTORE: dict[str, str | None],
    postgresql.JSONPATH: str,
    postgresql.MACADDR: str,
    postgresql.MACADDR8: str,
    postgresql.MONEY: str,
    postgresql.OID: int,
    postgresql.REGCLASS: str,
    postgresql.REGCONFIG: str,
    postgresql.TSQUERY: str,
    postgresql.TSVECTOR: str,
}
"""The types of a dialect's own whose ``python_type`` is ``object``, or wrong, and what their values are."""

REFUSED: Final[Mapping[type[TypeEngine[Any]], str]] = {
    postgresql.BIT: "its values are BitStrings",
    postgresql.ranges.AbstractRange: "its values are Ranges",
}
"""The types whose values no copy of a row can carry, and why."""

FRACTIONS: Final = (float, decimal.Decimal)
"""The types of columns whose values equal, with equal hashes, numbers of other types."""


def annotation_of(attribute: str, column: Column[Any], dialect: Dialect) -> Any:
    """The type of the column's values where they are not NULL; `Any` if only the values can tell.

    Raises `ConfigurationError` for a column whose values cannot be carried to siblings.
    """
    try:
        return _values_of(column.type.dialect_impl(dialect), dialect)
    except _RefusedError as refused:
        raise ConfigurationError(
            f"column {attribute!r} of {column.table.name!r} has the type {column.type!r}, which no copy of a row "
            f"can carry: {refused}. Pass entity= with a class of your own: leave the column out of it, or declare "
            "the column with a TypeDecorator that returns values of a built-in type"
        ) from None


def key_type_of(column: Column[Any], dialect: Dialect) -> type[Any] | None:
    """The class of the values of a key column, or ``None`` if it is not known."""
    try:
        kind = _values_of(column.type.dialect_impl(dialect), dialect)
    except _RefusedError:
        return None
    return kind if isinstance(kind, type) else None


class Convert(Protocol):
    """Makes the value of a row of what the driver returns."""

    def __call__(self, value: Any) -> Any:
        """The value that takes the place of `value`."""
        ...


def plain_values_of(column: Column[Any], dialect: Dialect) -> Convert | None:
    """A function from values of the driver to values of the annotated type, or ``None`` where they are that already.

    asyncpg has a class of its own for UUIDs. A sibling that reads the row from another driver, or from a message, must
    hold a value of the same class.
    """
    if dialect.driver != "asyncpg":
        return None
    try:
        values = _values_of(column.type.dialect_impl(dialect), dialect)
    except _RefusedError:
        return None
    return _plain_uuids if _mentions(values, uuid.UUID) else None


def _mentions(annotation: Any, kind: type[Any]) -> bool:
    return annotation is kind or any(_mentions(part, kind) for part in typing.get_args(annotation))


def _plain_uuids(value: Any) -> Any:
    if isinstance(value, (list, tuple)):
        return type(value)(map(_plain_uuids, value))
    return uuid.UUID(int=value.int) if isinstance(value, uuid.UUID) else value


def takes_key(kind: type[Any] | None, value: Any) -> bool:
    """Whether a value is of the type of a key column, whether or not the column can hold it."""
    if kind is None or type(value) is kind:
        return True
    if isinstance(value, bool) or (kind is dt.date and isinstance(value, dt.datetime)):
        return False  # subclasses of int and of date, and yet neither an integer nor a day
    return isinstance(value, (int, *FRACTIONS) if kind in FRACTIONS else kind)


class _RefusedError(Exception):
    """The values of a type cannot be carried. The text says why."""


def _values_of(kind: TypeEngine[Any], dialect: Dialect) -> Any:
    for refused, reason in REFUSED.items():
        if isinstance(kind, refused):
            raise _RefusedError(reason)
    if isinstance(kind, JSON):
        return Any
    if isinstance(kind, ARRAY):
        return _array_of(kind, dialect)
    if isinstance(kind, postgresql.DOMAIN):
        return _values_of(kind.data_type, dialect)
    if isinstance(kind, (postgresql.INET, postgresql.CIDR)):
        if getattr(dialect, "_native_inet_types", None) is not False:
            raise _RefusedError(
                "its values are objects of ipaddress (or make the engine with native_inet_types=False)"
            )
        return str
    if isinstance(kind, mysql.SET) and kind.retrieve_as_bitwise:
        return int
    for named, values in UNNAMED.items():
        if isinstance(kind, named):
            return values
    if isinstance(kind, TypeDecorator):
        return _decorated(kind, dialect)
    return Any if kind.python_type is object else kind.python_type


def _array_of(kind: ARRAY[Any], dialect: Dialect) -> Any:
    """A list, or tuple, of what the items are, as deep as the type is declared: PostgreSQL does not check the depth."""
    values: Any = _values_of(kind.item_type.dialect_impl(dialect), dialect) | None
    for _ in range(kind.dimensions or 1):
        values = (
            types.GenericAlias(tuple, (values, ...))
            if kind.as_tuple
            else types.GenericAlias(list, (values,))
        )
    return values


def _decorated(kind: TypeDecorator[Any], dialect: Dialect) -> Any:
    """What a TypeDecorator says of its values; else the type of its impl if it does not convert results."""
    if kind.python_type is not object:
        return kind.python_type
    passes = (
        type(kind).process_result_value is TypeDecorator.process_result_value
        and type(kind).result_processor is TypeDecorator.result_processor
    )
    return _values_of(kind.impl_instance, dialect) if passes else Any
