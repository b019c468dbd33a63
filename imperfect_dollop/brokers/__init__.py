"""From a URL to a broker; the backend, and with it the driver, is imported only then."""

from __future__ import annotations

from typing import Final

from ..broker import Broker
from ..errors import ConfigurationError
from ..url import scheme_of, split

__all__ = ["SCHEMES", "check_url", "from_url", "is_local"]

SCHEMES: Final = ("memory", "redis", "rediss", "amqp", "amqps")
"""URL schemes with a backend."""


def check_url(url: str) -> None:
    """Raises `ConfigurationError` for a URL whose scheme has no backend, or whose host and port cannot be read."""
    scheme = scheme_of(url)
    if scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        what = f"{scheme}://" if scheme else "a URL without a scheme"
        raise ConfigurationError(f"{what} names no broker that this version has; known are {known}")
    split(url)


def is_local(url: str) -> bool:
    """Whether the broker that a URL names joins nodes of this process only."""
    return scheme_of(url) == "memory"


def from_url(url: str) -> Broker:
    """The broker that a URL names; to be called in a running event loop.

    Raises `ConfigurationError`, as `check_url`, and where the backend's driver is not installed.
    """
    check_url(url)
    scheme = scheme_of(url)
    if scheme == "memory":
        from .memory import MemoryBroker

        return MemoryBroker.named(url.partition("://")[2])
    try:
        if scheme.startswith("redis"):
            from .redis import RedisBroker

            return RedisBroker(url)
        from .rabbitmq import RabbitMQBroker

        return RabbitMQBroker(url)
    except ImportError as error:
        raise ConfigurationError(f"{scheme}://: {error}") from error
