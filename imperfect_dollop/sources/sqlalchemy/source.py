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
import math
import traceback
from collections.abc import AsyncGenerator, Awaitable, Callable, Iterable, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext, suppress
from decimal import Decimal
from typing import Any, Final, Generic, TypeVar, cast, overload
from weakref import WeakKeyDictionary

import anyio
from sqlalchemy import (
    JSON,
    Column,
    ColumnElement,
    Insert,
    Integer,
    Table,
    Text,
    Uuid,
    case,
    delete,
    insert,
    literal,
    null,
    select,
    tuple_,
    update,
)
from sqlalchemy import cast as sql_cast
from sqlalchemy.engine import Dialect
from sqlalchemy.exc import ArgumentError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine
from sqlalchemy.pool import Pool, StaticPool
from sqlalchemy.types import TypeDecorator

from ...errors import (
    ConfigurationError,
    ConflictError,
    DollopError,
    EntityExistsError,
    EntityNotFoundError,
    InvalidEntityError,
    SourceUnavailableError,
)
from ...source import RemovedRow, UnreadableRow
from .column_types import key_type_of, takes_key
from .failures import Stage, is_stale_plan, translated
from .identity import identity_of
from .mapping import (
    Attribute,
    arguments_of,
    check_fields,
    fills_in,
    mapped,
    struct_of,
    version_of,
)
from .reading import RowReader, key_of

__all__ = ["SQLAlchemySource"]

V = TypeVar("V")
B = TypeVar("B")
R = TypeVar("R")

CHUNK_ROWS: Final = 1_000
"""Rows of `load_all` in memory at a time: a few milliseconds of work, some hundred kilobytes."""

KEY_PARAMETERS: Final = 900
"""Bound parameters for the keys of one statement. SQLite before 3.32 allows 999 in all (later
32,766; PostgreSQL 32,767); what remains is for ``where``."""

MAX_UNREADABLE: Final = 1_000
"""Rows of one load that may be read one by one, as the driver cannot read them. More are a fault of the table."""

Key = tuple[Any, ...]
"""The values of a key, one for each column of the primary key."""


