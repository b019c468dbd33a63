"""One table of a database as a `Source`, through SQLAlchemy's asyncio engine.

The rules, the same on SQLite, PostgreSQL and MariaDB/MySQL:

* only Core statements on the table's columns: a mapped class merely names them, and no ORM instance
  is made or kept;
* a write is one transaction whose first statement is the INSERT, UPDATE or DELETE: SQLite then takes
  its write lock at once (one that begins as a reader cannot always become a writer), and what a
  database reads as of "the beginning of the transaction" is as of the write;
* what a write returns was read back in that transaction, so it is what the database made of it;
* who wins is settled there too: with a version column an UPDATE or DELETE names the version that it
  replaces, and the one that matches no row has lost.
"""

from __future__ import annotations

import asyncio
import traceback
from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext
from typing import Any, Final, Generic, TypeVar, cast, overload
from weakref import WeakKeyDictionary

import anyio
from sqlalchemy import (
    Column,
    ColumnElement,
    Table,
    delete,
    insert,
    literal,
    select,
    tuple_,
    update,
)
from sqlalchemy.exc import (
    ArgumentError,
    DataError,
    DBAPIError,
    IntegrityError,
    SQLAlchemyError,
    StatementError,
)
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import Pool, StaticPool

from ...errors import (
    ConfigurationError,
    ConflictError,
    DollopError,
    EntityExistsError,
    EntityNotFoundError,
    InvalidEntityError,
    SourceUnavailableError,
)
from .mapping import (
    Attribute,
    arguments_of,
    check_fields,
    fills_in,
    mapped,
    struct_of,
    version_of,
)

__all__ = ["SQLAlchemySource"]

V = TypeVar("V")
B = TypeVar("B")

CHUNK_ROWS: Final = 1_000
"""Rows of `load_all` in memory at a time: a few milliseconds of work, some hundred kilobytes."""

KEY_PARAMETERS: Final = 900
"""Bound parameters for the keys of one statement. SQLite before 3.32 allows 999 in all (later
32,766; PostgreSQL 32,767); what remains is for ``where``."""

MYSQL_CONSTRAINTS: Final = frozenset({1364, 3819, 4025})
"""Error numbers for a missing value and for a violated CHECK (of MySQL, of MariaDB), which are an
OperationalError there, with the catch-all SQLSTATE ``HY000`` or, in older drivers, none."""


