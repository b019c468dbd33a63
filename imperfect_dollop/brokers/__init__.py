"""From a URL to a broker; the backend, and with it the driver, is imported only then."""

from __future__ import annotations

from urllib.parse import urlsplit

from ..broker import Broker
from ..errors import ConfigurationError

__all__ = ["SCHEMES", "from_url"]

SCHEMES = ("memory",)
"""URL schemes with a backend."""


def from_url(url: str) -> Broker:
    """The broker that a URL names. Raises `ConfigurationError` for a scheme without a backend."""
    parts = urlsplit(url)
    if parts.scheme == "memory":
        from .memory import MemoryBroker

        return MemoryBroker.named(parts.netloc + parts.path)
    known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
    raise ConfigurationError(f"{url!r} names no broker that is known here; known are {known}")
