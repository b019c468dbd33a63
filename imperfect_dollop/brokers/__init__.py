"""From a URL to a broker; the backend, and with it the driver, is imported only then."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from ..broker import Broker
from ..errors import ConfigurationError

__all__ = ["SCHEMES", "check_url", "from_url"]

SCHEMES: Final = ("memory", "redis", "rediss", "amqp", "amqps")
"""URL schemes with a backend."""


def check_url(url: str) -> None:
    """Raises `ConfigurationError` for a URL whose scheme has no backend."""
    if urlsplit(url).scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ConfigurationError(
            f"{url!r} names no broker that this version has; known are {known}"
        )


def from_url(url: str) -> Broker:
    """The broker that a URL names; to be called in a running event loop.

    Raises `ConfigurationError`, as `check_url`, and where the backend's driver is not installed.
    """
    check_url(url)
    parts = urlsplit(url)
    if parts.scheme == "memory":
        from .memory import MemoryBroker

        return MemoryBroker.named(parts.netloc + parts.path)
    if parts.scheme.startswith("redis"):
        try:
            from .redis import RedisBroker
        except ImportError as error:
            raise _without_driver(url, "redis", error) from error
        return RedisBroker(url)
    try:
        from .rabbitmq import RabbitMQBroker
    except ImportError as error:
        raise _without_driver(url, "rabbitmq", error) from error
    return RabbitMQBroker(url)


def _without_driver(url: str, extra: str, error: ImportError) -> ConfigurationError:
    scheme = urlsplit(url).scheme
    return ConfigurationError(
        f"{scheme}:// needs a driver that is not installed ({error}):"
        f" pip install 'imperfect-dollop[{extra}]'"
    )