class SQLAlchemySource(Generic[V]):
    """The rows of one table, as entities.

    Parameters
    ----------
    engine:
        An `AsyncEngine`, not in ``AUTOCOMMIT``. It stays its owner's to dispose. One with a single
        connection for all (SQLite in memory) is used by one verb at a time.
    model_or_table:
        A mapped class or a `Table`, with a primary key.
    entity:
        What a row becomes: a dataclass, attrs class, `msgspec.Struct` or pydantic model, built with
        keyword arguments. Its fields are named as the attributes of the mapped class or the columns
        of the table. Columns that it leaves out are neither read nor written.
    version_column:
        The attribute, or its name, that counts the row's versions: an integer, NOT NULL. Each update
        raises it by one; `update` and `delete` of another version than the row's are a
        `ConflictError`. Without it an update overwrites whatever is there.
    where:
        A SQL expression. Rows outside of it do not exist for this source, and a write that would
        put a row there is undone and refused, as in a view ``WITH CHECK OPTION``.

    Attributes
    ----------
    entity:
        As given, or a frozen Struct made of the columns. It takes keywords only; a field that may
        be NULL, or that the database fills in (a generated key, a default), may be left out.
    key:
        The attribute of the primary key. For a composite one a tuple of them, in the order of the
        primary key; a key then is a tuple of their values.
    version:
        The attribute of the version column, or ``None``.

    Notes
    -----
    Never written are computed columns and, on an update, those with an ``onupdate`` or
    ``server_onupdate``. On `create` a ``None`` stands for the generated key, or for the default of
    a column that is NOT NULL; a version of ``None`` that has no default is stored as 0.

    Raises
    ------
    ConfigurationError
        By the constructor, if any of this does not hold.
    InvalidEntityError, EntityExistsError, EntityNotFoundError, ConflictError
        By the verbs. A value that its column cannot hold is an `InvalidEntityError`; a constraint
        other than the primary key's, a `ConflictError`.
    SourceUnavailableError
        By the verbs, for every other failure; its cause is the driver's exception.
    """

    entity: type[V]
    key: str | tuple[str, ...]
    version: str | None

    @overload
    def __init__(
        self: SQLAlchemySource[Any],
        engine: AsyncEngine,
        model_or_table: type[Any] | Table,
        *,
        entity: None = None,
        version_column: Attribute | None = None,
        where: ColumnElement[bool] | None = None,
    ) -> None: ...

    @overload
    def __init__(
        self,
        engine: AsyncEngine,
        model_or_table: type[Any] | Table,
        *,
        entity: type[V],
        version_column: Attribute | None = None,
        where: ColumnElement[bool] | None = None,
    ) -> None: ...

    def __init__(
        self,
        engine: AsyncEngine,
        model_or_table: type[Any] | Table,
        *,
        entity: type[V] | None = None,
        version_column: Attribute | None = None,
        where: ColumnElement[bool] | None = None,
    ) -> None:
        self._given = (model_or_table, entity, version_column, where)
        self._engine = _checked_engine(engine)
        self._turn = _turn_of(engine)
        self._table, columns, keys = mapped(model_or_table)
        self.key = keys[0] if len(keys) == 1 else keys
        self.version = version_of(version_column, columns, keys)
        name = getattr(model_or_table, "__name__", str(self._table.name))
        self.entity = entity or cast("type[V]", struct_of(name, columns, self.version))
        self._arguments = arguments_of(self.entity)
        check_fields(self.entity, self._arguments.keys(), columns, {*keys, self.version} - {None})
        self._columns = {attribute: columns[attribute] for attribute in self._arguments}
        self._key_columns = [columns[attribute] for attribute in keys]
        self._within = [] if where is None else [where]
        try:
            if isinstance(cast("object", where), bool):  # `Row.city is None`: Python's, not SQL's
                raise ArgumentError("it was computed in Python")
            self._select = select(*self._columns.values()).where(*self._within)
        except ArgumentError as error:
            raise ConfigurationError(
                f"where={where!r} is no SQL expression ({error}); compare columns with ==, .is_(), ..."
            ) from error

    def __repr__(self) -> str:
        return f"SQLAlchemySource({self._table.name!r}, entity={self.entity.__name__})"

    def bind(
        self, entity: type[B], *, key: object = None, version: str | None = None
    ) -> SQLAlchemySource[B]:
        """The same rows as entities of this class, for a repository with this key and version.

        Raises `ConfigurationError` if that contradicts what the source was given.
        """
        model_or_table, given, version_column, where = self._given
        if given is not None and given is not entity:
            raise ConfigurationError(
                f"{self!r} makes {given.__name__}s, and {entity.__name__}s are asked of it; give"
                " both the same class"
            )
        if isinstance(key, (str, tuple)) and key != self.key:
            raise ConfigurationError(
                f"key={key!r}, but the primary key of {self._table.name!r} is {self.key!r}; pass"
                f" key={self.key!r}"
            )
        if version is not None and self.version not in (None, version):
            raise ConfigurationError(
                f"version={version!r}, but the version column of {self!r} is {self.version!r}"
            )
        column = version if version_column is None else version_column
        return SQLAlchemySource(
            self._engine, model_or_table, entity=entity, version_column=column, where=where
        )

    async def load(self, key: Any, /) -> V | None:
        """The row with this key, or ``None``."""
        statement = self._select.where(*self._is(key))
        async with self._transaction("load", key) as connection:
            row = (await connection.execute(statement)).one_or_none()
        return None if row is None else self._entity_of(row)

    async def load_many(self, keys: Sequence[Any], /) -> list[V]:
        """The rows that exist of these keys, each once, in any order."""
        if not keys:
            return []
        distinct = list(dict.fromkeys(self._parts(key) for key in keys))
        batch = KEY_PARAMETERS // len(self._key_columns)
        rows: list[Sequence[Any]] = []
        async with self._transaction("load_many") as connection:
            for start in range(0, len(distinct), batch):
                chosen = tuple_(*self._key_columns).in_(distinct[start : start + batch])
                rows += await connection.execute(self._select.where(chosen))
        return [self._entity_of(row) for row in rows]

    async def load_all(self) -> AsyncGenerator[list[V], None]:
        """Every row once, in chunks of up to `CHUNK_ROWS`, streamed from one statement.

        It holds a connection until it is exhausted or closed. Whoever stops early closes it
        (`contextlib.aclosing`); else the connection returns only when it is collected.
        """
        async with self._transaction("load_all") as connection:
            result = None
            try:
                result = await connection.stream(
                    self._select, execution_options={"yield_per": CHUNK_ROWS}
                )
                async for rows in result.partitions():
                    yield [self._entity_of(row) for row in rows]
            except GeneratorExit:
                # MySQL sends what is left of the rows all the same: they are read here, or the
                # connection could not be used again. After any other exception it is not.
                if result is not None:
                    await result.close()
                raise
            finally:
                del (
                    result,
                    connection,
                )  # as `_transaction` says; since 3.13 a suspended frame is not cleared

    async def create(self, entity: V, /) -> V:
        """Insert; returns the row as stored, with what the database has generated."""
        values = {
            column: value
            for column, value in self._values_of(entity).items()
            if column.computed is None and not (value is None and fills_in(column))
        }
        if self.version is not None and values.get(self._columns[self.version], 0) is None:
            values[self._columns[self.version]] = 0
        key = _key_of([values.get(column) for column in self._key_columns])
        try:
            async with self._transaction("create", key) as connection:
                result = await connection.execute(insert(self._table).values(values))
                stored = _key_of(cast("Sequence[Any]", result.inserted_primary_key))
                return await self._read_back(connection, "create", stored)
        except ConflictError as conflict:
            # Which constraint it was, every database says in its own words. Whether the key is
            # there can be asked of all, and then the create could not have succeeded anyway.
            if None in (key if isinstance(key, tuple) else (key,)) or not await self._exists(key):
                raise
            raise EntityExistsError(
                f"create {self._table.name!r} {key!r}: this row is there already; update it, or "
                "create another"
            ) from conflict.__cause__

    async def update(self, entity: V, /) -> V:
        """Replace the row; returns it as stored, with its new version."""
        values = self._values_of(entity)
        key = _key_of([values.pop(column) for column in self._key_columns])
        values = {
            column: value
            for column, value in values.items()
            if not (column.computed or column.onupdate or column.server_onupdate)
        } or {column: column for column in self._key_columns}  # nothing to set, but is it there?
        held: int | None = None
        if self.version is not None:
            held = getattr(entity, self.version)
            if held is None:
                raise InvalidEntityError(
                    f"update {self._table.name!r} {key!r}: its {self.version} is None; update what "
                    "has been loaded"
                )
            values[self._columns[self.version]] = self._columns[self.version] + 1
        statement = update(self._table).where(*self._still(key, held)).values(values)
        async with self._transaction("update", key) as connection:
            if (await connection.execute(statement)).rowcount == 0:
                raise await self._lost(connection, "update", key, held)
            return await self._read_back(connection, "update", key)

    async def delete(self, key: Any, version: int | None = None, /) -> None:
        """Delete the row; if a `version` is given, only as long as that is the row's."""
        if version is not None and self.version is None:
            raise ConfigurationError(
                f"{self!r} cannot compare the version on a delete; give it its version_column"
            )
        statement = delete(self._table).where(*self._still(key, version))
        async with self._transaction("delete", key) as connection:
            if (await connection.execute(statement)).rowcount == 0:
                raise await self._lost(connection, "delete", key, version)

    # -- keys, entities and conditions -------------------------------------------------------------

    def _parts(self, key: Any) -> tuple[Any, ...]:
        """The key's values, one for each column of the primary key."""
        parts: tuple[Any, ...] = (key,) if isinstance(self.key, str) else key
        composite = isinstance(key, tuple)
        if composite is isinstance(self.key, str) or len(parts) != len(self._key_columns):
            raise InvalidEntityError(
                f"{key!r} is no key of {self._table.name!r}, which takes a value for {self.key!r}"
            )
        if None in parts:
            raise InvalidEntityError(f"{key!r} is no key of {self._table.name!r}: None is no value")
        return parts

    def _is(self, key: Any) -> list[ColumnElement[bool]]:
        # A literal of the column's type, whatever the value's: PostgreSQL else refuses to compare an
        # integer with a string as a mistake in the statement, as if the table were at fault.
        pairs = zip(self._key_columns, self._parts(key), strict=True)
        return [column == literal(part, column.type) for column, part in pairs]

    def _still(self, key: Any, version: int | None) -> list[ColumnElement[bool]]:
        """This row, within ``where``, and at this version if there is one to compare."""
        conditions = [*self._is(key), *self._within]
        if self.version is not None and version is not None:
            conditions.append(self._columns[self.version] == version)
        return conditions

    def _entity_of(self, row: Sequence[Any]) -> V:
        try:
            return self.entity(**dict(zip(self._arguments.values(), row, strict=True)))
        except Exception as error:  # whatever a validator of the application's raises
            raise InvalidEntityError(
                f"a row of {self._table.name!r} makes no {self.entity.__name__}: {error}"
            ) from error

    def _values_of(self, entity: V) -> dict[Column[Any], Any]:
        if not isinstance(cast("object", entity), self.entity):
            raise InvalidEntityError(f"{self!r} does not store a {type(entity).__name__}")
        return {column: getattr(entity, attribute) for attribute, column in self._columns.items()}

    # -- transactions ------------------------------------------------------------------------------

    @asynccontextmanager
    async def _transaction(
        self, verb: str, key: Any = None
    ) -> AsyncGenerator[AsyncConnection, None]:
        """A connection in a transaction, and the one place that translates exceptions.

        A cancellation passes: SQLAlchemy rolls back, and drops a connection that was left in the
        middle of a statement.
        """
        connected = False
        try:
            async with self._turn, self._engine.begin() as connection:
                connected = True
                yield connection
        except DollopError:
            raise
        except asyncio.CancelledError as cancelled:
            # The frames that were cut off still hold the cursor, in a cycle. While it lives SQLite
            # keeps its lock, though the connection is closed: nobody could write until a collection.
            traceback.clear_frames(cancelled.__traceback__)
            raise
        except Exception as error:
            kind = _meaning(error, verb) if connected else SourceUnavailableError
            row = repr(self._table.name) + ("" if key is None else f" {key!r}")
            reason = getattr(error, "orig", None) or error
            raise kind(f"{verb} {row}: {_SAID[kind]} ({reason!r})") from error

    async def _read_back(self, connection: AsyncConnection, verb: str, key: Any) -> V:
        """The row just written. What is raised here undoes the write."""
        row = (await connection.execute(self._select.where(*self._is(key)))).one_or_none()
        if row is None:
            raise InvalidEntityError(
                f"{verb} {self._table.name!r} {key!r}: undone, as the row would be outside of the "
                "source's where=, or under another key than this"
            )
        return self._entity_of(row)

    async def _lost(
        self, connection: AsyncConnection, verb: str, key: Any, version: int | None
    ) -> DollopError:
        """Why an UPDATE or DELETE has matched no row."""
        column = self._key_columns[0] if self.version is None else self._columns[self.version]
        statement = select(column).where(*self._is(key), *self._within)
        row = (await connection.execute(statement)).one_or_none()
        if row is None or version is None:
            return EntityNotFoundError(f"{verb} {self._table.name!r} {key!r}: there is no such row")
        return ConflictError(
            f"{verb} {self._table.name!r} {key!r}: {self.version} is {row[0]} in the database and "
            f"{version} here; load the row again"
        )

    async def _exists(self, key: Any) -> bool:
        """Whether the row is there, within ``where`` or not."""
        statement = select(*self._key_columns).where(*self._is(key))
        async with self._transaction("create", key) as connection:
            return (await connection.execute(statement)).first() is not None


