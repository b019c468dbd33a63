"""The URLs of the demo: which are known, what has to be installed for them, and how they are shown."""

from __future__ import annotations

from typing import Final, NamedTuple
from urllib.parse import urlsplit

from ..brokers import SCHEMES
from ..errors import ConfigurationError

__all__ = ["SQLITE", "Need", "async_url", "check_broker", "masked", "needed_for"]

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


def check_broker(url: str) -> None:
    """Raises `ConfigurationError` for a broker that the library does not have."""
    if _scheme(url) not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ConfigurationError(f"broker={masked(url)!r}: the demo knows {known}")


def async_url(database: str) -> str:
    """A database's URL with the driver that the demo uses, or `SQLITE`.

    Raises `ConfigurationError` for a database that the demo does not know.
    """
    if database == SQLITE:
        return SQLITE
    scheme = _scheme(database)
    if scheme not in _DATABASES:
        known = ", ".join((SQLITE, *(f"{known}://" for known in _DATABASES)))
        raise ConfigurationError(f"database={masked(database)!r}: the demo knows {known}")
    return f"{_DATABASES[scheme][0]}://{database.partition('://')[2]}"


def needed_for(broker: str, database: str) -> list[Need]:
    """The drivers of both."""
    needs = [_BROKERS.get(_scheme(broker)), _DATABASES.get(_scheme(database), (None, None))[1]]
    return [need for need in needs if need is not None]


def masked(url: str) -> str:
    """A URL as it may be shown: without its password, and without options, where one may be too."""
    head, slashes, rest = url.partition("://")
    if not slashes:
        return url
    address, slash, path = rest.partition("?")[0].partition("/")
    user, at, host = address.rpartition("@")
    name, colon, _ = user.partition(":")
    return f"{head}://{name}{':***' if colon else ''}{at}{host}{slash}{path}"


def _scheme(url: str) -> str:
    try:
        return urlsplit(url).scheme
    except ValueError:  # brackets that are no address
        return ""
