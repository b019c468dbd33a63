"""``redis://``: events over one stream of a namespace, transfers over two short-lived streams each.

A stream rather than pub/sub, because a stream can be read again: a link that was lost for a moment goes on at the id
where the last one was, and misses nothing. Whether that is so is never assumed. Every look at the stream asks for
what comes after the last entry that was read, *and* whether that entry is still there. While it is, nothing behind
it can have been trimmed, and the stream is the one that was read before. When it is not - trimmed past
our position, emptied, begun anew by a server that lost its data - that is a gap. No state is kept on the server but
the entries themselves, so it works with any server that has streams, and on a replica that was promoted.

======================  ========================================================================================
key                     what it is
======================  ========================================================================================
PREFIX:events:NS        the messages of a namespace, bounded by number and, roughly, by bytes; expires when unused
PREFIX:chunks:NS:ADDR   a transfer's chunks that were not read yet; made and deleted by the one who receives
PREFIX:credit:NS:ADDR   how many of them were read; the sender stays at most a window ahead of it
======================  ========================================================================================
"""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final, TypeAlias
from urllib.parse import quote

import anyio
import redis.asyncio
from redis.exceptions import RedisError, ResponseError

from ..broker import TRANSFER_WINDOW, Delivery, Gap, Message
from ..errors import BrokerUnavailableError, ConfigurationError
from ..hosted import hosted
from ..url import split

__all__ = ["RedisBroker"]

BACKLOG: Final = 10_000
"""Messages that a stream keeps for links that were lost: some ten seconds of a busy namespace."""

BACKLOG_BYTES: Final = 64 << 20
"""Bytes that a stream keeps, about: large messages leave room for fewer."""

SHORTEST_BACKLOG: Final = 32
"""Messages that are kept however large they are."""

TIMEOUT: Final = 5.0
"""Seconds that the server has for an answer."""

BLOCK: Final = 1.0
"""Seconds that a read waits at the server before it is repeated, so that a dead connection shows."""

READ: Final = 64
"""Messages taken from the stream in one go: at most about a megabyte each."""

KEEP_SECONDS: Final = 3_600
"""A namespace whose nodes are all away for that long is forgotten; a link that returns later finds a gap."""

RENEW_SECONDS: Final = 600
"""Between two renewals of that."""

TRANSFER_SECONDS: Final = 60
"""What is left of a transfer whose both ends have died is gone after this."""

GOODBYE_SECONDS: Final = 1.0
"""For telling the other end that a transfer is cut, and for cleaning up after it."""

PAYLOAD: Final = b"p"
MARK: Final = b"m"
"""Fields of an entry of events: a message; an entry of a link that needs a place to begin at."""

CHUNK: Final = b"c"
END: Final = b"e"
CUT: Final = b"x"
"""Fields of an entry of a transfer."""

Command: TypeAlias = "list[str | bytes | int]"


