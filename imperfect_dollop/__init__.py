"""Imperfect Dollop: the rows a service needs, as objects in the memory of every process.

`Repository` is what an application reads and writes, `Node` keeps it in step with its siblings.
"""

from .broker import Broker
from .errors import (
    BrokerUnavailableError,
    ClosedError,
    ConfigurationError,
    ConflictError,
    DollopError,
    EntityExistsError,
    EntityNotFoundError,
    InvalidEntityError,
    LoadTimeoutError,
    NotReadyError,
    ProtocolError,
    ReadOnlyError,
    SourceMismatchError,
    SourceUnavailableError,
    TooStaleError,
)
from .node import Node
from .repository import Repository
from .source import FunctionSource, Source
from .stats import Histogram, Info, NodeStats, State, Stats

__version__ = "0.1.0"

# A library says nothing unless the application listens: without this, warnings would go to standard error.

__all__ = [
    "Broker",
    "BrokerUnavailableError",
    "ClosedError",
    "ConfigurationError",
    "ConflictError",
    "DollopError",
    "EntityExistsError",
    "EntityNotFoundError",
    "FunctionSource",
    "Histogram",
    "Info",
    "InvalidEntityError",
    "LoadTimeoutError",
    "Node",
    "NodeStats",
    "NotReadyError",
    "ProtocolError",
    "ReadOnlyError",
    "Repository",
    "Source",
    "SourceMismatchError",
    "SourceUnavailableError",
    "State",
    "Stats",
    "TooStaleError",
]
