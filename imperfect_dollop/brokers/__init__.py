"""From a URL to a broker; the backend, and with it the driver, is imported only then."""

from __future__ import annotations

from typing import Final
from urllib.parse import urlsplit

from ..broker import Broker
from ..errors import ConfigurationError

__all__ = ["SCHEMES", "check_url", "from_url"]

SCHEMES: Final = ("memory",)
"""URL schemes with a backend."""


def check_url(url: str) -> None:
    """Raises `ConfigurationError` for a URL whose scheme has no backend."""
    if urlsplit(url).scheme not in SCHEMES:
        known = ", ".join(f"{scheme}://" for scheme in SCHEMES)
        raise ConfigurationError(
            f"{url!r} names no broker that this version has; known are {known}"
        )


def from_url(url: str) -> Broker:
    """The broker that a URL names. Raises as `check_url`; to be called in a running event loop."""
    check_url(url)
    parts = urlsplit(url)
    from .memory import MemoryBroker

    return MemoryBroker.named(parts.netloc + parts.path)
