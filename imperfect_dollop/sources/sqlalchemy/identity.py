"""Which rows a source reads, in words: server, database, schema, table and ``where``, without user and password.

The words depend on nothing but the engine's URL, the table and the expression, so all processes that read the same rows
the same way have the same. An address that means another server on each machine (a loopback address, a UNIX socket, a
file) is followed by the name of the machine.
"""

from __future__ import annotations

import os
import secrets
import socket
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final
from urllib.parse import unquote, urlsplit
from weakref import WeakKeyDictionary

from sqlalchemy import ColumnElement, Table
from sqlalchemy.dialects.mysql.base import MySQLDialect
from sqlalchemy.dialects.postgresql.base import PGDialect
from sqlalchemy.dialects.sqlite.base import SQLiteDialect
from sqlalchemy.engine import URL, Dialect
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine
from sqlalchemy.pool import Pool
from sqlalchemy.sql import visitors

__all__ = ["identity_of"]

LOOPBACK: Final = frozenset({"localhost", "127.0.0.1", "::1"})
"""Names of one address: of the machine itself."""

DIALECTS: Final[dict[str, Callable[..., Dialect]]] = {
    "postgresql": PGDialect,
    "mysql": MySQLDialect,
    "sqlite": SQLiteDialect,
}
"""By which an expression is written down, whatever the driver: drivers differ in how they write a percent sign."""

PORTS: Final = {"postgresql": 5432, "mysql": 3306}

_memory_names: WeakKeyDictionary[Pool, str] = WeakKeyDictionary()


def identity_of(engine: AsyncEngine, table: Table, where: ColumnElement[bool] | None) -> str | None:
    """The identity of the rows of a table within ``where``; ``None`` where the URL does not say which server it is."""
    kind = engine.url.get_backend_name()
    kind = "mysql" if kind == "mariadb" else kind  # either name connects to either server
    schema = _schema(engine, table)
    if kind == "sqlite":
        place: str | None = _sqlite(engine)
    else:
        if kind == "mysql" and schema is not None:  # another word for the database
            place, schema = _server(engine.url.set(database=schema), kind), None
        else:
            place = _server(engine.url, kind)
    if place is None:
        return None
    words = [place, f"table {table.name if schema is None else f'{schema}.{table.name}'}"]
    if where is not None:
        words.append(f"where {_written(where, kind, engine.dialect)}")
    return ", ".join(words)


def _schema(engine: AsyncEngine, table: Table) -> str | None:
    translated: Any = engine.get_execution_options().get("schema_translate_map") or {}
    schema: str | None = translated.get(table.schema, table.schema)
    return schema


def _server(url: URL, kind: str) -> str | None:
    """Host, port and database; where the URL leaves them out, those that the drivers of PostgreSQL and MySQL take."""
    host, port, database = url.host or "", url.port, url.database
    given = url.query.get("unix_socket") or url.query.get("host")
    if given:  # sockets, or several hosts, each with a port
        host = given if isinstance(given, str) else ",".join(sorted(given))
        port = port or _number(url.query.get("port"))
    if kind == "postgresql":
        host = host or os.environ.get("PGHOST", "")
        port = port or _number(os.environ.get("PGPORT"))
        user = url.username or os.environ.get("PGUSER")
        database = database or os.environ.get("PGDATABASE") or user
    if kind in PORTS:
        host, port = host or "localhost", port or PORTS[kind]
    if not host or not database:
        return None
    is_socket = "/" in host
    host = host if is_socket else host.lower()
    is_local = is_socket or host in LOOPBACK
    if host in LOOPBACK:
        host = "localhost"
    if ":" in host and not given:
        host = f"[{host}]"
    if port is not None and not (given and ":" in host):
        host = f"{host}:{port}"
    words = f"{kind}://{host}/{database}"
    if options := url.query.get("options"):  # of psycopg, which may choose the schema
        words += f" with options {options}"
    return f"{words} of {socket.gethostname()}" if is_local else words


def _number(port: object) -> int | None:
    return int(port) if isinstance(port, str) and port.isdecimal() else None


def _sqlite(engine: AsyncEngine) -> str:
    name = engine.url.database or ":memory:"
    machine = socket.gethostname()
    if name.startswith("file:"):
        parts = urlsplit(name)
        name = unquote(parts.path)
        if engine.url.query.get("mode") == "memory":
            return f"sqlite memory {name!r} of process {os.getpid()} of {machine}"
    if name == ":memory:":
        own = _memory_names.setdefault(engine.sync_engine.pool, secrets.token_hex(4))
        return f"sqlite memory {own} of process {os.getpid()} of {machine}"
    return f"sqlite://{Path(name).resolve()} of {machine}"


def _written(where: ColumnElement[bool], kind: str, dialect: Dialect) -> str:
    """The expression with its values, the same in every process: a set has another order in each."""
    written_by = DIALECTS[kind](paramstyle="named") if kind in DIALECTS else dialect
    ordered = visitors.cloned_traverse(where, {}, {"bindparam": _order})
    try:
        compiled = ordered.compile(dialect=written_by, compile_kwargs={"literal_binds": True})
        return str(compiled)
    except (SQLAlchemyError, NotImplementedError):  # a value of a type that has no literal
        compiled = ordered.compile(dialect=written_by)
        return f"{compiled} with {compiled.params!r}"


def _order(parameter: Any) -> None:
    if parameter.expanding and isinstance(parameter.value, (list, tuple, set, frozenset)):
        parameter.value = sorted(parameter.value, key=repr)