class SQLAlchemySource(Generic[V]):
    """The rows of one table, as entities.

    Parameters
    ----------
    engine:
        An `AsyncEngine`. It stays its owner's to dispose. One in ``AUTOCOMMIT`` is refused, as no
        write could be undone there. One with a single connection for all (SQLite in memory) is used by
        one verb at a time.
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
        A SQL expression. Rows outside of it do not exist for this source, and a `create` of one is
        undone and refused. An `update` that moves a row out of it deletes the row for this source, as
        where ``where`` leaves out rows with a ``deleted_at``.
    check_where:
        Whether an `update` that moves a row out of `where` is undone and refused too, as in a view
        ``WITH CHECK OPTION``.
    identity:
        A name for these rows, the same on every node that reads them; nodes whose identities differ
        exchange nothing. By default it is made of the engine's URL (dialect, host, port and database,
        without user and password), the schema and name of the table, and `where`. Give one where
        nodes reach one database under several addresses.

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
    identity:
        As given, or as derived; ``None`` where the engine's URL does not name the server.

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
    identity: str | None

    @overload
    def __init__(
        self: SQLAlchemySource[Any],
        engine: AsyncEngine,
        model_or_table: type[Any] | Table,
        *,
        entity: None = None,
        version_column: Attribute | None = None,
        where: ColumnElement[bool] | None = None,
        check_where: bool = False,
        identity: str | None = None,
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
        check_where: bool = False,
        identity: str | None = None,
    ) -> None: ...

    def __init__(
        self,
        engine: AsyncEngine,
        model_or_table: type[Any] | Table,
        *,
        entity: type[V] | None = None,
        version_column: Attribute | None = None,
        where: ColumnElement[bool] | None = None,
        check_where: bool = False,
        identity: str | None = None,
    ) -> None:
        self._given = (model_or_table, entity, version_column, where, check_where, identity)
        self._engine = _checked_engine(engine)
        self._turn = _turn_of(engine)
        self._table, columns, keys = mapped(model_or_table)
        self.key = keys[0] if len(keys) == 1 else keys
        self.version = version_of(version_column, columns, keys)
        name = getattr(model_or_table, "__name__", str(self._table.name))
        self.entity = entity or cast(
            "type[V]", struct_of(name, columns, self.version, engine.dialect)
        )
        self._arguments = arguments_of(self.entity)
        check_fields(self.entity, self._arguments.keys(), columns, {*keys, self.version} - {None})
        self._columns = {attribute: columns[attribute] for attribute in self._arguments}
        self._key_columns = [columns[attribute] for attribute in keys]
        self._key_types = [key_type_of(column, engine.dialect) for column in self._key_columns]
        # Whether the database compares keys as Python does: text may be equal without case, for example.
        self._exact_keys = all(
            isinstance(column.type, (Integer, Uuid)) for column in self._key_columns
        )
        self._json = {
            column
            for column in self._columns.values()
            if column.nullable and _is_json(column, engine.dialect)
        }
        self._within = [] if where is None else [where]
        self._may_leave = where is not None and not check_where
        self._reader: RowReader[V] = RowReader(
            str(self._table.name), self.entity, self._arguments, self._columns, keys
        )
        try:
            if isinstance(cast("object", where), bool):  # `Row.city is None`: Python's, not SQL's
                raise ArgumentError("it was computed in Python")
            self._select = select(*self._reader.columns).where(*self._within)
        except ArgumentError as error:
            raise ConfigurationError(
                f"where={where!r} is no SQL expression ({error}); compare columns with ==, .is_(), ..."
            ) from error
        self.identity = identity_of(engine, self._table, where) if identity is None else identity

    def __repr__(self) -> str:
        return f"SQLAlchemySource({self._table.name!r}, entity={self.entity.__name__})"

    def bind(
        self, entity: type[B], *, key: object = None, version: str | None = None
    ) -> SQLAlchemySource[B]:
        """The same rows as entities of this class, for a repository with this key and version.

        Raises `ConfigurationError` if that contradicts what the source was given.
        """
        model_or_table, given, version_column, where, check_where, identity = self._given
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
            self._engine,
            model_or_table,
            entity=entity,
            version_column=column,
            where=where,
            check_where=check_where,
            identity=identity,
        )

    async def load(self, key: Any, /) -> V | None:
        """The row with this key, ``None``, or an `UnreadableRow` in place of what makes no entity."""
        found = await self._read("load", [self._parts(key)])
        return found[0] if found else None

    async def load_many(self, keys: Sequence[Any], /) -> list[V]:
        """The rows that exist of these keys, each once, in any order; see `load`."""
        distinct = list(dict.fromkeys(self._parts(key) for key in keys))
        return await self._read("load_many", distinct) if distinct else []

    async def load_all(self) -> AsyncGenerator[list[V], None]:
        """Every row once, in chunks of up to `CHUNK_ROWS`, streamed from one statement.

        It holds a connection until it is exhausted or closed. Whoever stops early closes it
        (`contextlib.aclosing`); else the connection returns only when it is collected.

        A row that makes no entity is an `UnreadableRow`. If the driver itself cannot read a row, the
        stream ends there; the rows that are left are then read by their keys, in later transactions.
        """
        done: list[Any] = []  # the keys of the rows that were yielded
        retried = False
        failure: InvalidEntityError | None = None
        while failure is None:
            try:
                async with self._transaction("load_all") as connection:
                    result = None
                    try:
                        result = await connection.stream(
                            self._select, execution_options={"yield_per": CHUNK_ROWS}
                        )
                        async for rows in result.partitions():
                            done += map(self._reader.key_of, rows)
                            yield self._entities(rows)
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
                return
            except SourceUnavailableError as error:
                if done or retried or not is_stale_plan(error.__cause__):
                    raise
                retried = True
            except InvalidEntityError as error:
                failure = error
        async for chunk in self._remaining(done, failure):
            yield chunk

    async def create(self, entity: V, /) -> V:
        """Insert; returns the row as stored, with what the database has generated."""
        values = {
            column: value
            for column, value in self._values_of(entity).items()
            if column.computed is None and not (value is None and fills_in(column))
        }
        if self.version is not None and values.get(self._columns[self.version], 0) is None:
            values[self._columns[self.version]] = 0
        values.update(
            (column, null()) for column in self._json & values.keys() if values[column] is None
        )
        parts = [values.get(column) for column in self._key_columns]
        key = key_of(parts)
        self._check_types(key, parts)
        self._check_finite(values.values())

        async def write() -> V:
            async with self._transaction("create", key) as connection:
                stored = await self._insert(connection, insert(self._table).values(values))
                return await self._read_back(connection, "create", stored, given=parts)

        try:
            return await self._once_more(write)
        except ConflictError as conflict:
            # Which constraint it was, every database says in its own words. Whether the key is
            # there can be asked of all, and then the create could not have succeeded anyway.
            there = None
            if None not in parts:
                with suppress(
                    DollopError
                ):  # the conflict is known, whatever becomes of the question
                    there = await self._stored_key("create", key)
            if there is None:
                raise
            known = (
                "" if there == key else f", as {there!r}, which the database takes for the same key"
            )
            raise EntityExistsError(
                f"create {self._table.name!r} {key!r}: this row is there already{known}; update it, or "
                "create another"
            ) from conflict.__cause__

    async def update(self, entity: V, /) -> V:
        """Replace the row; returns it as stored, with its new version.

        A `RemovedRow` says that the row has moved out of `where`, so that this source no longer has it.
        """
        values = self._values_of(entity)
        parts = [values.pop(column) for column in self._key_columns]
        key = key_of(parts)
        values = {
            column: value
            for column, value in values.items()
            if not (column.computed or column.onupdate or column.server_onupdate)
        } or {column: column for column in self._key_columns}  # nothing to set, but is it there?
        # SQL NULL and JSON's null are both None here: the update keeps whichever the row has.
        values.update(
            (column, case((sql_cast(column, Text) == "null", column), else_=null()))
            for column in self._json & values.keys()
            if values[column] is None
        )
        held: int | None = None
        if self.version is not None:
            held = getattr(entity, self.version)
            if held is None:
                raise InvalidEntityError(
                    f"update {self._table.name!r} {key!r}: its {self.version} is None; update what "
                    "has been loaded"
                )
            values[self._columns[self.version]] = self._columns[self.version] + 1

        async def write() -> V:
            async with self._transaction("update", key) as connection:
                self._check_finite(values.values())
                statement = update(self._table).where(*self._still(key, held)).values(values)
                if (await connection.execute(statement)).rowcount == 0:
                    raise await self._lost(connection, "update", key, held)
                return await self._read_back(connection, "update", key, given=parts)

        async with self._existing("update", key):
            return await self._once_more(write)

    async def delete(self, key: Any, version: int | None = None, /) -> None:
        """Delete the row; if a `version` is given, only as long as that is the row's."""
        if version is not None and self.version is None:
            raise ConfigurationError(
                f"{self!r} cannot compare the version on a delete; give it its version_column"
            )

        async def write() -> None:
            async with self._transaction("delete", key) as connection:
                conditions = self._still(key, version)
                statement = delete(self._table).where(*conditions)
                if self._exact_keys:
                    if (await connection.execute(statement)).rowcount == 0:
                        raise await self._lost(connection, "delete", key, version)
                    return
                if self._engine.dialect.delete_returning:
                    deleted = await connection.execute(statement.returning(*self._key_columns))
                else:
                    there = select(*self._key_columns).where(*conditions).with_for_update()
                    deleted = await connection.execute(there)
                    await connection.execute(statement)
                row = deleted.one_or_none()
                if row is None:
                    raise await self._lost(connection, "delete", key, version)
                self._check_same("delete", self._parts(key), row)

        async with self._existing("delete", key):
            await self._once_more(write)

    # -- reads -------------------------------------------------------------------------------------

    async def _read(self, verb: str, keys: Sequence[Key]) -> list[V]:
        """The rows of these keys. Keys and rows that fail the statement do not fail the others."""
        try:
            return await self._once_more(lambda: self._fetch(verb, keys))
        except InvalidEntityError as error:
            if len(keys) == 1:
                return await self._read_alone(verb, key_of(keys[0]), error)
        middle = len(keys) // 2
        halves = keys[:middle], keys[middle:]
        return [row for half in halves for row in await self._read(verb, half)]

    async def _read_alone(self, verb: str, key: Any, error: InvalidEntityError) -> list[V]:
        """What there is of a row whose statement has failed for the key's sake, or the row's."""
        try:
            there = await self._stored_key(verb, key)
        except InvalidEntityError:
            return []  # the column cannot hold such a key, so no row has it
        # That may raise too: then `where` is at fault, and not the row.
        if there != key or await self._stored_key(verb, key, within=True) is None:
            return []
        cause = error.__cause__ or error
        unreadable = self._reader.unreadable(key, getattr(cause, "orig", None) or cause)
        return [cast("V", unreadable)]

    async def _fetch(self, verb: str, keys: Sequence[Key]) -> list[V]:
        batch = KEY_PARAMETERS // len(self._key_columns)
        rows: list[Sequence[Any]] = []
        about = key_of(keys[0]) if len(keys) == 1 else None
        async with self._transaction(verb, about) as connection:
            if len(keys) == 1:
                rows += await connection.execute(self._select.where(*self._is(about)))
            else:
                self._check_finite(part for key in keys for part in key)
                for start in range(0, len(keys), batch):
                    chosen = tuple_(*self._key_columns).in_(keys[start : start + batch])
                    rows += await connection.execute(self._select.where(chosen))
        if not self._exact_keys:
            asked = {key_of(key) for key in keys}
            rows = [row for row in rows if self._reader.key_of(row) in asked]
        return self._entities(rows)

    async def _remaining(
        self, done: list[Any], failure: InvalidEntityError
    ) -> AsyncGenerator[list[V], None]:
        """The rows that are left where a load of all rows met one that the driver cannot read."""
        async with self._transaction("load_all") as connection:
            listing = select(*self._reader.key_columns).where(*self._within)
            listed = (await connection.execute(listing)).all()
        known = set(done)
        keys: list[Key] = []
        nameless: list[UnreadableRow] = []
        for row in listed:
            bad = self._reader.without_key(row)
            if bad is not None:
                nameless.append(bad)
            elif key_of(row) not in known:
                keys.append(tuple(row))
        unreadable = 0
        if nameless:
            yield cast("list[V]", nameless)
        for start in range(0, len(keys), CHUNK_ROWS):
            chunk = await self._read("load_all", keys[start : start + CHUNK_ROWS])
            unreadable += sum(isinstance(row, UnreadableRow) for row in chunk)
            if unreadable > MAX_UNREADABLE:
                raise failure
            yield chunk

    async def _once_more(self, transaction: Callable[[], Awaitable[R]]) -> R:
        """Run a transaction, and once again if DDL has changed what a statement that asyncpg had prepared returns.

        asyncpg finds that before the commit, so nothing of the first transaction is stored.
        """
        try:
            return await transaction()
        except SourceUnavailableError as error:
            if not is_stale_plan(error.__cause__):
                raise
        return await transaction()

    async def _stored_key(self, verb: str, key: Any, *, within: bool = False) -> Any:
        """The key under which the database has the row that it takes for this one, or ``None``.

        Rows outside of ``where`` count unless `within`.
        """
        conditions = [*self._is(key), *(self._within if within else [])]
        async with self._transaction(verb, key) as connection:
            row = (await connection.execute(select(*self._key_columns).where(*conditions))).first()
        return None if row is None else key_of(row)

    def _entities(self, rows: Sequence[Sequence[Any]]) -> list[V]:
        return cast("list[V]", self._reader.entities(rows))

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
        self._check_types(key, parts)
        return tuple(parts)

    def _check_types(self, key: Any, parts: Sequence[Any]) -> None:
        """Raises `InvalidEntityError` for a key whose values are not of the types of its columns."""
        for attribute, part, kind in zip(
            (self.key,) if isinstance(self.key, str) else self.key,
            parts,
            self._key_types,
            strict=True,
        ):
            if part is not None and not takes_key(kind, part):
                raise InvalidEntityError(
                    f"{key!r} is no key of {self._table.name!r}: {attribute} is "
                    f"{'an' if kind is int else 'a'} {getattr(kind, '__name__', kind)}, "
                    f"not a {type(part).__name__}"
                )

    def _is(self, key: Any) -> list[ColumnElement[bool]]:
        # A literal of the column's type, whatever the value's: PostgreSQL else refuses to compare an
        # integer with a string as a mistake in the statement, as if the table were at fault.
        parts = self._parts(key)
        self._check_finite(parts)
        pairs = zip(self._key_columns, parts, strict=True)
        return [column == literal(part, column.type) for column, part in pairs]

    def _still(self, key: Any, version: int | None) -> list[ColumnElement[bool]]:
        """This row, within ``where``, and at this version if there is one to compare."""
        conditions = [*self._is(key), *self._within]
        if self.version is not None and version is not None:
            conditions.append(self._columns[self.version] == version)
        return conditions

    def _values_of(self, entity: V) -> dict[Column[Any], Any]:
        if not isinstance(cast("object", entity), self.entity):
            raise InvalidEntityError(f"{self!r} does not store a {type(entity).__name__}")
        return {column: getattr(entity, name) for name, column in self._columns.items()}

    def _check_finite(self, values: Iterable[Any]) -> None:
        """Raises `InvalidEntityError` for a number that the statement itself could not say.

        The drivers for MariaDB and MySQL write numbers into the statement as they are, and take NaN for a column there.
        """
        if self._engine.dialect.name not in ("mysql", "mariadb"):
            return
        for value in values:
            if isinstance(value, (float, Decimal)) and not math.isfinite(value):
                raise InvalidEntityError(
                    f"{self._table.name!r} cannot hold {value!r}: numbers of this database are finite"
                ) from ValueError(f"{value!r} is not finite")

    # -- transactions ------------------------------------------------------------------------------

    @asynccontextmanager
    async def _transaction(
        self, verb: str, key: Any = None
    ) -> AsyncGenerator[AsyncConnection, None]:
        """A connection in a transaction, and the one place that translates exceptions.

        A cancellation passes: SQLAlchemy rolls back, and drops a connection that was left in the
        middle of a statement.
        """
        stage = Stage(connected=False, committing=False)
        try:
            async with self._turn, self._engine.begin() as connection:
                stage = Stage(connected=True, committing=False)
                yield connection
                stage = Stage(connected=True, committing=True)
        except DollopError:
            raise
        except asyncio.CancelledError as cancelled:
            # The frames that were cut off still hold the cursor, in a cycle. While it lives SQLite
            # keeps its lock, though the connection is closed: nobody could write until a collection.
            traceback.clear_frames(cancelled.__traceback__)
            raise
        except Exception as error:
            row = repr(self._table.name) + ("" if key is None else f" {key!r}")
            raise translated(error, verb, row, stage) from error

    @asynccontextmanager
    async def _existing(self, verb: str, key: Any) -> AsyncGenerator[None, None]:
        """Around an update or delete: no row has a key that its column cannot hold."""
        try:
            yield
        except InvalidEntityError as error:
            if error.__cause__ is None or await self._can_hold(verb, key):
                raise
            raise EntityNotFoundError(
                f"{verb} {self._table.name!r} {key!r}: there is no such row, as its column cannot hold this key"
            ) from error.__cause__

    async def _can_hold(self, verb: str, key: Any) -> bool:
        try:
            await self._stored_key(verb, key)
        except InvalidEntityError:
            return False
        except DollopError:
            pass  # not known, and the error of the write is what the caller is told
        return True

    async def _insert(self, connection: AsyncConnection, statement: Insert) -> Any:
        """Insert a row; returns the key that the database has stored, as far as the database tells."""
        if self._exact_keys or not self._engine.dialect.insert_returning:
            result = await connection.execute(statement)
            return key_of(cast("Sequence[Any]", result.inserted_primary_key))
        return key_of((await connection.execute(statement.returning(*self._key_columns))).one())

    async def _read_back(
        self, connection: AsyncConnection, verb: str, key: Any, *, given: Sequence[Any]
    ) -> V:
        """The row just written. What is raised here undoes the write."""
        row = (await connection.execute(self._select.where(*self._is(key)))).one_or_none()
        inside = row is not None
        if row is None:  # outside of `where`, or nowhere
            anywhere = select(*self._reader.columns).where(*self._is(key))
            row = (await connection.execute(anywhere)).one_or_none()
        if row is None:
            raise InvalidEntityError(
                f"{verb} {self._table.name!r} {key!r}: undone, as the row would be under another key"
            )
        self._check_same(verb, given, [row[index] for index in self._reader.key])
        if inside:
            return self._reader.entity(row)
        if verb == "update" and self._may_leave:
            return cast("V", RemovedRow(self._reader.entity(row)))
        raise InvalidEntityError(
            f"{verb} {self._table.name!r} {key!r}: undone, as the row would be outside of the source's where="
        )

    def _check_same(self, verb: str, given: Sequence[Any], stored: Sequence[Any]) -> None:
        """Raises `InvalidEntityError`, which undoes a write, if it has hit a row of another key than given."""
        if all(asked is None or asked == found for asked, found in zip(given, stored, strict=True)):
            return
        raise InvalidEntityError(
            f"{verb} {self._table.name!r} {key_of(given)!r}: undone, as the database has this row under the key "
            f"{key_of(stored)!r}; use that key, or declare the column so that it keeps such keys apart"
        )

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
            f"{version} here; load the row again",
            reason="version",
        )


