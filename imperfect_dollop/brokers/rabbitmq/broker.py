"""`RabbitMQBroker`: what an application says about its RabbitMQ."""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Final

from aio_pika.abc import AbstractConnection
from aiormq.exceptions import ChannelNotFoundEntity

from ...broker import Gap
from ...config import fault_in_count, fault_in_seconds
from ...errors import BrokerUnavailableError, ConfigurationError
from ...inbox import INBOX
from .link import RabbitMQLink
from .server import Server

__all__ = ["RabbitMQBroker"]

BACKLOG: Final = 100_000
"""Messages that wait at the server for a process that does not take them: half a minute of a very busy namespace."""

TIMEOUT: Final = 5.0
"""Seconds that the server has for an answer."""

ATTEMPTS: Final = 5
"""To listen: the exchange goes with its last queue, which may be just after we have declared it."""

_PREFIX: Final = re.compile(r"[A-Za-z0-9_.-]{1,100}")


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
        for fault in (
            fault_in_count("inbox", inbox),
            fault_in_count("backlog", backlog),
            fault_in_seconds("timeout", timeout),
        ):
            if fault is not None:
                raise ConfigurationError(fault)
        if not isinstance(prefix, str) or not _PREFIX.fullmatch(prefix):
            raise ConfigurationError(
                f"prefix={prefix!r} must be up to 100 letters, digits, -, _ and ."
            )
        self._inbox = inbox
        self._backlog = backlog
        self._server = Server(server, prefix=prefix, timeout=timeout, ssl_context=ssl_context)

    def __repr__(self) -> str:
        return f"<RabbitMQBroker at {self.where}>"

    @property
    def where(self) -> str:
        """The server, for people: scheme, host and port, never a password."""
        return self._server.where

    @asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[RabbitMQLink]:
        """See `imperfect_dollop.broker.Broker.connect`."""
        async with AsyncExitStack() as channels, self._server.connection(node) as connection:
            link = RabbitMQLink(
                self._server, connection, namespace, inbox=self._inbox, backlog=self._backlog
            )
            if after is not None:
                link.inbox.put(Gap("nothing was kept for a link that was lost"))
            for attempt in range(1, ATTEMPTS + 1):
                try:
                    await link.begin(
                        await channels.enter_async_context(self._server.channel(connection)), node
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
