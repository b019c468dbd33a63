"""One node's link over Redis: what it publishes into the stream of its namespace, and what it reads from it."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncGenerator, AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Final

from ...broker import Delivery, Gap, Message
from ...errors import BrokerUnavailableError
from .server import BLOCK, Command, Server, Wire, entries
from .transfer import Sender, Transfer

__all__ = ["RedisLink"]

BACKLOG_BYTES: Final = 64 << 20
"""Bytes that a stream keeps, about: large messages leave room for fewer."""

SHORTEST_BACKLOG: Final = 32
"""Messages that are kept however large they are."""

READ: Final = 64
"""Messages taken from the stream in one go: at most about a megabyte each."""

KEEP_SECONDS: Final = 3_600
"""A namespace whose nodes are all away for that long is forgotten; a link that returns later finds a gap."""

RENEW_SECONDS: Final = 600
"""Between two renewals of that."""

PAYLOAD: Final = b"p"
MARK: Final = b"m"
"""First fields of an entry: a message; an entry of a link that needs a place to begin at."""


class RedisLink:
    """See `imperfect_dollop.broker.Link`."""

    def __init__(
        self,
        server: Server,
        reading: Wire,
        writing: Wire,
        namespace: str,
        node: str,
        *,
        backlog: int,
    ) -> None:
        self._server = server
        self._reading = reading
        self._writing = writing
        self._namespace = namespace
        self._node = node
        self._backlog = backlog
        self._key = server.key("events", namespace)
        self._renewed = -math.inf
        self._waiting: list[tuple[bytes, asyncio.Future[None]]] = []
        self._something_waits = asyncio.Event()
        self._lost: str | None = None
        self._ended = False
        self.position: str = ""

    def end(self) -> None:
        """The link was left."""
        self._ended = True
        self.lose("it was closed")

    def lose(self, reason: str) -> None:
        """From now on everything raises."""
        self._lost = self._lost or reason
        waiting, self._waiting = self._waiting, []
        for _, taken in waiting:
            self._fail(taken)

    def _check(self) -> None:
        if self._lost is not None:
            raise BrokerUnavailableError(f"the link to {self._server.where} is lost: {self._lost}")

    # -- publishing ------------------------------------------------------------------------------

    async def publish(self, payload: bytes) -> None:
        """See `imperfect_dollop.broker.Link.publish`."""
        self._check()
        taken: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append((bytes(payload), taken))
        self._something_waits.set()
        await taken

    async def run_publishing(self) -> None:
        """Hand over what waits, all of it at once, in a task of its own: callers may be cancelled."""
        while self._lost is None:
            await self._something_waits.wait()
            self._something_waits.clear()
            sending, self._waiting = self._waiting, []
            try:
                await self._writing.call(
                    *[self._add(PAYLOAD, payload) for payload, _ in sending], *self._renewal()
                )
            except BrokerUnavailableError as error:
                self.lose(str(error))
            except BaseException:
                self.lose("it was closed")  # those who wait are not in this task
                raise
            finally:
                for _, taken in sending:
                    if self._lost is not None:
                        self._fail(taken)
                    elif not taken.done():
                        taken.set_result(None)

    def _fail(self, taken: asyncio.Future[None]) -> None:
        if not taken.done():
            taken.set_exception(
                BrokerUnavailableError(f"{self._server.where}: not taken: {self._lost}")
            )
            taken.exception()  # its caller may have gone

    def _add(self, field: bytes, value: bytes, *, make: bool = True) -> Command:
        fitting = BACKLOG_BYTES // max(1, len(value))
        length = min(self._backlog, max(SHORTEST_BACKLOG, fitting))
        name: Command = ["XADD", self._key] if make else ["XADD", self._key, "NOMKSTREAM"]
        return [*name, "MAXLEN", "~", length, "*", field, value]

    def _renewal(self) -> Iterator[Command]:
        now = time.monotonic()
        if now - self._renewed > RENEW_SECONDS:
            self._renewed = now
            yield ["EXPIRE", self._key, KEEP_SECONDS]

    # -- receiving -------------------------------------------------------------------------------

    async def begin(self, after: str | None) -> None:
        """Begin where an earlier link was, or at the end of the stream."""
        if after is None:
            await self._mark()
        else:
            self.position = after

    async def _mark(self) -> None:
        """Take a place at the end of the stream, with an entry of our own that can be looked for later."""
        mark = self._node.encode()
        (place,) = await self._reading.call(self._add(MARK, mark, make=False))
        if place is None:
            place, _ = await self._reading.call(
                self._add(MARK, mark), ["EXPIRE", self._key, KEEP_SECONDS]
            )
        self.position = place.decode()

    async def deliveries(self) -> AsyncGenerator[Delivery, None]:
        """See `imperfect_dollop.broker.Link.deliveries`."""
        block = int(BLOCK * 1_000)
        while not self._ended:
            self._check()
            try:
                place = self.position
                found, still_there = await self._reading.call(
                    ["XREAD", "COUNT", READ, "BLOCK", block, "STREAMS", self._key, place],
                    ["XRANGE", self._key, place, place],
                    wait=BLOCK,
                )
                found = entries(found)
                if not still_there and not found:
                    await self._mark()
            except BrokerUnavailableError as error:
                if self._ended:
                    return
                self.lose(str(error))
                raise
            if not still_there:
                yield Gap(f"{self._server.where} no longer has what came after {place}")
            for place, field, value in found:
                if self._ended:
                    return
                self.position = place
                if field != MARK:
                    yield Message(value)

    # -- transfers -------------------------------------------------------------------------------

    @asynccontextmanager
    async def receive_transfer(
        self, address: str, *, timeout: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `imperfect_dollop.broker.Link.receive_transfer`."""
        self._check()
        transfer = Transfer(self._server, self._namespace, address, timeout)
        async with self._server.wire() as wire, transfer.received(wire) as chunks:
            yield chunks

    @asynccontextmanager
    async def send_transfer(self, address: str, *, timeout: float) -> AsyncIterator[Sender]:
        """See `imperfect_dollop.broker.Link.send_transfer`."""
        self._check()
        transfer = Transfer(self._server, self._namespace, address, timeout)
        async with self._server.wire() as wire, transfer.sent(wire) as sender:
            yield sender
