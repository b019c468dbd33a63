"""What a broker's URL says, without ever quoting it: it has a password in it, and an error ends up in a log."""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import SplitResult, urlsplit

from .errors import ConfigurationError

__all__ = ["scheme_of", "split"]

_SCHEME: Final = re.compile(r"[a-z][a-z0-9+.-]*")


def scheme_of(url: str) -> str:
    """What is before ``://``; an empty text if that is no scheme."""
    scheme, there, _ = url.partition("://")
    return scheme.lower() if there and _SCHEME.fullmatch(scheme.lower()) else ""


def split(url: str) -> SplitResult:
    """The parts of a URL whose host and port can be read.

    Raises `ConfigurationError`, also for a password with a ``/``, ``?`` or ``#``, half of which would pass for a host
    or a port and the rest for a path, or with an ``@``, where some readers end it and others do not.
    """
    try:
        parts = urlsplit(url)
        _ = parts.port  # raises for one that is none
    except ValueError:
        parts = None
    if parts is None or url.count("@") > 1 or ("@" in url and "@" not in parts.netloc):
        # Not `from` what was raised: that quotes what it takes for the port.
        raise ConfigurationError(
            f"a {scheme_of(url)}:// URL whose host and port cannot be read: in user and password,"
            " everything but letters and digits has to be percent-encoded"
        )
    return parts
