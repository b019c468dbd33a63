"""A TCP proxy in the test's event loop: a link to a server that fails as links do."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import struct
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Final, Literal, Self
from urllib.parse import urlsplit, urlunsplit

from examples.students.five.processes import LOOPBACK, Port

Direction = Literal["up", "down"]
"""To the server, and back from it."""

USUAL_PORTS: Final = {
    "redis": 6379,
    "rediss": 6379,
    "amqp": 5672,
    "amqps": 5671,
    "postgresql": 5432,
    "mysql": 3306,
    "mariadb": 3306,
}
"""By the scheme of a URL, what comes after a ``+`` in it left out."""

CHUNK: Final = 65_536
UNDER_WAY: Final = 64
"""Chunks that a connection holds back in each direction before it stops reading."""


OPPOSITE: Final[dict[Direction, Direction]] = {"up": "down", "down": "up"}


@dataclass(eq=False)
class Connection:
    """A client's connection and the one to the server that stands for it."""

    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    carrier: asyncio.Task[None]
    lost: frozenset[Direction]
    """The directions in which everything vanishes."""

    def reset(self) -> None:
        reset(self.client)
        reset(self.server)


@dataclass(eq=False)
class Proxy:
    """What listens on a port of its own and carries every connection to the server and back.

    It starts to listen, carrying all, when it is entered. What a connection carries in one
    direction stays in order whatever happens.
    """

    server_host: str
    server_port: int
    accepted: int = 0
    """How many connections there have been so far."""
    _port: Port = field(default_factory=Port)
    _listener: asyncio.Server | None = None
    _carriers: set[asyncio.Task[None]] = field(default_factory=set)
    _carried: set[Connection] = field(default_factory=set)
    _flowing: asyncio.Event = field(default_factory=asyncio.Event)
    _delay: float = 0.0
    _lost_when_new: frozenset[Direction] = frozenset()
    _changing: asyncio.Lock = field(default_factory=asyncio.Lock)

    @classmethod
    def before(cls, url: str) -> Self:
        """A proxy for the server at this URL."""
        parts = urlsplit(url)
        assert parts.hostname is not None
        return cls(parts.hostname, parts.port or USUAL_PORTS[parts.scheme.partition("+")[0]])

    @property
    def port(self) -> int:
        return self._port.number

    @property
    def connections(self) -> int:
        """How many clients' connections are carried now."""
        return len(self._carried)

    @property
    def ports_at_server(self) -> list[int]:
        """From which ports of this host the connections to the server come, as the server sees them."""
        return [each.server.get_extra_info("sockname")[1] for each in self._carried]

    def url(self, of: str) -> str:
        """The same URL through the proxy."""
        parts = urlsplit(of)
        user, at, _ = parts.netloc.rpartition("@")
        return urlunsplit(parts._replace(netloc=f"{user}{at}{LOOPBACK}:{self.port}"))

    # -- what happens to a link --------------------------------------------------------------------

    async def cut(self) -> None:
        """Reset every connection, on both sides, and refuse new ones."""
        async with self._changing:
            self._refuse()
            await self._end(*self._carriers)

    async def restore(self) -> None:
        """Carry everything again, without delay.

        Connections on which something may have vanished are reset: nobody could make sense of
        what follows.
        """
        async with self._changing:
            self._lost_when_new = frozenset()  # first: a connection may be made while others end
            await self._end(*(each.carrier for each in self._carried if each.lost))
            self.delay(0)
            self.resume()
            if self._listener is None:
                self._listener = await asyncio.start_server(self._accept, LOOPBACK, self.port)

    def stall(self) -> None:
        """Forward nothing and, soon, read nothing; connections stay open, new ones are accepted."""
        self._flowing.clear()

    def resume(self) -> None:
        """Forward again, beginning with all that was sent meanwhile."""
        self._flowing.set()

    def half_open(
        self,
        *directions: Direction,
        new: Literal["carried", "lost", "refused"] = "lost",
    ) -> None:
        """Let everything vanish in these directions, or both: bytes, ends and resets.

        The sockets stay as they are, so that neither side is told. `new` is what becomes of
        connections that are opened from now on.
        """
        lost: frozenset[Direction] = frozenset(directions or ("up", "down"))
        for connection in self._carried:
            connection.lost = lost
        self._lost_when_new = lost if new == "lost" else frozenset()
        if new == "refused":
            self._refuse()

    def delay(self, seconds: float) -> None:
        """Forward what is read from now on so much later, in each direction."""
        self._delay = seconds

    @contextlib.asynccontextmanager
    async def outage(self) -> AsyncIterator[None]:
        """The link is cut for as long as this is open."""
        await self.cut()
        try:
            yield
        finally:
            await self.restore()

    # -- as long as it is open ---------------------------------------------------------------------

    async def __aenter__(self) -> Self:
        await self.restore()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.cut()
        self._port.close()

    def _refuse(self) -> None:
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def _end(self, *carriers: asyncio.Task[None]) -> None:
        for carrier in carriers:
            carrier.cancel()
        for outcome in await asyncio.gather(*carriers, return_exceptions=True):
            if isinstance(outcome, Exception):
                raise outcome

    def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        if self._listener is None:  # closed while this one came in
            reset(client)
            return
        self.accepted += 1
        carrier = asyncio.create_task(self._carry(reader, client))
        self._carriers.add(carrier)
        carrier.add_done_callback(self._ended)

    def _ended(self, carrier: asyncio.Task[None]) -> None:
        # One that failed, by a fault of this proxy, is kept for who ends it to say so.
        if carrier.cancelled() or carrier.exception() is None:
            self._carriers.discard(carrier)

    async def _carry(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            answers, server = await asyncio.open_connection(self.server_host, self.server_port)
        except OSError:
            reset(client)  # it has been accepted already: this is as near to a refusal as can be
            return
        except asyncio.CancelledError:
            reset(client)
            raise
        carrier = asyncio.current_task()
        assert carrier is not None
        connection = Connection(client, server, carrier, self._lost_when_new)
        self._carried.add(connection)
        try:
            async with asyncio.TaskGroup() as both:
                both.create_task(self._forward(connection, "up", reader, server))
                both.create_task(self._forward(connection, "down", answers, client))
            client.close()
            server.close()
        except* OSError:
            await self._flowing.wait()  # one side has reset it, and so is the other, in its time
        finally:
            connection.reset()
            self._carried.discard(connection)
            for writer in (client, server):
                with contextlib.suppress(OSError):
                    await writer.wait_closed()

    async def _forward(
        self,
        connection: Connection,
        direction: Direction,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
    ) -> None:
        chunks: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue(UNDER_WAY)
        now = asyncio.get_running_loop().time
        async with asyncio.TaskGroup() as both:
            both.create_task(self._deliver(connection, direction, chunks, writer))
            data = b"anything"
            while data:
                await self._flowing.wait()
                try:
                    data = await reader.read(CHUNK)
                except OSError:
                    if direction not in connection.lost:
                        raise
                    return  # the reset has vanished too; the delivery waits for what never comes
                await chunks.put((now() + self._delay, data))

    async def _deliver(
        self,
        connection: Connection,
        direction: Direction,
        chunks: asyncio.Queue[tuple[float, bytes]],
        writer: asyncio.StreamWriter,
    ) -> None:
        now = asyncio.get_running_loop().time
        # So that drain() waits until the system has taken all: nothing is left here to be sent on
        # after a stall has begun.
        writer.transport.set_write_buffer_limits(0)
        while True:
            due, data = await chunks.get()
            await asyncio.sleep(max(0.0, due - now()))
            await self._flowing.wait()
            if direction in connection.lost:
                continue
            if not data:
                break
            try:
                writer.write(data)
                await writer.drain()
            except OSError:
                if OPPOSITE[direction] not in connection.lost:
                    raise
                # That the receiver is gone does not come back either; its share is dropped.
                connection.lost |= {direction}
        if not writer.is_closing():
            writer.write_eof()


def reset(writer: asyncio.StreamWriter) -> None:
    """Close the connection with RST instead of FIN."""
    if not writer.is_closing():
        own: socket.socket = writer.get_extra_info("socket")
        own.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        writer.transport.abort()
