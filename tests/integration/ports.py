"""Ports of the loopback interface."""

from __future__ import annotations

import socket
import sys
from typing import Final

LOOPBACK: Final = "127.0.0.1"


class Port:
    """A TCP port of the loopback interface, nobody else's until it is closed.

    A socket that is bound and never listens holds it, also while the server it is meant for is
    dead: nobody is given the port, and no client that tries again and again connects to itself.
    Linux lets the server listen there all the same, because both say SO_REUSEADDR; elsewhere the
    port is only one that was free a moment ago.
    """

    def __init__(self) -> None:
        self._holder = socket.socket()
        self._holder.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._holder.bind((LOOPBACK, 0))
        self.number: Final[int] = self._holder.getsockname()[1]
        if sys.platform != "linux":
            self._holder.close()

    def close(self) -> None:
        self._holder.close()
