"""A transfer over RabbitMQ: each end has a queue, and what it sends is mandatory, so that it learns who has gone."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.commands import Basic

from ...broker import TRANSFER_WINDOW
from ...errors import BrokerUnavailableError
from ...transfer import Credit, checked, cut, nobody, silent_receiver, silent_sender
from .server import Server, when_closed

__all__ = ["End", "Sender", "chunks"]

GOODBYE_SECONDS: Final = 1.0
"""For telling the other end that a transfer is cut."""

LONGEST_QUEUE: Final = 4 * TRANSFER_WINDOW
"""Messages that may wait at an end, or in the server for it; an end that keeps to its credit has far fewer."""

BEGIN: Final = "begin"
CHUNK: Final = "chunk"
END: Final = "end"
CUT: Final = "cut"
CREDIT: Final = "credit"
"""Types of the messages."""


class End:
    """One end of a transfer: a queue of its own, and the name of the other end's."""

    def __init__(
        self, server: Server, channel: AbstractChannel, address: str, timeout: float
    ) -> None:
        self.address = address
        self.timeout = timeout
        self.peer: str | None = None
        self._server = server
        self._channel = channel
        self._queue = ""
        self._heard: deque[tuple[str, bytes]] = deque()
        self._something = asyncio.Event()
        self._lost: str | None = None
        when_closed(channel, self._lose)

    async def listen(self, queue: str) -> None:
        """Open the queue that the other end sends to; the server names it if there is no name."""
        async with self._server.answering():
            declared = await self._channel.queue_declare(
                queue,
                exclusive=True,
                auto_delete=True,
                arguments={"x-max-length": LONGEST_QUEUE},
            )
            self._queue = declared.queue or queue
            await self._channel.basic_consume(self._queue, self._arrived, no_ack=True)

    async def _arrived(self, message: DeliveredMessage) -> None:
        properties = message.header.properties
        self.peer = properties.reply_to or self.peer
        if len(self._heard) >= LONGEST_QUEUE:
            self._lose("the other end does not keep to its credit")
            return
        self._heard.append((properties.message_type or "", message.body))
        self._something.set()

    def _lose(self, reason: str) -> None:
        self._lost = reason
        self._something.set()

    async def hear(self) -> tuple[str, bytes] | None:
        """The next message of the other end; ``None`` if there is none in time."""
        try:
            async with asyncio.timeout(self.timeout):
                while not self._heard:
                    if self._lost is not None:
                        raise cut(self.address, self._lost)
                    self._something.clear()
                    await self._something.wait()
        except TimeoutError:
            return None
        return self._heard.popleft()

    @property
    def heard_more(self) -> bool:
        """Whether a message is here already."""
        return bool(self._heard)

    async def say(self, kind: str, body: bytes = b"") -> None:
        """Send to the other end. Raises `BrokerUnavailableError` if it has gone."""
        if not await self.told(kind, body):
            raise cut(self.address, "the other end has gone")

    async def told(self, kind: str, body: bytes = b"") -> bool:
        """Send to the other end; whether it is there. Raises `BrokerUnavailableError`."""
        properties = Basic.Properties(delivery_mode=1, message_type=kind, reply_to=self._queue)
        async with self._server.answering(min(self.timeout, self._server.timeout)):
            outcome = await self._channel.basic_publish(
                body, routing_key=self.peer or "", properties=properties, mandatory=True
            )
        return isinstance(outcome, Basic.Ack)

    async def say_goodbye(self) -> None:
        """Tell the other end, if it is known, that nothing more comes; where that fails, it has its time-out."""
        if self.peer is None or self._lost is not None:
            return
        with anyio.move_on_after(GOODBYE_SECONDS, shield=True):
            try:
                await self.say(CUT)
            except BrokerUnavailableError:
                return

    # -- the two ends ----------------------------------------------------------------------------

    @asynccontextmanager
    async def receiving(self, queue: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `imperfect_dollop.broker.Link.receive_transfer`."""
        await self.listen(queue)
        try:
            yield chunks(self)
        finally:
            await self.say_goodbye()

    @asynccontextmanager
    async def sending(self, queue: str) -> AsyncIterator[Sender]:
        """See `imperfect_dollop.broker.Link.send_transfer`."""
        await self.listen("")
        self.peer = queue
        if not await self.told(BEGIN):
            raise nobody(self.address)
        try:
            yield Sender(self)
            await self.say(END)
        except BaseException:
            await self.say_goodbye()
            raise


async def chunks(end: End) -> AsyncIterator[bytes]:
    """What has arrived at the receiver's end; its sender is told how much was read."""
    read = told = 0
    while True:
        if read > told and (not end.heard_more or read - told >= TRANSFER_WINDOW // 2):
            try:
                await end.say(CREDIT, b"%d" % read)
            except BrokerUnavailableError:
                if not end.heard_more:  # it may have said all there was and left
                    raise
            told = read
        message = await end.hear()
        if message is None:
            raise silent_sender(end.address, end.timeout)
        kind, body = message
        if kind == END:
            return
        if kind == CHUNK:
            yield body
            read += 1
        elif kind != BEGIN:
            raise cut(end.address, f"the sender says {kind!r}")


class Sender:
    """See `imperfect_dollop.broker.TransferSender`."""

    def __init__(self, end: End) -> None:
        self._end = end
        self._credit = Credit()

    async def send(self, chunk: bytes) -> None:
        """See `imperfect_dollop.broker.TransferSender.send`."""
        payload, end = checked(chunk), self._end
        while end.heard_more or self._credit.spent:
            message = await end.hear()
            if message is None:
                raise silent_receiver(end.address, end.timeout)
            kind, told = message
            if kind != CREDIT:
                raise cut(end.address, f"the receiver says {kind!r}")
            try:
                self._credit.note(told)
            except ValueError as error:
                raise cut(end.address, f"impossible credit: {error}") from error
        self._credit.sent += 1
        await end.say(CHUNK, payload)
