"""From the rows of a SELECT to entities, where one bad row must not fail the others.

SQLAlchemy converts the values of a row while it fetches, so a converter that raises would lose every row of that fetch.
`RowReader.columns` therefore selects each column through a `_Guarded` type: its converter returns a `_Broken` value in
place of an exception. A column that needs no converter has none here either, so it costs nothing.
"""

from __future__ import annotations

import operator
import re
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import Any, Final, Generic, TypeVar

from sqlalchemy import Column, ColumnElement, type_coerce
from sqlalchemy.engine import Dialect
from sqlalchemy.types import NullType, TypeDecorator, TypeEngine

from ...errors import InvalidEntityError
from ...source import UnreadableRow
from .column_types import Convert, plain_values_of

__all__ = ["RowReader", "key_of"]

V = TypeVar("V")


MAX_REASON: Final = 500
"""Characters of a reason. A validator may repeat the whole row in its message."""

_ADDRESS: Final = re.compile(r" at 0x[0-9a-fA-F]+")


class RowReader(Generic[V]):
    """Makes entities of the rows that a SELECT of `columns` returns.

    Parameters
    ----------
    table:
        The name of the table, for messages.
    entity:
        The class of the entities.
    arguments:
        The argument of the class's constructor for each attribute.
    columns:
        The column of each attribute.
    key:
        The attributes of the primary key.
    """

    def __init__(
        self,
        table: str,
        entity: type[V],
        arguments: Mapping[str, str],
        columns: Mapping[str, Column[Any]],
        key: tuple[str, ...],
    ) -> None:
        self._table = table
        self._entity = entity
        self._names = list(arguments.values())
        self._attributes = list(arguments)
        self.key: list[int] = [self._attributes.index(attribute) for attribute in key]
        self.key_of: Callable[[Sequence[Any]], Any] = operator.itemgetter(*self.key)
        """The key in a row: a tuple if the primary key has several columns."""
        self._any_broken = (
            False  # whether a converter has ever failed: until then no row is searched
        )
        self.columns: list[ColumnElement[Any]] = [
            type_coerce(columns[attribute], _Guarded(_Guard(columns[attribute], self._failed)))
            for attribute in self._attributes
        ]
        self.key_columns: list[ColumnElement[Any]] = [self.columns[index] for index in self.key]

    def entity(self, row: Sequence[Any]) -> V:
        """The entity of one row. Raises `InvalidEntityError` if there is none."""
        made = self.made(row)
        if isinstance(made, UnreadableRow):
            raise InvalidEntityError(
                f"the row {made.key!r} of {self._table!r} would make no {self._entity.__name__}: {made.reason}"
            )
        return made

    def entities(self, rows: Sequence[Sequence[Any]]) -> list[V | UnreadableRow]:
        """The entity of each row, or an `UnreadableRow` in its place."""
        if self._any_broken or self._any_null_key(rows):
            return [self.made(row) for row in rows]
        entity, names = self._entity, self._names
        made: list[V | UnreadableRow] = []
        for row in rows:
            try:
                made.append(entity(**dict(zip(names, row, strict=True))))
            except Exception as error:  # whatever the application's class raises
                made.append(self._refused(row, error))
        return made

    def made(self, row: Sequence[Any]) -> V | UnreadableRow:
        """The entity of a row, or an `UnreadableRow` in its place."""
        if self._any_broken:
            for attribute, value in zip(self._attributes, row, strict=True):
                if type(value) is _Broken:
                    return self._unreadable(row, f"column {attribute!r}: {value.reason}")
        for index in self.key:
            if row[index] is None:
                return self._unreadable(
                    row, f"{self._attributes[index]} is NULL, and part of the key"
                )
        try:
            return self._entity(**dict(zip(self._names, row, strict=True)))
        except Exception as error:  # as in `entities`
            return self._refused(row, error)

    def without_key(self, parts: Sequence[Any]) -> UnreadableRow | None:
        """An `UnreadableRow` if a value of `key_columns` is NULL or could not be converted, else ``None``."""
        for index, part in zip(self.key, parts, strict=True):
            if part is None:
                return UnreadableRow(
                    None, f"{self._attributes[index]} is NULL, and part of the key"
                )
            if type(part) is _Broken:
                return UnreadableRow(None, f"column {self._attributes[index]!r}: {part.reason}")
        return None

    def unreadable(self, key: Any, error: BaseException) -> UnreadableRow:
        """A row that the driver or the database itself cannot read."""
        return UnreadableRow(key, f"the row cannot be read: {in_words(error)}")

    def _any_null_key(self, rows: Sequence[Sequence[Any]]) -> bool:
        if len(self.key) == 1:
            return None in map(self.key_of, rows)
        return any(None in key for key in map(self.key_of, rows))

    def _refused(self, row: Sequence[Any], error: Exception) -> UnreadableRow:
        return self._unreadable(row, constructor_failure(self._entity, error))

    def _unreadable(self, row: Sequence[Any], reason: str) -> UnreadableRow:
        parts = [row[index] for index in self.key]
        readable = not any(part is None or type(part) is _Broken for part in parts)
        return UnreadableRow(key_of(parts) if readable else None, reason)

    def _failed(self) -> None:
        self._any_broken = True