# -- what was handed to the constructor ------------------------------------------------------------


def _checked_engine(engine: object) -> AsyncEngine:
    if not isinstance(engine, AsyncEngine):
        raise ConfigurationError(
            f"engine={engine!r} is no AsyncEngine; make one with create_async_engine()"
        )
    options = engine.sync_engine.get_execution_options()
    # SQLAlchemy has no public name for create_engine(isolation_level=).
    level = options.get("isolation_level") or getattr(
        engine.dialect, "_on_connect_isolation_level", None
    )
    if level == "AUTOCOMMIT":
        raise ConfigurationError(
            f"engine={engine!r} is in AUTOCOMMIT, where a write cannot be undone; make one without that "
            "isolation_level"
        )
    return engine


def _is_json(column: Column[Any], dialect: Dialect) -> bool:
    kind = column.type.dialect_impl(dialect)
    return isinstance(kind.impl_instance if isinstance(kind, TypeDecorator) else kind, JSON)


_turns: WeakKeyDictionary[Pool, anyio.Semaphore] = WeakKeyDictionary()


def _turn_of(engine: AsyncEngine) -> AbstractAsyncContextManager[object]:
    """Where all tasks share one connection (SQLite in memory), only one at a time may have it.

    Else the rollback that ends one task's read would undo what another has just inserted.
    """
    pool = engine.sync_engine.pool
    if not isinstance(pool, StaticPool):
        return nullcontext()
    return _turns.setdefault(pool, anyio.Semaphore(1))
