"""One node's link over Redis: what it publishes into the stream of its namespace, and what it reads from it."""

from __future__ import annotations

import asyncio
import math
import zlib
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

from ...broker import Delivery, Gap, Message
from ...clock import monotonic
from ...errors import BrokerUnavailableError
from .server import BLOCK, Command, Entry, Server, Wire, entries
from .transfer import Sender, Transfer

__all__ = ["RedisLink"]

BACKLOG_BYTES: Final = 64 << 20
"""Bytes that a stream keeps, about: large messages leave room for fewer."""

SHORTEST_BACKLOG: Final = 32
"""Messages that are kept however large they are."""

READ: Final = 64
READ_BYTES: Final = 1 << 20
"""Messages, and about their bytes, taken from the stream in one go. An answer has to arrive as a whole: what is too
much for a slow connection would be asked for again and again."""

WRITE_BYTES: Final = 1 << 20
"""Bytes of the messages handed over in one go, for the same reason; a single one may be larger."""

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
        self._count = 1  # of messages to ask for
        self.waiting: int = 0  # entries that were read and are still to be handed on
        self._place = ""  # the id of the last entry that was read
        self._proof = ""  # and what tells it from another entry of that id

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
        """Hand over what waits, much of it at once, in a task of its own: callers may be cancelled."""
        while self._lost is None:
            await self._something_waits.wait()
            self._something_waits.clear()
            sending = self._next()
            try:
                await self._writing.call(*[self._add(PAYLOAD, payload) for payload, _ in sending])
                for _, taken in sending:
                    if not taken.done():
                        taken.set_result(None)
                await self._renew()
            except BrokerUnavailableError as error:
                self.lose(str(error))
            except BaseException:
                self.lose("it was closed")  # those who wait are not in this task
                raise
            finally:
                for _, taken in sending:
                    self._fail(taken)

    async def _renew(self) -> None:
        """The stream lives on; not before something could be added to it, or one that takes nothing would too."""
        now = monotonic()
        if now - self._renewed > RENEW_SECONDS:
            self._renewed = now
            await self._writing.call(["EXPIRE", self._key, KEEP_SECONDS])

    def _next(self) -> list[tuple[bytes, asyncio.Future[None]]]:
        """What to hand over next, of what waits."""
        count = size = 0
        while count < len(self._waiting) and size < WRITE_BYTES:
            size += len(self._waiting[count][0])
            count += 1
        sending, self._waiting = self._waiting[:count], self._waiting[count:]
        if self._waiting:
            self._something_waits.set()
        return sending

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

    # -- receiving -------------------------------------------------------------------------------

    async def begin(self, after: str | None) -> None:
        """Begin where an earlier link was, or at the end of the stream."""
        if after is None:
            await self._mark()
        else:
            self._place, _, self._proof = after.partition("/")

    async def _mark(self) -> None:
        """Take a place at the end of the stream, with an entry of our own that can be looked for later."""
        mark = self._node.encode()
        (place,) = await self._reading.call(self._add(MARK, mark, make=False))
        if place is None:
            place, _ = await self._reading.call(
                self._add(MARK, mark), ["EXPIRE", self._key, KEEP_SECONDS]
            )
        self._at(place.decode(), mark)

    @property
    def position(self) -> str:
        """See `imperfect_dollop.broker.Link.position`."""
        return f"{self._place}/{self._proof}"

    def _at(self, place: str, value: bytes) -> None:
        """This entry was read."""
        self._place, self._proof = place, _proof(value)

    async def deliveries(self) -> AsyncGenerator[Delivery, None]:
        """See `imperfect_dollop.broker.Link.deliveries`."""
        wait = 0.0  # at first: should ids have gone backwards, nothing would come
        while not self._ended:
            self._check()
            try:
                found, gap = await self._look(wait)
            except BrokerUnavailableError as error:
                if self._ended:
                    return
                self.lose(str(error))
                raise
            wait = BLOCK
            if gap is not None:
                yield gap
            self.waiting = len(found)
            for place, field, value in found:
                if self._ended:
                    return
                self.waiting -= 1
                self._at(place, value)
                if field != MARK:
                    yield Message(value)

    async def _look(self, wait: float) -> tuple[list[Entry], Gap | None]:
        """What comes next, and a gap before it unless the last entry that was read is still there."""
        place, proof = self._place, self._proof
        block: Command = ["BLOCK", int(wait * 1_000)] if wait else []
        answer, last = await self._reading.call(
            ["XREAD", "COUNT", self._count, *block, "STREAMS", self._key, place],
            ["XRANGE", self._key, place, place],
            wait=wait,
        )
        found = entries(answer)
        if found:
            fitting = READ_BYTES // max(1, *(len(value) for *_, value in found))
            self._count = max(1, min(READ, 2 * self._count, fitting))
        if last and _proof(last[0][1][1]) == proof:
            return found, None
        if not found:
            await self._mark()
        return found, Gap(f"{self._server.where} no longer has what came after {place}")

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


def _proof(value: bytes) -> str:
    """What tells an entry from another one of the same id."""
    return f"{zlib.crc32(value):08x}"
