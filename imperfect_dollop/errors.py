"""Every error this library raises on purpose, as one small tree.

`DollopError` is the root and is never raised itself: catch it to catch everything of ours. Each
leaf derives from the built-in of the same meaning where there is one, so code that already
handles `LookupError` or `TimeoutError` keeps working. An exception of a driver or of a loader is
never let through bare: it is the ``__cause__`` of one of these.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

__all__ = [
    "BrokerUnavailableError",
    "ClosedError",
    "ConfigurationError",
    "ConflictError",
    "ConflictReason",
    "DollopError",
    "EntityExistsError",
    "EntityNotFoundError",
    "InvalidEntityError",
    "LoadTimeoutError",
    "NotReadyError",
    "ProtocolError",
    "ReadOnlyError",
    "SourceMismatchError",
    "SourceUnavailableError",
    "TooStaleError",
]


class DollopError(Exception):
    """The root of the tree. Never raised itself."""


class ConfigurationError(DollopError, ValueError):
    """Arguments that contradict each other, or ask for what the source cannot do."""


class SourceMismatchError(ConfigurationError):
    """Another node of the namespace reads another source for a repository of the same name."""


class InvalidEntityError(DollopError, TypeError):
    """An entity or a key that the repository cannot hold, handed in or returned by the source."""


class NotReadyError(DollopError):
    """Nothing can be answered yet: the first complete load has not ended."""


class ClosedError(DollopError):
    """The repository or node is not open, or was closed while the call waited."""


class ReadOnlyError(DollopError):
    """A write to a repository that was declared ``read_only``."""


class EntityNotFoundError(DollopError, LookupError):
    """No row with this key: in the source for a write, in memory for ``repository[key]``."""


class EntityExistsError(DollopError):
    """`create` of a key that the source already has."""


ConflictReason: TypeAlias = Literal[
    "version", "unique", "foreign key", "deadlock", "serialization", "other"
]


class ConflictError(DollopError):
    """The source refused a write, and has stored nothing of it.

    `reason` says why:

    ``"version"``
        The row has another version than the one to replace. Read the row again, and apply the change to that.
    ``"unique"``, ``"foreign key"``
        The constraint that forbids the write. The same write fails again.
    ``"deadlock"``, ``"serialization"``
        A transaction at the same time was preferred. The same write may succeed when it is tried again.
    ``"other"``
        Another constraint, a trigger, or a view that takes no such write; for a source that gives no reason, any.
    """

    def __init__(self, *args: object, reason: ConflictReason = "other") -> None:
        super().__init__(*args)
        self.reason: ConflictReason = reason


class SourceUnavailableError(DollopError):
    """The source failed, or did not answer in time. For a write the outcome may be unknown."""


class LoadTimeoutError(DollopError, TimeoutError):
    """A load made no progress for ``hard_timeout`` seconds and was given up."""


class TooStaleError(DollopError):
    """What is held is older than the caller accepts, and nothing newer could be had."""


class BrokerUnavailableError(DollopError, ConnectionError):
    """The broker, or the other end of a transfer, is away."""


class ProtocolError(DollopError):
    """Bytes from the broker that are no message of this protocol.

    `reason` is the kind of fault in one word, under which it is counted.
    """

    def __init__(self, message: str, *, reason: str = "malformed") -> None:
        super().__init__(message)
        self.reason: str = reason
