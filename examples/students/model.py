"""The students, as the service holds them and as the table does."""

from __future__ import annotations

from dataclasses import dataclass

from sqlalchemy import Column, Identity, Integer, MetaData, String, Table

__all__ = ["MAX_GIVEN_ID", "MAX_ID", "MAX_TEXT", "Student", "students_table"]

MAX_ID = 2**31 - 1
"""The highest number that an INTEGER of PostgreSQL and MariaDB holds."""

MAX_GIVEN_ID = 999_999
"""The highest id that a client may give. PostgreSQL makes those above it: it does not look at what was given."""

MAX_TEXT = 100
"""Characters of a name and of a city."""


@dataclass(frozen=True, slots=True)
class Student:
    """One student. Frozen, as reads hand out the very object that is in memory."""

    id: int | None
    """``None`` until the database has made one."""
    name: str
    city: str
    version: int = 0
    """Counted up by every update."""


def students_table(name: str) -> Table:
    """The table, whatever it is called."""
    return Table(
        name,
        MetaData(),
        Column("id", Integer, Identity(start=MAX_GIVEN_ID + 1), primary_key=True),
        Column("name", String(MAX_TEXT), nullable=False),
        Column("city", String(MAX_TEXT), nullable=False),
        Column("version", Integer, nullable=False, default=0),
        sqlite_autoincrement=True,  # the key of one who has gone is not given to another
        mysql_charset="utf8mb4",
        mysql_engine="InnoDB",
    )
