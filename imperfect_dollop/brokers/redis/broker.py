"""`RedisBroker`: what an application says about its Redis."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final

import redis.asyncio

from ...config import fault_in_count, fault_in_seconds
from ...errors import ConfigurationError
from ...hosted import hosted
from .link import RedisLink
from .server import Server

__all__ = ["RedisBroker"]

BACKLOG: Final = 10_000
"""Messages that a stream keeps for links that were lost: some ten seconds of a busy namespace."""

TIMEOUT: Final = 5.0
"""Seconds that the server has for an answer."""


class RedisBroker:
    """Joins nodes over a Redis server, 6.2 or newer.

    Parameters
    ----------
    server:
        ``redis://[[user]:password@]host[:port][/database]``, ``rediss://`` for TLS, ``unix://path``, or a
        `redis.asyncio.Redis`, which is left open. Its pool should have room for two connections a node, and one for
        each snapshot under way.
    prefix:
        begins the name of every key, for an access control list or a server that others use too.
    backlog:
        messages that the server keeps for links that were lost for a moment.
    timeout:
        seconds that the server has for an answer, and for a connection.
    options:
        of `redis.asyncio.ConnectionPool.from_url`: ``ssl_ca_certs``, ``credential_provider`` and the like.

    Raises `ConfigurationError` for a server or an option that cannot be used.
    """

    def __init__(
        self,
        server: str | redis.asyncio.Redis,
        *,
        prefix: str = "dollop",
        backlog: int = BACKLOG,
        timeout: float = TIMEOUT,
        **options: Any,
    ) -> None:
        for fault in (fault_in_count("backlog", backlog), fault_in_seconds("timeout", timeout)):
            if fault is not None:
                raise ConfigurationError(fault)
        if not isinstance(prefix, str) or not prefix:
            raise ConfigurationError(f"prefix={prefix!r} must be a text, and not an empty one")
        self._backlog = backlog
        self._server = Server(server, prefix=prefix, timeout=timeout, options=options)

    def __repr__(self) -> str:
        return f"<RedisBroker at {self.where}>"

    @property
    def where(self) -> str:
        """The server, for people: scheme, host and port, never a password."""
        return self._server.where

    @asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[RedisLink]:
        """See `imperfect_dollop.broker.Broker.connect`."""
        async with self._server.wire() as reading, self._server.wire() as writing:
            await self._server.refuse_cluster(reading)
            link = RedisLink(self._server, reading, writing, namespace, node, backlog=self._backlog)
            await link.begin(after)
            async with hosted(link.run_publishing):
                try:
                    yield link
                finally:
                    link.end()

    async def aclose(self) -> None:
        """See `imperfect_dollop.broker.Broker.aclose`."""
        await self._server.aclose()
