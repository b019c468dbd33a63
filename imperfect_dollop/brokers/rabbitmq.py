"""``amqp://``: events over a fanout exchange into one queue per link, transfers over two queues each.

A queue lives as long as its link: it is exclusive, and its name is never used again, so a link that was lost leaves
nothing behind that a new one could be refused for. What is sent while a node has no link is not kept for it, so
a new link after a lost one always means a gap. Messages are taken from the queue as they arrive and wait in the
process; a reader that is too slow for them loses them and is told. If the whole process does not take them, the queue
is bounded too, and drops the oldest: siblings notice that by the numbers of the events.

==========================  ====================================================================================
name                        what it is
==========================  ====================================================================================
exchange PREFIX.NS          where the messages of a namespace are published; goes with its last queue
queue PREFIX.NS.events.ID   a link's own: exclusive, bounded
queue PREFIX.NS.chunks.ADR  a transfer's chunks that were not read yet; exclusive to the one who receives
a queue named by the server a sender's own, where it is told how many were read
==========================  ====================================================================================

Chunks are published as mandatory: one that comes back says that the receiver has gone.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import secrets
import ssl
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from typing import Any, Final
from urllib.parse import quote

import aio_pika
import aiormq
import anyio
from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel, DeliveredMessage
from aiormq.exceptions import ChannelNotFoundEntity
from pamqp.commands import Basic
from pamqp.common import Arguments
from yarl import URL

from ..broker import TRANSFER_WINDOW, Delivery, Gap, Message
from ..errors import BrokerUnavailableError, ConfigurationError
from ..inbox import INBOX, Inbox
from ..url import split

__all__ = ["RabbitMQBroker"]

BACKLOG: Final = 100_000
BACKLOG_BYTES: Final = 64 << 20
"""Messages, and their bytes, that wait at the server for a process that does not take them."""

PREFETCH: Final = 500
"""Messages on their way from the server into the process."""

TIMEOUT: Final = 5.0
"""Seconds that the server has for an answer."""

HEARTBEAT: Final = 10
"""Seconds, of AMQP; a URL may ask for others. The node's own heartbeats notice a dead link earlier."""

CLOSE_SECONDS: Final = 3.0
"""For closing a connection in order, which is cut then, or a channel."""

GOODBYE_SECONDS: Final = 1.0
"""For telling the other end that a transfer is cut."""

ATTEMPTS: Final = 5
"""To listen: the exchange goes with its last queue, which may be just after we have declared it."""

LONGEST_NAME: Final = 255
"""Bytes of a name in AMQP 0-9-1."""

_PREFIX: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")

BEGIN: Final = "begin"
CHUNK: Final = "chunk"
END: Final = "end"
CUT: Final = "cut"
CREDIT: Final = "credit"
"""Types of the messages of a transfer."""


