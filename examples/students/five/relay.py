"""A way to a broker that can be cut: for one that belongs to others, and is not ours to kill."""

from __future__ import annotations

import asyncio
import contextlib
from typing import Final

from .processes import LOOPBACK, Port

__all__ = ["Relay"]

CHUNK: Final = 65_536


class Relay:
    """Carries every connection to its port on to a server, and back."""

    def __init__(self, host: str, port: int) -> None:
        self._server = (host, port)
        self._port = Port()
        self._listener: asyncio.Server | None = None
        self._ends: set[asyncio.StreamWriter] = set()

    @property
    def port(self) -> int:
        """Where it listens, on the loopback interface."""
        return self._port.number

    async def restore(self) -> None:
        """Listen, and carry."""
        self._listener = await asyncio.start_server(self._carry, LOOPBACK, self.port)

    def cut(self) -> None:
        """Break every connection, and refuse new ones."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        for end in self._ends:
            end.transport.abort()

    def close(self) -> None:
        """Cut it for good."""
        self.cut()
        self._port.close()

    async def _carry(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        self._ends.add(client)
        try:
            answers, server = await asyncio.open_connection(*self._server)
            self._ends.add(server)
            try:
                if self._listener is None:  # cut while this one came in
                    return
                async with asyncio.TaskGroup() as both:
                    both.create_task(_forward(reader, server))
                    both.create_task(_forward(answers, client))
            finally:
                self._ends.discard(server)
                server.transport.abort()
        except* OSError:
            pass  # one of the two is gone, and the other one is told below
        finally:
            self._ends.discard(client)
            client.transport.abort()


async def _forward(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    with contextlib.suppress(OSError):
        writer.write_eof()