class _Broken:
    """A value that the type of its column could not convert."""

    __slots__ = ("reason",)

    def __init__(self, reason: str) -> None:
        self.reason = reason


class _Guard:
    """The column of a `_Guarded` type, and the function to call when its converter fails."""

    def __init__(self, column: Column[Any], failed: Callable[[], None]) -> None:
        self.column = column
        self.failed = failed


class _Guarded(TypeDecorator[Any]):
    """The type of a column, with a converter of results that never raises."""

    impl: type[TypeEngine[Any]] | TypeEngine[Any] = NullType
    cache_ok = True  # its one argument is compared by identity

    def __init__(self, guard: _Guard) -> None:
        super().__init__()
        self.guard = guard
        self.impl = guard.column.type

    def result_processor(self, dialect: Dialect, coltype: object) -> Convert | None:
        """The converter of the column's own type, guarded, or ``None`` if that type has none."""
        guard = self.guard
        convert = _after(
            super().result_processor(dialect, coltype), plain_values_of(guard.column, dialect)
        )
        if convert is None:
            return None

        def guarded(value: Any) -> Any:
            try:
                return convert(value)
            except Exception as error:  # of a driver's type or of the application's TypeDecorator
                guard.failed()
                return _Broken(f"{_owner(guard.column.type)} raised {in_words(error)}")

        return guarded


def _after(first: Convert | None, second: Convert | None) -> Convert | None:
    if first is None or second is None:
        return first or second
    return lambda value: second(first(value))


def key_of(parts: Sequence[Any]) -> Any:
    """A key made of its values: the value itself if there is one, else a tuple."""
    return parts[0] if len(parts) == 1 else tuple(parts)


def in_words(error: BaseException) -> str:
    """The class and text of an exception in one line, the same for the same row."""
    text = _ADDRESS.sub("", " ".join(str(error).split()))
    name = type(error).__name__
    said = f"{name}: {text}" if text else name
    return said if len(said) <= MAX_REASON else f"{said[: MAX_REASON - 1]}…"


def constructor_failure(entity: type[Any], error: Exception) -> str:
    """Which function of the application's class has raised, and its exception."""
    function = _function_of(entity, error.__traceback__)
    name = entity.__name__
    return (
        f"{name}.{function} raised {in_words(error)}"
        if function
        else f"{name}() raised {in_words(error)}"
    )


def _function_of(entity: type[Any], traceback: TracebackType | None) -> str | None:
    """The first function below the constructor that the class defines, in a traceback from this module."""
    while traceback is not None:
        code = traceback.tb_frame.f_code
        name = code.co_name
        if (
            name != "__init__"
            and code.co_filename != __file__
            and callable(getattr(entity, name, None))
        ):
            return name
        traceback = traceback.tb_next
    return None


def _owner(kind: Any) -> str:
    """The function that converts results, by the name that the application knows."""
    name = type(kind).__name__
    decorated = isinstance(kind, TypeDecorator) and (
        type(kind).process_result_value is not TypeDecorator.process_result_value
    )
    return f"{name}.process_result_value" if decorated else f"its type {name}"
