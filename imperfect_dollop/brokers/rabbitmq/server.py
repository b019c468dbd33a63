"""A RabbitMQ server as the rest sees it: names, connections and channels, and errors that are ours."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import ssl
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from typing import Any, Final
from urllib.parse import quote

import aio_pika
import aiormq
import anyio
from aio_pika.abc import AbstractConnection
from aiormq.abc import AbstractChannel
from aiormq.exceptions import InvalidFrameError
from yarl import URL

from ...errors import BrokerUnavailableError, ConfigurationError
from ...url import split

__all__ = ["Server", "when_closed"]

HEARTBEAT: Final = 10
"""Seconds, of AMQP; a URL may ask for others. The node's own heartbeats notice a dead link earlier."""

CLOSE_SECONDS: Final = 3.0
"""For closing a connection in order, which is cut then, or a channel."""

LONGEST_NAME: Final = 255
"""Bytes of a name in AMQP 0-9-1."""


class Server:
    """Where the exchanges and queues of a prefix are, by URL or over a connection that was handed in.

    `timeout` is seconds for an answer, and for a connection. Raises `ConfigurationError`.
    """

    def __init__(
        self,
        server: str | AbstractConnection,
        *,
        prefix: str,
        timeout: float,
        ssl_context: ssl.SSLContext | None,
    ) -> None:
        self.prefix = prefix
        self.timeout = timeout
        self._ssl_context = ssl_context
        self._closing: set[asyncio.Future[None]] = set()
        self._server: URL | AbstractConnection
        if isinstance(server, str):
            self._server = _url(server)
            if self._server.scheme == "amqps" and ssl_context is None:
                self._ssl_context = _context(self._server)
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

    @property
    def shared(self) -> bool:
        """Whether the connection is somebody else's, who may use it for other things."""
        return isinstance(self._server, AbstractConnection)

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
        except InvalidFrameError as error:
            if "Connection.Close" not in str(error):
                raise BrokerUnavailableError(f"{self.where}: {error}") from error
            # What the server says of it does not come through.
            raise BrokerUnavailableError(
                f"{self.where}: the server closes the connection; perhaps the virtual host does not exist,"
                " or is not open to this user"
            ) from error
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
    async def answering(self, timeout: float | None = None) -> AsyncIterator[None]:
        """For calls that the server has to answer, within its own time-out unless another is given."""
        with self.mapped():
            async with asyncio.timeout(self.timeout if timeout is None else timeout):
                yield

    @asynccontextmanager
    async def connection(self, node: str) -> AsyncIterator[AbstractConnection]:
        """A connection for one link. Raises `BrokerUnavailableError`."""
        if isinstance(self._server, AbstractConnection):
            if self._server.is_closed or self._server.transport is None:
                raise BrokerUnavailableError(f"{self.where} is closed")
            yield self._server
            return
        transport = _Transport()
        connection = aio_pika.Connection(
            self._server, client_properties={"connection_name": f"{self.prefix} {node}"}
        )
        # aio-pika hands these on to aiormq, and has no argument for it.
        connection.kwargs["transport_factory"] = transport
        try:
            async with self.answering():
                await transport.open(self._server, self._ssl_context)
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
            async with self.answering():
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


def _context(url: URL) -> ssl.SSLContext:
    """Of the files that the URL names, by the driver's names for them."""
    query = url.query
    try:
        cadata = base64.b64decode(query["cadata"]) if "cadata" in query else None
        context = ssl.create_default_context(
            cafile=query.get("cafile"), capath=query.get("capath"), cadata=cadata
        )
        if "certfile" in query:
            context.load_cert_chain(query["certfile"], query.get("keyfile"))
    except (OSError, ValueError) as error:  # ssl's own are of the former kind
        raise ConfigurationError(
            f"the certificates that the amqps:// URL names cannot be read: {error}"
        ) from error
    if query.get("no_verify_ssl", "0") != "0":
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    return context


class _Transport(aiormq.TransportFactory):
    """The stream of a connection, remembered to cut it where closing it in order does not come to an end.

    It is opened before the driver is asked, which would log each attempt that fails as an error.
    """

    def __init__(self) -> None:
        self._stream: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def open(self, url: URL, context: ssl.SSLContext | None) -> None:
        """Raises `OSError`."""
        self._stream = await asyncio.open_connection(url.host, url.port, ssl=context)

    async def create(
        self, url: URL, **options: Any
    ) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        """See `aiormq.TransportFactory`."""
        assert self._stream is not None
        return self._stream

    def abort(self) -> None:
        """Close it at once; nothing is sent any more."""
        if self._stream is not None:
            self._stream[1].transport.abort()


def when_closed(channel: AbstractChannel, lose: Callable[[str], object]) -> None:
    """Say why when the channel is closed, or the server no longer sends to it."""

    def closed(closing: asyncio.Future[Any]) -> None:
        error = None if closing.cancelled() else closing.exception()
        lose(str(error) or "the connection was closed")

    def cancelled(frame: object) -> None:
        lose("the server has deleted the queue")

    channel.closing.add_done_callback(closed)
    channel.on_consumer_cancel_callbacks.add(cancelled)
