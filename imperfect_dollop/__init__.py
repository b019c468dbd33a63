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
    SourceUnavailableError,
    TooStaleError,
)
from .node import Node
from .repository import Repository
from .source import FunctionSource, Source
from .stats import Info, State, Stats

__version__ = "0.1.0"

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
    "Info",
    "InvalidEntityError",
    "LoadTimeoutError",
    "Node",
    "NotReadyError",
    "ProtocolError",
    "ReadOnlyError",
    "Repository",
    "Source",
    "SourceUnavailableError",
    "State",
    "Stats",
    "TooStaleError",
]
