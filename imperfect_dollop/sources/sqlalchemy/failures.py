"""What an exception of SQLAlchemy or of a driver means: the error to raise, and one sentence on what to do.

The classes of PEP 249 are too coarse for that: asyncpg has none for a refused value, MariaDB reports a violated CHECK
as an OperationalError. So the decision rests on the SQLSTATE (PostgreSQL), the error number (MariaDB and MySQL) or the
name of the result code (SQLite), and on the class only where there is none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Final, NamedTuple

from sqlalchemy.exc import (
    DataError,
    DBAPIError,
    IntegrityError,
    SQLAlchemyError,
    StatementError,
)

from ...errors import (
    ConflictError,
    ConflictReason,
    DollopError,
    InvalidEntityError,
    SourceUnavailableError,
)

__all__ = ["Stage", "is_stale_plan", "translated"]

Code = str | int


class Stage(NamedTuple):
    """How far a transaction had come when an exception ended it."""

    connected: bool
    """Whether there was a connection. Before, no value can be at fault."""
    committing: bool
    """Whether COMMIT was under way. From then on only the database itself can say that nothing was committed."""


WRITES: Final = frozenset({"create", "update", "delete"})


def _table(*rows: tuple[str, Iterable[Code]]) -> Mapping[Code, str]:
    return {code: said for said, codes in rows for code in codes}


_REASONS: Final[Mapping[Code, ConflictReason]] = {
    **dict.fromkeys(
        (
            "23505",
            1022,
            1062,
            1169,
            1586,
            "SQLITE_CONSTRAINT_UNIQUE",
            "SQLITE_CONSTRAINT_PRIMARYKEY",
        ),
        "unique",
    ),
    "SQLITE_CONSTRAINT_ROWID": "unique",
    **dict.fromkeys(
        ("23503", 1216, 1217, 1451, 1452, "SQLITE_CONSTRAINT_FOREIGNKEY"), "foreign key"
    ),
    **dict.fromkeys(("40P01", 1205, 1213), "deadlock"),
    **dict.fromkeys(("40001", 1020), "serialization"),
    # A missing value, a violated CHECK, and what a trigger refuses.
    **dict.fromkeys(("P0001", 1048, 1364, 1644, 3819, 4025), "other"),
}
"""The codes of a refused write, and the reason that `ConflictError.reason` gives. 23 in SQLSTATE is one too."""

_CONFLICTS: Final[Mapping[ConflictReason, str]] = {
    "deadlock": "the database ended a deadlock, or a wait for a lock, by undoing this write; try again",
    "serialization": "a transaction at the same time changed what this one had read; try again",
}

_VIEWS: Final = frozenset({"55000", 1288, 1348, 1471})
"""The codes of a write to a view that takes no such write. SQLite has only a message."""

_VALUES: Final = frozenset({1264, 1265, 1292, 1366, 1367, 1406, 1690, 1906, 3105, "428C9"})
"""The codes for a value that a column cannot hold, or does not take at all. 22 in SQLSTATE is one too."""

_UNAVAILABLE: Final = _table(
    ("the table or view does not exist; create it, or correct the name", ["42P01", 1146]),
    ("a column does not exist; migrate the table, or correct the mapping", ["42703", 1054]),
    (
        "the role lacks a privilege; GRANT it the rights on the table",
        ["42501", 1044, 1142, 1143, 1370],
    ),
    (
        "the database refuses the login; check user name, password and the server's rules of access",
        ["28000", "28P01", 1045, 1698],
    ),
    (
        "the database of the engine's URL does not exist; create it, or correct the URL",
        ["3D000", 1049],
    ),
    ("the schema does not exist; create it, or correct the name", ["3F000"]),
    (
        "the database is read-only here; point the engine at the primary",
        ["25006", 1290, 1792, 1836, "SQLITE_READONLY"],
    ),
    (
        "the server has no connection left; raise its limit, or make the pools smaller",
        ["53300", 1040, 1203],
    ),
    (
        "another transaction holds a lock on the row or table for too long",
        ["55P03", 1205, "SQLITE_BUSY", "SQLITE_LOCKED"],
    ),
)
"""The codes of failures with a remedy of their own."""

_SQLITE_MESSAGES: Final = (  # these have the result code SQLITE_ERROR, and nothing else to tell them apart
    ("no such table", _UNAVAILABLE["42P01"]),
    ("no such column", _UNAVAILABLE["42703"]),
    ("has no column named", _UNAVAILABLE["42703"]),
    (
        "unable to open database file",
        "the file cannot be opened; check its folder and the permissions",
    ),
)

_VALUE: Final = "a value is not one that its column can hold"
_CONSTRAINT: Final = "a constraint of the database forbids it"
_VIEW: Final = "the view cannot be written"
_FAILED: Final = "the database failed; see that it is up and reachable"
_OTHER_LOOP: Final = (
    "a connection is in use by another event loop or task; make one engine in each event loop, and do not share "
    "connections between tasks"
)
_LOOP_MESSAGES: Final = (
    "attached to a different loop",
    "bound to a different event loop",
    "another operation is in progress",
    "Event loop is closed",
    "Command Out of Sync",  # asyncmy's words for two tasks, or two loops, on one connection
)


def translated(error: Exception, verb: str, row: str, stage: Stage) -> DollopError:
    """The error of ours for an exception that ended the transaction of a verb on a row."""
    original: Any = getattr(error, "orig", None) or error
    about = f"{verb} {row}"
    kind, said, reason = _meaning(error, original, verb, stage)
    message = f"{about}: {said} ({original!r})"
    return ConflictError(message, reason=reason) if kind is ConflictError else kind(message)


def is_stale_plan(error: BaseException | None) -> bool:
    """Whether asyncpg has found that DDL changed what a prepared statement returns. The next use prepares it anew."""
    return type(getattr(error, "orig", None)).__name__ == "InvalidCachedStatementError"


def _meaning(
    error: Exception, original: Any, verb: str, stage: Stage
) -> tuple[type[DollopError], str, ConflictReason]:
    code, text = _code_of(original), str(original)
    if any(message in text for message in _LOOP_MESSAGES):
        return SourceUnavailableError, _OTHER_LOOP, "other"
    if stage.connected:
        if verb in WRITES and (code in _REASONS or _is_constraint(error, code)):
            reason = _REASONS.get(code, "other")
            return ConflictError, _CONFLICTS.get(reason, _CONSTRAINT), reason
        if verb in WRITES and (code in _VIEWS or text.endswith("because it is a view")):
            return ConflictError, _VIEW, "other"
        if _is_value(error, original, code, text) and not (stage.committing and code == ""):
            return InvalidEntityError, _VALUE, "other"
    said = _UNAVAILABLE.get(code) or next(
        (said for message, said in _SQLITE_MESSAGES if message in text), _FAILED
    )
    return SourceUnavailableError, said, "other"


def _code_of(original: Any) -> Code:
    """The SQLSTATE, error number or name of a result code. Empty if the exception is not the database's."""
    first = original.args[0] if original.args else None
    if type(first) is int:  # before the SQLSTATE, which is the same for many of MariaDB's numbers
        return first
    for name in ("sqlstate", "sqlite_errorname"):
        code = getattr(original, name, None)
        if isinstance(code, str):
            return code
    return ""


def _is_constraint(error: Exception, code: Code) -> bool:
    return isinstance(error, IntegrityError) or (isinstance(code, str) and code.startswith("23"))


def _is_value(error: Exception, original: Any, code: Code, text: str) -> bool:
    """Whether a parameter or a value of a result could not be converted, here or in the database."""
    if code in _VALUES or str(code).startswith("22"):
        return True
    if not isinstance(error, StatementError):
        # Conversions come bare: of a parameter in a driver, of a result in the column's type.
        return isinstance(error, (TypeError, ValueError, LookupError, ArithmeticError))
    if isinstance(error, DataError):
        return True
    if not isinstance(error, DBAPIError) and not isinstance(original, SQLAlchemyError):
        return True  # the conversion of a parameter in the column's type
    return text.startswith(
        (
            "Error binding parameter",
            "Could not decode to UTF-8",
            "cannot INSERT into generated column",
            "cannot UPDATE generated column",
        )
    )
