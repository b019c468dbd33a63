"""The URLs of the demo: which are known, what has to be installed for them, and how they are shown."""

from __future__ import annotations

from typing import Final, NamedTuple

from ..errors import ConfigurationError
from ..url import scheme_of, split

__all__ = ["SQLITE", "Need", "async_url", "masked", "needed_for"]

SQLITE: Final = "sqlite"
"""Stands where a database's URL could: a file in a temporary directory, gone with the demo."""


class Need(NamedTuple):
    """A module, and what to install with pip to have it."""

    module: str
    install: str


_REDIS: Final = Need("redis", "'imperfect-dollop[redis]'")
_RABBITMQ: Final = Need("aio_pika", "'imperfect-dollop[rabbitmq]'")

_BROKERS: Final = {
    "redis": _REDIS,
    "rediss": _REDIS,
    "amqp": _RABBITMQ,
    "amqps": _RABBITMQ,
}

_POSTGRESQL: Final = Need("asyncpg", "asyncpg")
_MARIADB: Final = Need("asyncmy", "asyncmy")

_DATABASES: Final = {
    "postgresql": ("postgresql+asyncpg", _POSTGRESQL),
    "postgres": ("postgresql+asyncpg", _POSTGRESQL),
    "postgresql+asyncpg": ("postgresql+asyncpg", _POSTGRESQL),
    "mysql": ("mysql+asyncmy", _MARIADB),
    "mariadb": ("mariadb+asyncmy", _MARIADB),
    "mysql+asyncmy": ("mysql+asyncmy", _MARIADB),
    "mariadb+asyncmy": ("mariadb+asyncmy", _MARIADB),
}


def async_url(database: str) -> str:
    """A database's URL with the driver that the demo uses, or `SQLITE`.

    Raises `ConfigurationError` for one that the demo does not know.
    """
    if database == SQLITE:
        return SQLITE
    scheme = scheme_of(database)
    if scheme not in _DATABASES:
        known = ", ".join((SQLITE, *(f"{known}://" for known in _DATABASES)))
        what = f"{scheme}://" if scheme else "a URL without a scheme"
        raise ConfigurationError(f"{what} names no database that the demo knows; known are {known}")
    return f"{_DATABASES[scheme][0]}://{database.partition('://')[2]}"


def needed_for(broker: str, database: str) -> list[Need]:
    """The drivers of both."""
    _, driver = _DATABASES.get(scheme_of(database), ("", None))
    return [need for need in (_BROKERS.get(scheme_of(broker)), driver) if need is not None]


def masked(url: str) -> str:
    """Where a URL leads, without user, password and options, in each of which a secret may be.

    Raises `ConfigurationError` where that cannot be told for certain.
    """
    if url == SQLITE:
        return SQLITE
    parts = split(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
