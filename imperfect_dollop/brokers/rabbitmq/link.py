"""One node's link over RabbitMQ: an exclusive queue bound to the exchange of its namespace."""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Final

import anyio
from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel, DeliveredMessage
from pamqp.common import Arguments

from ...broker import Delivery, Message
from ...clock import monotonic
from ...inbox import Inbox
from .server import Server, when_closed
from .transfer import End, Sender

__all__ = ["RabbitMQLink"]

BACKLOG_BYTES: Final = 64 << 20
"""Bytes of the messages that wait at the server."""

ACK_SECONDS: Final = 5.0
"""After which few messages are acknowledged as well: the server closes a channel that waits for half an hour."""

UNUSED_SECONDS: Final = 60
"""A queue without a consumer is deleted after this: one that a link was cut off from while it began to listen."""

PREFETCH: Final = 500
"""Messages on their way from the server into the process: a few milliseconds' work, acknowledged by quarters."""


class RabbitMQLink:
    """See `imperfect_dollop.broker.Link`."""

    position: str | None = None

    def __init__(
        self,
        server: Server,
        connection: AbstractConnection,
        namespace: str,
        *,
        inbox: int,
        backlog: int,
    ) -> None:
        self._server = server
        self._backlog = backlog
        self._connection = connection
        self._channel: AbstractChannel
        self._namespace = namespace
        self._exchange = server.name(namespace)
        self._unacknowledged = 0
        self._acknowledged = monotonic()
        # The server closes a channel when a publish fails. On what follows it on the way it closes the connection,
        # which may only be risked where the connection is ours.
        self._turn = asyncio.Lock() if server.shared else None
        self.inbox: Inbox = Inbox(server.where, inbox)

    async def begin(self, channel: AbstractChannel, node: str) -> None:
        """Listen."""
        queue = self._server.name(self._namespace, "events", f"{node}-{secrets.token_hex(4)}")
        limits: Arguments = {
            "x-max-length": self._backlog,
            "x-max-length-bytes": BACKLOG_BYTES,
            "x-expires": 1_000 * UNUSED_SECONDS,
        }
        # Shielded: an exchange that nothing was ever bound to stays for good.
        with anyio.CancelScope(shield=True):
            async with self._server.answering():
                await channel.queue_declare(
                    queue, exclusive=True, auto_delete=True, arguments=limits
                )
                await channel.exchange_declare(
                    self._exchange, exchange_type="fanout", auto_delete=True
                )
                await channel.queue_bind(queue, exchange=self._exchange)
                await channel.basic_qos(prefetch_count=PREFETCH)
                await channel.basic_consume(queue, self._arrived)
        self._channel = channel
        when_closed(channel, self.inbox.lose)

    async def _arrived(self, message: DeliveredMessage) -> None:
        self.inbox.put(Message(message.body))
        self._unacknowledged += 1
        now = monotonic()
        due = self._unacknowledged >= PREFETCH // 4 or now - self._acknowledged > ACK_SECONDS
        if due and message.delivery_tag is not None:
            self._unacknowledged, self._acknowledged = 0, now
            with self._server.suppressed():  # of a link that is lost, nobody waits for it
                await message.channel.basic_ack(message.delivery_tag, multiple=True, wait=False)

    @property
    def waiting(self) -> int:
        """See `imperfect_dollop.broker.Link.waiting`."""
        return self.inbox.waiting

    async def publish(self, payload: bytes) -> None:
        """See `imperfect_dollop.broker.Link.publish`."""
        async with self._turn or contextlib.nullcontext():
            self.inbox.check()
            async with self._server.answering():
                await self._channel.basic_publish(bytes(payload), exchange=self._exchange)

    def deliveries(self) -> AsyncGenerator[Delivery, None]:
        """See `imperfect_dollop.broker.Link.deliveries`."""
        return self.inbox.deliveries()

    # -- transfers -------------------------------------------------------------------------------

    @asynccontextmanager
    async def receive_transfer(
        self, address: str, *, timeout: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        """See `imperfect_dollop.broker.Link.receive_transfer`."""
        self.inbox.check()
        async with self._server.channel(self._connection) as channel:
            end = End(self._server, channel, address, timeout)
            async with end.receiving(
                self._server.name(self._namespace, "chunks", address)
            ) as chunks:
                yield chunks

    @asynccontextmanager
    async def send_transfer(self, address: str, *, timeout: float) -> AsyncIterator[Sender]:
        """See `imperfect_dollop.broker.Link.send_transfer`."""
        self.inbox.check()
        async with self._server.channel(self._connection) as channel:
            end = End(self._server, channel, address, timeout)
            async with end.sending(self._server.name(self._namespace, "chunks", address)) as sender:
                yield sender