class RabbitMQBroker:
    """Joins nodes over a RabbitMQ server.

    Parameters
    ----------
    server:
        ``amqp://[user:password@]host[:port][/vhost]``, ``amqps://`` for TLS (``?cafile=...&certfile=...&keyfile=...``),
        or a connection of aio-pika, plain or robust, which is left open.
    prefix:
        begins the name of every exchange and queue.
    inbox:
        messages that wait in the process for a slow reader; with more they are dropped, and the reader is told.
    backlog:
        messages that wait at the server for a process that does not take them (``x-max-length``).
    timeout:
        seconds that the server has for an answer, and for a connection.
    ssl_context:
        for ``amqps://``, instead of files in the URL.

    Raises `ConfigurationError` for a server or an option that cannot be used.
    """

    def __init__(
        self,
        server: str | AbstractConnection,
        *,
        prefix: str = "dollop",
        inbox: int = INBOX,
        backlog: int = BACKLOG,
        timeout: float = TIMEOUT,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if not all(isinstance(number, int) for number in (inbox, backlog)) or not isinstance(
            timeout, (int, float)
        ):
            raise ConfigurationError(
                f"inbox={inbox!r}, backlog={backlog!r} and timeout={timeout!r} must be whole numbers and seconds"
            )
        if inbox < 1 or backlog < 1 or not timeout > 0:
            raise ConfigurationError(
                f"inbox={inbox!r}, backlog={backlog!r} and timeout={timeout!r} must be above 0"
            )
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            raise ConfigurationError(
                f"prefix={prefix!r} must be up to 100 letters, digits, -, _ and ."
            )
        self.prefix: str = prefix
        self.inbox: int = inbox
        self.backlog: int = backlog
        self.timeout: float = timeout
        self._ssl_context = ssl_context
        self._closing: set[asyncio.Future[None]] = set()
        self._server: URL | AbstractConnection
        if isinstance(server, str):
            self._server = _url(server)
            self.where: str = f"{self._server.scheme}://{self._server.host}:{self._server.port}"
        elif isinstance(server, AbstractConnection):
            if ssl_context is not None:
                raise ConfigurationError("ssl_context is for a URL; a connection has its own")
            self._server = server
            self.where = "the RabbitMQ connection that was handed in"
        else:
            raise ConfigurationError(
                f"a server is a URL or a connection of aio-pika, not a {type(server).__qualname__}"
            )

    @asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[_RabbitMQLink]:
        """See `imperfect_dollop.broker.Broker.connect`."""
        async with AsyncExitStack() as channels, self._connection(node) as connection:
            link = _RabbitMQLink(self, connection, namespace)
            if after is not None:
                link.inbox.put(Gap("nothing was kept for a link that was lost"))
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    await link.begin(
                        await channels.enter_async_context(self.channel(connection)), node
                    )
                    break
                except BrokerUnavailableError as error:
                    if attempt == ATTEMPTS or not isinstance(
                        error.__cause__, ChannelNotFoundEntity
                    ):
                        raise
            try:
                yield link
            finally:
                link.inbox.end()

    async def aclose(self) -> None:
        """See `imperfect_dollop.broker.Broker.aclose`. Nothing is open but with a link."""

    def name(self, *parts: str) -> str:
        """The name of an exchange or queue; its parts cannot run into each other."""
        name = ".".join((self.prefix, *map(_quoted, parts)))
        if len(name) <= LONGEST_NAME:
            return name
        return f"{self.prefix}.{hashlib.sha256(name.encode()).hexdigest()}"

    @contextmanager
    def mapped(self) -> Iterator[None]:
        """A driver's error is a `BrokerUnavailableError`; only calls of the driver belong in here."""
        try:
            yield
        except Exception as error:
            # It knows many kinds, a bare Exception for a closed connection among them.
            silent = isinstance(error, TimeoutError)
            what = f"no answer in {self.timeout:g} s" if silent else "the connection was closed"
            raise BrokerUnavailableError(f"{self.where}: {str(error) or what}") from error
        except asyncio.CancelledError as error:
            # The driver hands this out, too, to whoever waits on a connection that is closed.
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise
            raise BrokerUnavailableError(f"{self.where}: the connection was closed") from error

    @asynccontextmanager
    async def _connection(self, node: str) -> AsyncIterator[AbstractConnection]:
        if isinstance(self._server, AbstractConnection):
            if self._server.is_closed or self._server.transport is None:
                raise BrokerUnavailableError(f"{self.where} is closed")
            yield self._server
            return
        transport = _Transport(self._server.scheme == "amqps")
        connection = aio_pika.Connection(
            self._server,
            ssl_context=self._ssl_context,
            client_properties={"connection_name": f"{self.prefix} {node}"},
        )
        connection.kwargs["transport_factory"] = transport
        try:
            with self.mapped():
                async with asyncio.timeout(self.timeout):
                    await connection.connect()
            yield connection
        finally:
            with anyio.move_on_after(CLOSE_SECONDS, shield=True), self.suppressed():
                await connection.close()
            transport.abort()

    @asynccontextmanager
    async def channel(self, connection: AbstractConnection) -> AsyncIterator[AbstractChannel]:
        """A channel with publisher confirms; raises `BrokerUnavailableError`."""
        channel = aio_pika.Channel(connection)  # also of a robust connection: we see to our own
        try:
            with self.mapped():
                async with asyncio.timeout(self.timeout):
                    await channel.initialize()
                    underlay = await channel.get_underlay_channel()
            yield underlay
        finally:
            if channel.is_initialized:
                await self._close(channel)

    async def _close(self, channel: aio_pika.Channel) -> None:
        """Close a channel, and wait for that a little.

        A close must not be cancelled: the driver would send another one, for which the server closes the connection.
        So it has a task of its own, which ends with the driver's time-out, or the connection, at the latest.
        """
        closing = asyncio.ensure_future(channel.close())
        self._closing.add(closing)
        closing.add_done_callback(self._closed)
        with anyio.CancelScope(shield=True):
            await asyncio.wait([closing], timeout=CLOSE_SECONDS)

    def _closed(self, closing: asyncio.Future[None]) -> None:
        self._closing.discard(closing)
        if not closing.cancelled():
            closing.exception()  # of a channel that was broken: it is closed all the same

    @contextmanager
    def suppressed(self) -> Iterator[None]:
        """Closing what is broken raises, and is done all the same."""
        try:
            with self.mapped():
                yield
        except BrokerUnavailableError:
            return


def _quoted(part: str) -> str:
    """As in a URL, in the characters that the driver lets into a name, and without a dot."""
    return quote(part, safe="").replace(".", "%2E").replace("~", "%7E").replace("%", "+")


def _url(server: str) -> URL:
    parts = split(server)
    if parts.scheme not in ("amqp", "amqps"):
        raise ConfigurationError("the URL of a RabbitMQ server begins with amqp:// or amqps://")
    if not parts.hostname:
        raise ConfigurationError(f"a {parts.scheme}:// URL that names no host")
    try:
        url = URL(server)
    except ValueError:  # it may quote the password
        raise ConfigurationError(f"no {parts.scheme}:// URL can be made of this") from None
    if url.port is None:
        url = url.with_port(5671 if url.scheme == "amqps" else 5672)
    return url if "heartbeat" in url.query else url.update_query(heartbeat=HEARTBEAT)


class _Transport(aiormq.TransportFactory):
    """Remembers the stream of a connection, to cut it where closing it in order does not come to an end."""

    def __init__(self, tls: bool) -> None:
        self._tls = tls
        self._writer: asyncio.StreamWriter | None = None

    async def create(
        self, url: URL, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        provider = options.pop("ssl_context_provider")
        context = await provider.get_context() if self._tls else None
        reader, self._writer = await asyncio.open_connection(
            url.host, url.port, ssl=context, **options
        )
        return reader, self._writer

    def abort(self) -> None:
        if self._writer is not None:
            self._writer.transport.abort()


class _RabbitMQLink:
    """See `imperfect_dollop.broker.Link`."""

    position: str | None = None

    def __init__(
        self,
        broker: RabbitMQBroker,
        connection: AbstractConnection,
        namespace: str,
    ) -> None:
        self._broker = broker
        self._connection = connection
        self._channel: AbstractChannel
        self._namespace = namespace
        self._exchange = broker.name(namespace)
        self._unacknowledged = 0
        self.inbox = Inbox(broker.inbox)

    async def begin(self, channel: AbstractChannel, node: str) -> None:
        """Listen."""
        queue = self._broker.name(self._namespace, "events", f"{node}-{secrets.token_hex(4)}")
        limits: Arguments = {
            "x-max-length": self._broker.backlog,
            "x-max-length-bytes": BACKLOG_BYTES,
        }
        with self._broker.mapped():
            async with asyncio.timeout(self._broker.timeout):
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
        _when_closed(channel, self.inbox.lose)

    async def _arrived(self, message: DeliveredMessage) -> None:
        self.inbox.put(Message(message.body))
        self._unacknowledged += 1
        if self._unacknowledged >= PREFETCH // 4 and message.delivery_tag is not None:
            self._unacknowledged = 0
            with self._broker.suppressed():  # of a link that is lost, nobody waits for it
                await message.channel.basic_ack(message.delivery_tag, multiple=True, wait=False)

    async def publish(self, payload: bytes) -> None:
        self.inbox.check(f"this link to {self._broker.where}")
        with self._broker.mapped():
            async with asyncio.timeout(self._broker.timeout):
                await self._channel.basic_publish(bytes(payload), exchange=self._exchange)

    def deliveries(self) -> AsyncIterator[Delivery]:
        return self.inbox.deliveries()

    # -- transfers -------------------------------------------------------------------------------

    @asynccontextmanager
    async def receive_transfer(
        self, address: str, *, timeout: float
    ) -> AsyncIterator[AsyncIterator[bytes]]:
        self.inbox.check(f"this link to {self._broker.where}")
        async with self._broker.channel(self._connection) as channel:
            end = _End(self._broker, channel, address, timeout)
            await end.listen(self._broker.name(self._namespace, "chunks", address))
            try:
                yield _chunks(end)
            finally:
                await end.say_goodbye()

    @asynccontextmanager
    async def send_transfer(self, address: str, *, timeout: float) -> AsyncIterator[_Sender]:
        self.inbox.check(f"this link to {self._broker.where}")
        async with self._broker.channel(self._connection) as channel:
            end = _End(self._broker, channel, address, timeout)
            await end.listen("")
            end.peer = self._broker.name(self._namespace, "chunks", address)
            sender = _Sender(end)
            await sender.begin()
            try:
                yield sender
                await end.say(END)
            except BaseException:
                await end.say_goodbye()
                raise


class _End:
    """One end of a transfer: a queue of its own, and the name of the other end's."""

    def __init__(
        self, broker: RabbitMQBroker, channel: AbstractChannel, address: str, timeout: float
    ) -> None:
        self.address = address
        self.timeout = timeout
        self.peer: str | None = None
        self._broker = broker
        self._channel = channel
        self._queue = ""
        self._heard: deque[tuple[str, bytes]] = deque()
        self._something = asyncio.Event()
        self._lost: str | None = None
        _when_closed(channel, self._lose)

    async def listen(self, queue: str) -> None:
        """Open the queue that the other end sends to; the server names it if there is no name."""
        with self._broker.mapped():
            async with asyncio.timeout(self._broker.timeout):
                declared = await self._channel.queue_declare(
                    queue,
                    exclusive=True,
                    auto_delete=True,
                    arguments={"x-max-length": 4 * TRANSFER_WINDOW},
                )
                self._queue = declared.queue or queue
                await self._channel.basic_consume(self._queue, self._arrived, no_ack=True)

    async def _arrived(self, message: DeliveredMessage) -> None:
        properties = message.header.properties
        self.peer = properties.reply_to or self.peer
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
                        raise self.cut(self._lost)
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
        with self._broker.mapped():
            async with asyncio.timeout(min(self.timeout, self._broker.timeout)):
                properties = Basic.Properties(
                    delivery_mode=1, message_type=kind, reply_to=self._queue
                )
                outcome = await self._channel.basic_publish(
                    body,
                    routing_key=self.peer or "",
                    properties=properties,
                    mandatory=True,
                )
        if not isinstance(outcome, Basic.Ack):
            raise self.cut("nobody is there")

    async def say_goodbye(self) -> None:
        """Tell the other end, if it is known, that nothing more comes; where that fails, it has its time-out."""
        if self.peer is None or self._lost is not None:
            return
        with anyio.move_on_after(GOODBYE_SECONDS, shield=True):
            try:
                await self.say(CUT)
            except BrokerUnavailableError:
                return

    def cut(self, reason: str) -> BrokerUnavailableError:
        """The other end has gone, or the link has."""
        return BrokerUnavailableError(f"the transfer {self.address!r} was cut: {reason}")


async def _chunks(end: _End) -> AsyncIterator[bytes]:
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
            raise BrokerUnavailableError(
                f"the sender of {end.address!r} sent nothing for {end.timeout:g} s"
            )
        kind, body = message
        if kind == END:
            return
        if kind == CHUNK:
            yield body
            read += 1
        elif kind != BEGIN:
            raise end.cut(f"the sender says {kind!r}")


class _Sender:
    """See `imperfect_dollop.broker.TransferSender`."""

    def __init__(self, end: _End) -> None:
        self._end = end
        self._sent = 0
        self._read = 0  # by the other end

    async def begin(self) -> None:
        """Raises `BrokerUnavailableError` if nobody has opened the address."""
        await self._end.say(BEGIN)

    async def send(self, chunk: bytes) -> None:
        if not chunk:
            raise ValueError("a chunk must not be empty")
        while self._end.heard_more or self._sent - self._read >= TRANSFER_WINDOW:
            message = await self._end.hear()
            if message is None:
                raise BrokerUnavailableError(
                    f"the receiver of {self._end.address!r} read nothing for {self._end.timeout:g} s"
                )
            kind, body = message
            if kind != CREDIT:
                raise self._end.cut(f"the receiver says {kind!r}")
            try:
                read = int(body)
            except ValueError:
                raise self._end.cut("the receiver's credit is no number") from None
            if not self._read <= read <= self._sent:  # a stranger's
                raise self._end.cut("the receiver's credit cannot be")
            self._read = read
        await self._end.say(CHUNK, bytes(chunk))
        self._sent += 1


def _when_closed(channel: AbstractChannel, lose: Callable[[str], object]) -> None:
    """Say why when the channel is closed, or the server no longer sends to it."""

    def closed(closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        lose(str(error) or "the connection was closed")

    def cancelled(frame: object) -> None:
        lose("the server has deleted the queue")

    channel.closing.add_done_callback(closed)
    channel.on_consumer_cancel_callbacks.add(cancelled)