class RedisBroker:
    """Joins nodes over a Redis server, 6.2 or newer.

    Parameters
    ----------
    server:
        ``redis://[[user]:password@]host[:port][/database]``, ``rediss://`` for TLS, or a `redis.asyncio.Redis`, which
        is left open. Its pool should have room for two connections a node, and one for each snapshot under way.
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
        if not isinstance(backlog, int) or not isinstance(timeout, (int, float)):
            raise ConfigurationError(
                f"backlog={backlog!r} and timeout={timeout!r} must be a whole number and seconds"
            )
        if backlog < 1 or not timeout > 0:
            raise ConfigurationError(f"backlog={backlog!r} and timeout={timeout!r} must be above 0")
        if not isinstance(prefix, str) or not prefix:
            raise ConfigurationError(f"prefix={prefix!r} must be a text, and not an empty one")
        self.backlog: int = backlog
        self.timeout: float = timeout
        self.prefix: str = prefix
        self._own = isinstance(server, str)
        if isinstance(server, str):
            parts = split(server)
            self.where: str = (
                f"{parts.scheme}://{parts.hostname or 'localhost'}:{parts.port or 6379}"
            )
            self._pool = _pool(server, timeout, options)
        elif isinstance(server, redis.asyncio.Redis):
            if options:
                raise ConfigurationError(
                    f"{', '.join(options)}: options are for a URL; a client that is handed in has its own"
                )
            self._pool = server.connection_pool
            self.where = "the Redis client that was handed in"
        else:
            raise ConfigurationError(
                f"a server is a URL or a redis.asyncio.Redis, not a {type(server).__qualname__}"
            )
        settings: dict[str, Any] = self._pool.connection_kwargs
        if settings.get("decode_responses"):
            raise ConfigurationError(
                "messages are bytes: use a Redis client without decode_responses=True"
            )

    @asynccontextmanager
    async def connect(
        self, namespace: str, node: str, *, after: str | None = None
    ) -> AsyncIterator[_RedisLink]:
        """See `imperfect_dollop.broker.Broker.connect`."""
        async with self.wire() as reading, self.wire() as writing:
            link = _RedisLink(self, reading, writing, namespace, node)
            await link.begin(after)
            async with hosted(link.run_publishing):
                try:
                    yield link
                finally:
                    link.end()

    async def aclose(self) -> None:
        """See `imperfect_dollop.broker.Broker.aclose`."""
        if self._own:
            await self._pool.disconnect()

    def key(self, kind: str, *parts: str) -> str:
        """The name of a key; its parts cannot run into each other."""
        return ":".join((self.prefix, kind, *(quote(part, safe="") for part in parts)))

    @asynccontextmanager
    async def wire(self) -> AsyncIterator[_Wire]:
        """A connection for one task at a time. Raises `BrokerUnavailableError`."""
        try:
            async with asyncio.timeout(self.timeout):
                connection = await self._pool.get_connection()
        except (RedisError, OSError, TimeoutError) as error:
            raise self.unavailable(error) from error
        # A client's own limit would end a read that waits at the server; and in Python 3.11 the driver's way
        # of keeping to it (asyncio.wait_for) can swallow a cancellation. Ours is in `_Wire.call`.
        limit, connection.socket_timeout = connection.socket_timeout, None
        try:
            yield _Wire(self, connection)
        finally:
            connection.socket_timeout = limit
            with anyio.CancelScope(shield=True):
                await connection.disconnect(nowait=True)  # an answer may be on its way still
                await self._pool.release(connection)

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
            **{"socket_timeout": None, "socket_connect_timeout": timeout, **options, "retry": None},
        )
        pool.make_connection()  # it connects later, and finds out about a wrong option now
    except (ValueError, TypeError, RedisError) as error:
        raise ConfigurationError(f"no Redis connection can be made of this URL: {error}") from error
    return pool


class _Wire:
    """One connection, used by one task at a time. After an error it is closed."""

    def __init__(self, broker: RedisBroker, connection: Any) -> None:
        self._broker = broker
        self._connection = connection

    async def call(self, *commands: Command, wait: float = 0.0) -> list[Any]:
        """Send commands together and return their answers; one of them may `wait` seconds at the server.

        Raises `BrokerUnavailableError` for whatever goes wrong.
        """
        connection = self._connection
        try:
            if not connection.is_connected:  # never again by itself, which nobody would notice
                raise ConnectionError("the connection is closed")
            async with asyncio.timeout(self._broker.timeout + wait):
                await connection.send_packed_command(
                    connection.pack_commands(commands), check_health=False
                )
                return [await connection.read_response() for _ in commands]
        except (RedisError, OSError, TimeoutError) as error:
            await connection.disconnect(nowait=True)
            raise self._broker.unavailable(error) from error
        except BaseException:
            await connection.disconnect(nowait=True)
            raise


class _RedisLink:
    """See `imperfect_dollop.broker.Link`."""

    def __init__(
        self, broker: RedisBroker, reading: _Wire, writing: _Wire, namespace: str, node: str
    ) -> None:
        self._broker = broker
        self._reading = reading
        self._writing = writing
        self._namespace = namespace
        self._node = node
        self._key = broker.key("events", namespace)
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
            raise BrokerUnavailableError(f"this link to {self._broker.where} is lost: {self._lost}")

    # -- publishing ------------------------------------------------------------------------------

    async def publish(self, payload: bytes) -> None:
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
                BrokerUnavailableError(f"{self._broker.where}: not taken: {self._lost}")
            )
            taken.exception()  # its caller may have gone

    def _add(self, field: bytes, value: bytes, *, make: bool = True) -> Command:
        fitting = BACKLOG_BYTES // max(1, len(value))
        length = min(self._broker.backlog, max(SHORTEST_BACKLOG, fitting))
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

    async def deliveries(self) -> AsyncIterator[Delivery]:
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
                entries = _entries(found)
                if not still_there and not entries:
                    await self._mark()
            except BrokerUnavailableError as error:
                if self._ended:
                    return
                self.lose(str(error))
                raise
            if not still_there:
                yield Gap(f"{self._broker.where} no longer has what came after {place}")
            for place, field, value in entries:
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
        self._check()
        transfer = _Transfer(self._broker, self._namespace, address, timeout)
        async with self._broker.wire() as wire:
            try:
                # Inside: cancelled while it waits for the answer, it has made the streams all the same.
                yield transfer.chunks(wire, await transfer.open(wire))
            finally:
                await transfer.say_goodbye(*transfer.closing())

    @asynccontextmanager
    async def send_transfer(self, address: str, *, timeout: float) -> AsyncIterator[_Sender]:
        self._check()
        transfer = _Transfer(self._broker, self._namespace, address, timeout)
        async with self._broker.wire() as wire:
            sender = _Sender(transfer, wire)
            await sender.begin()
            try:
                yield sender
                await sender.add(END, b"-")
            except BaseException:
                await transfer.say_goodbye(transfer.add_chunk(CUT, b"-"))
                raise


class _Transfer:
    """What both ends of a transfer know."""

    def __init__(self, broker: RedisBroker, namespace: str, address: str, timeout: float) -> None:
        self.broker = broker
        self.address = address
        self.timeout = timeout
        self.chunk_key = broker.key("chunks", namespace, address)
        self.credit_key = broker.key("credit", namespace, address)
        self.keep = max(TRANSFER_SECONDS, math.ceil(2 * timeout))

    def add_chunk(self, field: bytes, value: bytes) -> Command:
        """Adds nothing, and says so, if the receiver has gone."""
        return ["XADD", self.chunk_key, "NOMKSTREAM", "*", field, value]

    def cut(self) -> BrokerUnavailableError:
        """The other end has gone."""
        return BrokerUnavailableError(f"the transfer {self.address!r} was cut")

    def expiry(self) -> list[Command]:
        """Both keys live on for a while."""
        return [["EXPIRE", key, self.keep] for key in (self.chunk_key, self.credit_key)]

    async def say_goodbye(self, *commands: Command) -> None:
        """Tell the other end, over a connection of its own; where that fails, the other end has its time-out."""
        with anyio.move_on_after(GOODBYE_SECONDS, shield=True):
            try:
                async with self.broker.wire() as wire:
                    await wire.call(*commands)
            except BrokerUnavailableError:
                return

    async def wait(self, wire: _Wire, *commands: Command, read: Command) -> list[Any]:
        """Send commands and wait for entries of a stream; an empty list if none come in time."""
        deadline = time.monotonic() + self.timeout
        while True:
            left = min(BLOCK, deadline - time.monotonic())
            if left <= 0:
                return []
            block: Command = ["XREAD", "BLOCK", max(1, int(left * 1_000)), *read]
            *_, found = await wire.call(*commands, *self.expiry(), block, wait=left)
            if found:
                return _entries(found)
            commands = ()

    # -- the receiver's side ---------------------------------------------------------------------

    async def open(self, wire: _Wire) -> str:
        """Make the streams; where the chunks begin."""
        _, place, *_ = await wire.call(
            ["DEL", self.chunk_key, self.credit_key],
            ["XADD", self.chunk_key, "*", MARK, b"-"],
            ["XADD", self.credit_key, "*", CHUNK, 0],
            *self.expiry(),
        )
        return str(place.decode())

    def closing(self) -> list[Command]:
        """What a sender who still waits for credit finds."""
        return [
            ["DEL", self.chunk_key],
            ["XADD", self.credit_key, "NOMKSTREAM", "*", CUT, b"-"],
            ["EXPIRE", self.credit_key, math.ceil(self.timeout) + 1],
        ]

    async def chunks(self, wire: _Wire, place: str) -> AsyncIterator[bytes]:
        """See `imperfect_dollop.broker.Link.receive_transfer`."""
        read = 0
        while True:
            credit: Command = ["XADD", self.credit_key, "MAXLEN", 1, "*", CHUNK, read]
            trim: Command = ["XTRIM", self.chunk_key, "MINID", place]
            entries = await self.wait(
                wire,
                *([credit, trim] if read else []),
                read=["COUNT", TRANSFER_WINDOW, "STREAMS", self.chunk_key, place],
            )
            if not entries:
                raise BrokerUnavailableError(
                    f"the sender of {self.address!r} sent nothing for {self.timeout:g} s"
                )
            for _, field, value in entries:
                if field == END:
                    return
                if field != CHUNK:
                    raise self.cut()
                yield value
                read += 1
            place = entries[-1][0]


class _Sender:
    """See `imperfect_dollop.broker.TransferSender`."""

    def __init__(self, transfer: _Transfer, wire: _Wire) -> None:
        self._transfer = transfer
        self._wire = wire
        self._sent = 0
        self._read = 0  # by the other end
        self._credit = "0"  # the last entry of the credit that was seen

    async def begin(self) -> None:
        """Raises `BrokerUnavailableError` if nobody has opened the address."""
        (found,) = await self._wire.call(self._look())
        if not found:
            raise BrokerUnavailableError(
                f"nobody waits for the transfer {self._transfer.address!r}"
            )
        self._note(_entries(found))

    async def send(self, chunk: bytes) -> None:
        if not chunk:
            raise ValueError("a chunk must not be empty")
        while self._sent - self._read >= TRANSFER_WINDOW:
            entries = await self._transfer.wait(
                self._wire, read=["STREAMS", self._transfer.credit_key, self._credit]
            )
            if not entries:
                raise BrokerUnavailableError(
                    f"the receiver of {self._transfer.address!r} read nothing for"
                    f" {self._transfer.timeout:g} s"
                )
            self._note(entries)
        await self.add(CHUNK, bytes(chunk))
        self._sent += 1

    async def add(self, field: bytes, value: bytes) -> None:
        """Add an entry, and take in what credit has come meanwhile."""
        place, found = await self._wire.call(self._transfer.add_chunk(field, value), self._look())
        if place is None:
            raise self._transfer.cut()
        self._note(_entries(found))

    def _look(self) -> Command:
        return ["XREAD", "STREAMS", self._transfer.credit_key, self._credit]

    def _note(self, entries: list[tuple[str, bytes, bytes]]) -> None:
        for self._credit, field, value in entries:
            if field == CUT:
                raise self._transfer.cut()
            try:
                read = int(value)
            except ValueError:
                raise self._transfer.cut() from None
            if not self._read <= read <= self._sent:  # a stranger's
                raise self._transfer.cut()
            self._read = read


def _entries(found: Any) -> list[tuple[str, bytes, bytes]]:
    """Id, first field and its value of the entries in an answer to XREAD of one stream, in either protocol."""
    if not found:
        return []
    ((_, entries),) = found.items() if isinstance(found, dict) else found
    return [(place.decode(), fields[0], fields[1]) for place, fields in entries if fields]