_SAID: Final[dict[type[DollopError], str]] = {
    ConflictError: "a constraint of the database, or a transaction at the same time, forbids it",
    InvalidEntityError: "a value is not one that its column can hold",
    SourceUnavailableError: "the database failed; see that it is up, and that the table exists",
}


def _meaning(error: Exception, verb: str) -> type[DollopError]:
    """The error of ours that an exception amounts to, once there was a connection.

    By SQLSTATE too, as the classes of PEP 249 are coarse: asyncpg has none for a refused value.
    """
    if not isinstance(error, StatementError):
        # Bare come the conversions: a parameter's in a driver, a result's in the column's type.
        conversion = isinstance(error, (TypeError, ValueError, LookupError, ArithmeticError))
        return InvalidEntityError if conversion else SourceUnavailableError
    original = error.orig
    state = getattr(original, "sqlstate", None) or ""
    code = original.args[0] if original is not None and original.args else None
    if isinstance(error, IntegrityError) or code in MYSQL_CONSTRAINTS:
        return ConflictError
    if verb in ("create", "update", "delete") and state in ("40001", "40P01"):
        return ConflictError  # not serializable, or chosen to end a deadlock: it was rolled back
    if isinstance(error, DataError) or state.startswith("22"):
        return InvalidEntityError
    if not isinstance(error, DBAPIError) and not isinstance(original, SQLAlchemyError):
        return InvalidEntityError  # a parameter's conversion in the column's type
    if str(original).startswith("Error binding parameter"):  # SQLite's, as a ProgrammingError
        return InvalidEntityError
    return SourceUnavailableError


# -- what was handed to the constructor ------------------------------------------------------------


def _checked_engine(engine: object) -> AsyncEngine:
    if not isinstance(engine, AsyncEngine):
        raise ConfigurationError(
            f"engine={engine!r} is no AsyncEngine; make one with create_async_engine()"
        )
    return engine


_turns: WeakKeyDictionary[Pool, anyio.Semaphore] = WeakKeyDictionary()


def _turn_of(engine: AsyncEngine) -> AbstractAsyncContextManager[object]:
    """Where all tasks share one connection (SQLite in memory), only one at a time may have it.

    Else the rollback that ends one task's read would undo what another has just inserted.
    """
    pool = engine.sync_engine.pool
    if not isinstance(pool, StaticPool):
        return nullcontext()
    return _turns.setdefault(pool, anyio.Semaphore(1))


def _key_of(parts: Sequence[Any]) -> Any:
    return parts[0] if len(parts) == 1 else tuple(parts)
