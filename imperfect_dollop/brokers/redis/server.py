"""A Redis server as the rest sees it: named keys, and connections that do as they are told and no more."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import anyio
import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from ...errors import BrokerUnavailableError, ConfigurationError
from ...url import split

__all__ = ["BLOCK", "Command", "Entry", "Server", "Wire", "entries"]

MAX_CONNECTIONS: Final = 10_000
"""Of a broker: two a node, one for each snapshot that it gives or takes; the driver's 100 are soon used up."""

BLOCK: Final = 1.0
"""Seconds that a read waits at the server before it is repeated, so that a dead connection shows."""

CLUSTER: Final = (
    "Redis Cluster, which is not supported: use one Redis server (cluster-enabled no), or the primary that a Sentinel"
    " names"
)

Command: TypeAlias = "list[str | bytes | int]"

Entry: TypeAlias = tuple[str, bytes, bytes]
"""Of a stream: its id, its first field and that field's value."""


class Server:
    """Where the keys of a prefix are, by URL or as a client that was handed in.

    `timeout` is seconds for an answer, and for a connection. Raises `ConfigurationError`.
    """

    def __init__(
        self,
        server: str | redis.asyncio.Redis,
        *,
        prefix: str,
        timeout: float,
        options: dict[str, Any],
    ) -> None:
        self.prefix = prefix
        self.timeout = timeout
        self._own = isinstance(server, str)
        if isinstance(server, str):
            parts = split(server)
            if parts.scheme != "unix" and not re.fullmatch(r"/?\d*", parts.path):
                raise ConfigurationError(
                    f"a {parts.scheme}:// URL ends with the number of a database, as in /0, or with nothing"
                )
            host, port = parts.hostname or "localhost", parts.port or 6379
            place = parts.path if parts.scheme == "unix" else f"{host}:{port}"
            self.where: str = f"{parts.scheme}://{place}"
            self._pool = _pool(server, timeout, options)
        elif isinstance(server, redis.asyncio.RedisCluster):
            raise ConfigurationError(f"the client that was handed in is of a {CLUSTER}")
        elif isinstance(server, redis.asyncio.Redis):
            if options:
                raise ConfigurationError(
                    f"{', '.join(options)}: options are for a URL; a client that is handed in has its own"
                )
            self._pool = server.connection_pool
            self.where = "the Redis client that was handed in"
        else:
            raise ConfigurationError(
                f"a server is a URL or a redis.asyncio.Redis, not a"
                f" {type(server).__module__}.{type(server).__qualname__}"
            )
        settings: dict[str, Any] = self._pool.connection_kwargs
        if settings.get("decode_responses"):
            raise ConfigurationError(
                "messages are bytes: use a Redis client without decode_responses=True"
            )

    async def aclose(self) -> None:
        """Close what was opened for a URL."""
        if self._own:
            await self._pool.disconnect()

    def key(self, kind: str, *parts: str) -> str:
        """The name of a key; its parts cannot run into each other."""
        return ":".join((self.prefix, kind, *(quote(part, safe="") for part in parts)))

    @asynccontextmanager
    async def wire(self) -> AsyncIterator[Wire]:
        """A connection for one task at a time. Raises `BrokerUnavailableError`."""
        try:
            async with asyncio.timeout(self.timeout):
                connection = await self._pool.get_connection()
        except (RedisError, OSError, TimeoutError) as error:
            raise self.unavailable(error) from error
        # A client's own limit would end a read that waits at the server; and in Python 3.11 the driver's way
        # of keeping to it (asyncio.wait_for) can swallow a cancellation. Ours is in `Wire.call`.
        limit, connection.socket_timeout = connection.socket_timeout, None
        try:
            yield Wire(self, connection)
        finally:
            connection.socket_timeout = limit
            with anyio.CancelScope(shield=True):
                await connection.disconnect(nowait=True)  # an answer may be on its way still
                await self._pool.release(connection)

    async def refuse_cluster(self, wire: Wire) -> None:
        """Raises `BrokerUnavailableError` if the server is a node of a Redis Cluster.

        A cluster of one node, or keys that happen to be on this node, would work until the cluster grows. HELLO is the
        one command that tells and that every user may call.
        """
        (answer,) = await wire.call(["HELLO"])
        if not isinstance(answer, dict):  # in version 2 of the protocol names and values alternate
            answer = dict(zip(answer[::2], answer[1::2], strict=True))
        if answer.get(b"mode") == b"cluster":
            raise BrokerUnavailableError(f"{self.where} is a node of a {CLUSTER}")

    def unavailable(self, error: BaseException) -> BrokerUnavailableError:
        """What a driver's error is to the outside."""
        if isinstance(error, ResponseError) and "syntax error" in str(error):
            return BrokerUnavailableError(f"{self.where}: Redis 6.2 or newer is needed ({error})")
        what = str(error) or f"no answer within {self.timeout:g} s"
        return BrokerUnavailableError(f"{self.where}: {what}")


def _pool(url: str, timeout: float, options: dict[str, Any]) -> Any:
    """Of connections that never wait or try again by themselves: that would be twice, and unnoticed."""
    try:
        pool: Any = redis.asyncio.ConnectionPool.from_url(
            url,
            **{
                "socket_timeout": None,
                "socket_connect_timeout": timeout,
                "max_connections": MAX_CONNECTIONS,
                **options,
                "retry": None,
            },
        )
        pool.make_connection()  # it connects later, and finds out about a wrong option now
    except (ValueError, TypeError, RedisError) as error:
        raise ConfigurationError(f"no Redis connection can be made of this URL: {error}") from error
    return pool


class Wire:
    """One connection, used by one task at a time. After an error it is closed."""

    def __init__(self, server: Server, connection: Any) -> None:
        self._server = server
        self._connection = connection

    async def call(self, *commands: Command, wait: float = 0.0) -> list[Any]:
        """Send commands together and return their answers; one of them may `wait` seconds at the server.

        Raises `BrokerUnavailableError` for whatever goes wrong.
        """
        connection = self._connection
        try:
            if not connection.is_connected:  # never again by itself, which nobody would notice
                raise ConnectionError("the connection is closed")
            async with asyncio.timeout(self._server.timeout + wait):
                await connection.send_packed_command(
                    connection.pack_commands(commands), check_health=False
                )
                return [await connection.read_response() for _ in commands]
        except (RedisError, OSError, TimeoutError) as error:
            await connection.disconnect(nowait=True)
            raise self._server.unavailable(error) from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise


def entries(found: Any) -> list[Entry]:
    """The entries in an answer to XREAD of one stream, in either version of the protocol."""
    if not found:
        return []
    ((_, some),) = found.items() if isinstance(found, dict) else found
    return [(place.decode(), fields[0], fields[1]) for place, fields in some if fields]
