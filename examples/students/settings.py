"""What the service is told by its environment."""

from __future__ import annotations

import dataclasses
import math
import os
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, Self

from sqlalchemy.engine import make_url
from sqlalchemy.exc import ArgumentError

__all__ = ["DRIVERS", "Settings", "SettingsError", "async_url"]

DRIVERS: Final = {
    "sqlite": "sqlite+aiosqlite",
    "postgresql": "postgresql+asyncpg",
    "postgres": "postgresql+asyncpg",
    "mysql": "mysql+asyncmy",
    "mariadb": "mariadb+asyncmy",
}
"""Databases that are known, and the driver that a URL without one is given."""

TABLE_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,50}")


class SettingsError(ValueError):
    """Settings that cannot work. The message names the variable, and never shows a URL: it may hold a password."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings, each with the default for trying things out.

    A variable that is empty counts as absent. ``STUDENTS_BROKER_FILE`` and ``STUDENTS_DATABASE_FILE`` may name
    a file that holds the URL, as secrets are handed to containers.
    """

    broker: str = dataclasses.field(default="memory://", repr=False)
    """``STUDENTS_BROKER``: memory://, redis://, rediss://, amqp:// or amqps://."""
    database: str = dataclasses.field(default="sqlite+aiosqlite:///students.sqlite", repr=False)
    """``STUDENTS_DATABASE``: sqlite:///, postgresql://, mysql:// or mariadb://; see `DRIVERS`."""
    namespace: str = "students"
    """``STUDENTS_NAMESPACE``: instances of one namespace keep each other in step."""
    node: str | None = None
    """``STUDENTS_NODE``: the instance's name, for people; by default host, process and a suffix."""
    table: str = "students"
    """``STUDENTS_TABLE``: see `table`, which creates it."""
    ttl: float = 120.0
    """``STUDENTS_TTL``: seconds after which the table is read again, for what was changed by others."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> Self:
        """The settings in the environment. Raises `SettingsError`."""
        readers: dict[str, Callable[[str], Any]] = {
            "database": async_url,
            "table": _table,
            "ttl": _seconds,
        }
        given: dict[str, Any] = {}
        for field in dataclasses.fields(cls):
            value = _value(f"STUDENTS_{field.name.upper()}", environment)
            if value is not None:
                given[field.name] = readers.get(field.name, str)(value)
        return cls(**given)


def async_url(database: str) -> str:
    """A database's URL with an asynchronous driver. Raises `SettingsError`."""
    try:
        url = make_url(database)
    except (ArgumentError, ValueError):
        url = None  # what was raised may quote the URL
    if url is None:
        raise SettingsError(
            "STUDENTS_DATABASE is no URL like postgresql://user:password@host/database; in user and password"
            " everything but letters and digits has to be percent-encoded"
        )
    driver = DRIVERS.get(url.drivername, url.drivername)
    if driver not in DRIVERS.values():
        known = ", ".join(f"{name}://" for name in DRIVERS)
        raise SettingsError(
            f"STUDENTS_DATABASE: {url.drivername}:// names no database that is known here; known are {known}"
        )
    return url.set(drivername=driver).render_as_string(hide_password=False)


def _value(variable: str, environment: Mapping[str, str]) -> str | None:
    value = environment.get(variable) or None
    if variable not in ("STUDENTS_BROKER", "STUDENTS_DATABASE"):
        return value
    file = environment.get(f"{variable}_FILE")
    if not file:
        return value
    if value is not None:
        raise SettingsError(f"{variable} and {variable}_FILE are both set; leave out one")
    try:
        value = Path(file).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{variable}_FILE names a file that cannot be read: {error}") from error
    if not value:
        raise SettingsError(f"{variable}_FILE names {file}, which is empty")
    return value


def _table(name: str) -> str:
    if TABLE_NAME.fullmatch(name) is None:
        raise SettingsError(
            f"STUDENTS_TABLE={name!r}: a name has up to 51 letters, digits and _, and begins with no digit"
        )
    return name


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 < seconds < math.inf:
        raise SettingsError(f"STUDENTS_TTL={text!r} must be seconds above 0, like 120")
    return seconds
