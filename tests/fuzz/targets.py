"""What bytes from outside come to, one decoder after another. A target raises only for a fault.

Every one takes bytes, so that the same targets serve Hypothesis, which makes its inputs by rules, and a fuzzer that
looks at which lines an input has reached. `seeds` are inputs that mean something.
"""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import gc
import itertools
import logging
import struct
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Final

from imperfect_dollop import FunctionSource, Node, Repository
from imperfect_dollop.broker import Message
from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.brokers.rabbitmq.transfer import Sender as RabbitMQSender
from imperfect_dollop.brokers.rabbitmq.transfer import chunks
from imperfect_dollop.brokers.redis.link import _proof
from imperfect_dollop.brokers.redis.server import Server, entries
from imperfect_dollop.brokers.redis.transfer import CREDIT, CUT, Sender, Transfer
from imperfect_dollop.codecs import KeyCodec
from imperfect_dollop.errors import BrokerUnavailableError, InvalidEntityError, ProtocolError
from imperfect_dollop.replica.comparison import Comparison
from imperfect_dollop.replica.messages import (
    Ask,
    Chunk,
    DeadRow,
    Differ,
    Event,
    Events,
    Footer,
    Header,
    Heartbeat,
    Kind,
    Phase,
    Refuse,
    RepositoryState,
    Run,
    Take,
    decode,
    decode_frame,
    encode,
)
from imperfect_dollop.replica.replica import Replica
from imperfect_dollop.replica.seal import Seal, Secrets
from imperfect_dollop.replica.snapshot import Donor, Joiner
from imperfect_dollop.replica.stamp import ABSENT, Stamp, at
from imperfect_dollop.replica.table import BUCKETS, LEAVES

from ..unit.builders import KEYS, NOW, ROWS, Row, make
from .entities import CODECS, SAMPLES

__all__ = ["TARGETS", "Target", "pieces"]

SECRET: Final = "only members know this"


@dataclasses.dataclass(frozen=True)
class Target:
    """`run` raises for a fault of ours."""

    run: Callable[[bytes], None]
    seeds: Sequence[bytes]


PRINT: Final = ROWS.fingerprint


def joined(some: Iterable[bytes]) -> bytes:
    """Several inputs in one, each behind its length."""
    return b"".join(struct.pack(">H", len(one)) + one for one in some)


def pieces(data: bytes) -> Iterator[bytes]:
    """What `joined` has put together, and something for any other bytes."""
    while len(data) >= 2:
        (length,) = struct.unpack_from(">H", data)
        yield data[2 : 2 + length]
        data = data[2 + length :]


def filled(count: int = 5, **given: Any) -> Replica[int, Row]:
    one = make("r", **given)
    for key in range(count):
        one.table.put(key, Row(key), Stamp(1, at(NOW) + key, "r"))
    return one


# -- messages ----------------------------------------------------------------------------------------

STAMP: Final = Stamp(2, at(NOW), "s")


def state_of(number: int = 1, **given: Any) -> RepositoryState:
    said: dict[str, Any] = {
        "repository": "Row",
        "fingerprint": PRINT,
        "phase": Phase.READY,
        "whole": True,
        "clean": True,
        "sequence": number,
        "progress": 0,
        "digest": 0,
        "entities": 5,
        "confirmed": at(NOW),
        "failures": 0,
        "kept": 1,
    }
    return RepositoryState(**{**said, **given})


def event(kind: Kind, key: int, row: Row | None, base: Stamp = ABSENT) -> Event:
    return Event(kind, KEYS.encode(key), None if row is None else ROWS.encode(row), STAMP, base)


EVENTS: Final = [
    event(Kind.CREATE, 9, Row(9, 2)),
    event(Kind.UPDATE, 1, Row(1, 2, "new"), Stamp(1, at(NOW) + 1, "r")),
    event(Kind.DELETE, 2, None, Stamp(1, at(NOW) + 2, "r")),
    event(Kind.FOUND, 3, Row(3, 2)),
    event(Kind.REREAD, 4, None),
    event(Kind.FORGET, 4, None),
    Event(Kind.CONFIRM, b"", None, STAMP, STAMP),
    Event(Kind.CLEAR, b"", None, STAMP, ABSENT),
]

NEWS: Final = [
    *(encode(Events("s", "Row", PRINT, 1, [one])) for one in EVENTS),
    encode(Events("s", "Row", PRINT, 1, EVENTS)),
    encode(Events("s", "Row", "another", 2**63 - 2, EVENTS[:1])),
    encode(Heartbeat("s", "a name", 1, at(NOW), False, 1.0, [state_of()])),
    encode(
        Heartbeat("s", "a name", 2, 2**63 - 1, True, 1.0, [state_of(phase=Phase.COLD), state_of(9)])
    ),
    encode(Take("s", "r", "Row", PRINT, "address", list(range(20)))),
    encode(Refuse("s", "address", "busy")),
    encode(Ask("s", "Row", 1, 3)),
    encode(Ask("r", "Row", 1, 3, "another source")),
    encode(Events("t", "Row", PRINT, 1, EVENTS, "another source")),
    encode(Heartbeat("t", "foreign", 1, at(NOW), False, 1.0, [state_of(identity="another")])),
    encode(Take("t", "r", "Row", PRINT, "address", [1], b"", "another source")),
    encode(Take("s", "r", "Row", PRINT, "address", [], bytes(8 * BUCKETS))),
    encode(Take("s", "r", "Row", PRINT, "address", [1, 5, BUCKETS], bytes(8 * LEAVES))),
]


def frames() -> list[bytes]:
    """Of a whole copy."""
    take = Take("s", "r", "Row", PRINT, "address", list(range(BUCKETS)))
    donor = filled()
    donor.table.bury(77, Stamp(1, at(NOW), "r"))
    return list(filter(None, Donor(donor, take, clean=lambda: True).frames()))


FRAMES: Final = [
    *frames(),
    encode(Header("address", PRINT, {"r": 3, "s": 2**63 - 1}, at(NOW), [1, 5])),
    encode(
        Chunk(
            [1, 5],
            True,
            {"r": 3},
            ["r"],
            [ROWS.encode(Row(1))],
            [Run(1, at(NOW), 0)],
            [DeadRow(KEYS.encode(2), 1, at(NOW), 0)],
        )
    ),
    encode(Differ([1, 5])),
    encode(Footer({"r": 3}, 2**64 - 1, 5, True)),
]


def message(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode(data)


def frame(data: bytes) -> None:
    with contextlib.suppress(ProtocolError):
        decode_frame(data)


# -- codecs ------------------------------------------------------------------------------------------

KEY_CODECS: Final[tuple[KeyCodec[Any], ...]] = (
    KEYS,
    KeyCodec(str),
    KeyCodec(tuple[int, str]),
    KeyCodec(float),
    KeyCodec(),
)
KEY_SAMPLES: Final = (5, "key", (1, "x"), 1.5, (1, ("x", b"y", None), -3))


def key(data: bytes) -> None:
    codec = KEY_CODECS[data[0] % len(KEY_CODECS)] if data else KEYS
    with contextlib.suppress(ProtocolError):
        found = codec.decode(data[1:])
        assert codec.encode(found) == data[1:], "a key with two spellings"
        hash(found)


def entity(data: bytes) -> None:
    codec = CODECS[data[0] % len(CODECS)] if data else CODECS[0]
    try:
        found = codec.decode(data[1:])
    except ProtocolError:
        return
    with contextlib.suppress(InvalidEntityError):  # it may have no bytes, and be refused as such
        said = codec.encode(found)
        assert codec.encode(codec.decode(said)) == said, "bytes that are not canonical"


# -- envelopes ---------------------------------------------------------------------------------------


def seals() -> tuple[Seal, Seal]:
    return Seal(Secrets(SECRET), "fuzz", "a", NOW), Seal(Secrets(SECRET), "fuzz", "b", NOW)


def recorded() -> list[bytes]:
    sender, _ = seals()
    return [sender.close(one, NOW) for one in NEWS]


@functools.cache
def reader() -> Seal:
    """One that has heard all of what was recorded."""
    _, one = seals()
    for payload in recorded():
        one.open(payload, NOW)
    return one


def seal_state(one: Seal) -> tuple[object, ...]:
    return (dict(one._last), one._read, one._forgotten, one._time)


def envelope(data: bytes) -> None:
    one = reader()
    before = seal_state(one)
    with contextlib.suppress(ProtocolError):
        raise AssertionError(f"a message was let in: {one.open(data, NOW)!r}")
    with contextlib.suppress(ProtocolError):
        raise AssertionError(f"a frame was let in: {one.frames('address').open(data)!r}")
    assert seal_state(one) == before


# -- the replica ---------------------------------------------------------------------------------------


def hear(one: Replica[int, Row], data: bytes) -> None:
    """As the node does, with all that comes."""
    for payload in pieces(data):
        try:
            said = decode(payload)
        except ProtocolError:
            continue
        if isinstance(said, Events):
            one.receive(said, NOW)
        elif isinstance(said, Heartbeat):
            for state in said.repositories:
                one.heard(said.origin, state, [said.origin, one.origin])
    one.progress.hash(list(one.progress.vector), one.origin, one.sequence)
    one.looked_around(["a"])
    one.sweep(NOW, at(NOW))


def rules(data: bytes) -> None:
    hear(filled(), data)
    hear(filled(whole=False), data)
    cold = make("r")
    cold.go_cold()
    hear(cold, data)
    load = cold.begin_cold_load(NOW)
    hear(cold, data)
    for _ in cold.replace(load, {1: Row(1)}):
        pass
    cold.replay()
    cold.go_warm()
    check(cold)


def check(one: Replica[int, Row]) -> None:
    """The table is one that could be."""
    table = one.table
    assert table.root == sum(table.buckets) % 2**64
    assert table.live.keys() == dict(table.stamped()).keys()
    assert not table.live.keys() & table.dead.keys()
    for held, row in table.live.items():
        assert held == row.id


def joiner(data: bytes) -> None:
    one = make("j")
    one.go_cold()
    one.receive(Events("r", "Row", PRINT, 1, EVENTS), NOW)
    taking = Joiner(one)
    taking.begin("address")
    for payload in pieces(data):
        try:
            taking.take(payload)
        except ProtocolError:
            taking.begin("address")  # the next donor
    _ = taking.arrived
    if taking.footer is not None:
        taking.finish(NOW)
    check(one)


def comparison(data: bytes) -> None:
    one = filled()
    comparing = Comparison(one, "address", NOW)
    with contextlib.suppress(ProtocolError):
        for payload in pieces(data):
            comparing.take(payload)
            if comparing.differ and comparing.footer is not None:
                comparing.narrow("address")
    comparing.finish(NOW)
    comparing.close()
    check(one)


# -- a node --------------------------------------------------------------------------------------------


class Errors(logging.Handler):
    """A fault in taking in a message is logged as an error, and the node goes on."""

    def __init__(self, found: list[Any]) -> None:
        super().__init__(logging.ERROR)
        self.found = found

    def emit(self, record: logging.LogRecord) -> None:
        self.found.append((record.getMessage(), record.exc_info))


class Running:
    """A node in an event loop that stands still between two inputs."""

    def __init__(self, secret: str | None) -> None:
        self.runner = asyncio.Runner()
        self.runner.get_loop()
        self.crashed: list[Any] = []
        self.log = Errors(self.crashed)
        logging.getLogger("imperfect_dollop").addHandler(self.log)
        self.runner.get_loop().set_exception_handler(lambda _, what: self.crashed.append(what))
        rows = {number: Row(number) for number in range(5)}

        async def load_all() -> list[Row]:
            return list(rows.values())

        async def load(key: int) -> Row | None:
            return rows.get(key)

        self.repository: Repository[int, Row] = Repository(
            Row,
            source=FunctionSource(load_all=load_all, load=load, identity="the rows"),
            version="version",
            ttl=None,
            read_only=True,
        )
        self.node = Node(
            MemoryBroker(), self.repository, secret=secret, heartbeat=3_600.0, offer_wait=0.0
        )
        self.runner.run(self._start())

    async def _start(self) -> None:
        await self.node.__aenter__()
        membership = self.node._membership
        assert membership is not None
        # Until its last word is back, and the next is an hour away: then only what it is told changes anything.
        members = membership.members
        while membership._beat_due < time.monotonic() + 60 or members.echo < membership._beats:
            await asyncio.sleep(0.001)

    def close(self) -> None:
        self.runner.run(self.node.__aexit__(None, None, None))
        self.runner.close()
        logging.getLogger("imperfect_dollop").removeHandler(self.log)

    async def _put(self, payloads: Iterable[bytes]) -> None:
        membership = self.node._membership
        assert membership is not None
        (link,) = self.node._broker._hub.links  # type: ignore[union-attr]
        for payload in payloads:
            link.inbox.put(Message(payload))
        while link.waiting:  # each that is rejected gives others their turn
            await asyncio.sleep(0)
        for _ in range(30):
            await asyncio.sleep(0)

    def state(self) -> object:
        """All that a message could have changed."""
        membership, (seat,) = self.node._membership, self.node._seats
        assert membership is not None
        one, upkeep = seat.replica, seat.session.upkeep
        return (
            *(
                dict(one.table.live),
                dict(one.table.stamped()),
                dict(one.table.dead),
                one.table.root,
            ),
            *(
                dict(one.progress.vector),
                one.progress.awaited,
                one.confirmed,
                one.resets,
                one.clock.time,
                one.cold,
            ),
            *(sorted(membership.members.alive), membership.up, membership.links),
            *(upkeep.phase, upkeep.clean, seat.donating, seat._answering, seat.unsent),
            dataclasses.asdict(self.repository.stats),
            seal_state(membership._seal) if membership._seal is not None else None,
        )

    def hear(self, payloads: Sequence[bytes]) -> None:
        self.runner.run(self._put(payloads))
        assert not self.crashed, self.crashed
        assert self.node.stats.crashes == 0
        assert self.node.stats.broker_up


_running: dict[str | None, Running] = {}


def running(secret: str | None) -> Running:
    """The same one each time, as it is slow to start; it must come through everything."""
    if secret not in _running:
        _running[secret] = Running(secret)
    return _running[secret]


def close_all() -> None:
    for secret in list(_running):
        _running.pop(secret).close()
    gc.collect()


def node(data: bytes) -> None:
    """Without a secret anything may be believed, and nothing may fail."""
    running(None).hear(list(itertools.islice(pieces(data), 1_000)))


def insider(data: bytes) -> None:
    """What comes through the envelope is as good as any: it may be believed, and nothing may fail."""
    one = running(SECRET + " too")
    member = Seal(Secrets(SECRET + " too"), "default", "s", time.time())
    one.hear([member.close(payload, time.time()) for payload in pieces(data)])


def outsider(data: bytes) -> None:
    """With a secret nothing is believed, and nothing changes."""
    one = running(SECRET)
    payloads = list(itertools.islice(pieces(data), 1_000))  # with too many the inbox runs over
    elsewhere = Seal(Secrets(SECRET), "another namespace", "s", time.time())
    payloads += [elsewhere.close(payload, time.time()) for payload in payloads]
    before = one.state()
    counted = sum(one.node.stats.rejections.values())
    one.hear(payloads)
    assert one.state() == before
    assert sum(one.node.stats.rejections.values()) == counted + len(payloads)


# -- brokers' own ----------------------------------------------------------------------------------------

_transfer: Final = Transfer(
    Server("redis://127.0.0.1", prefix="p", timeout=1.0, options={}), "fuzz", "address", 1.0
)


def credit(data: bytes) -> None:
    """What the other end of a Redis transfer says of what it has read, and the entries that it says it in."""
    told = list(pieces(data))
    fields = [CUT if one.startswith(b"x") else CREDIT for one in told]
    answer = [
        (
            b"k",
            [
                (b"%d-0" % number, [*pair])
                for number, pair in enumerate(zip(fields, told, strict=True))
            ],
        )
    ]
    sender = Sender(_transfer, None)  # type: ignore[arg-type]
    sender._credit.sent = 3
    with contextlib.suppress(BrokerUnavailableError):
        sender._note(entries(answer))
    assert 0 <= sender._credit.read <= 3
    for one in told:
        assert len(_proof(one)) == 8


class Told:
    """An end of a RabbitMQ transfer that hears what it is told, and sends nothing anywhere."""

    address = "address"
    timeout = 1.0

    def __init__(self, heard: Iterable[tuple[str, bytes]]) -> None:
        self._heard = deque(heard)

    @property
    def heard_more(self) -> bool:
        return bool(self._heard)

    async def hear(self) -> tuple[str, bytes] | None:
        return self._heard.popleft() if self._heard else None

    async def say(self, kind: str, body: bytes = b"") -> None:
        assert kind in KINDS


KINDS: Final = ("begin", "chunk", "end", "cut", "credit", "")


def words(data: bytes) -> None:
    """What either end of a RabbitMQ transfer makes of the messages that it gets."""
    heard = [(KINDS[one[0] % len(KINDS)], one[1:]) for one in pieces(data) if one]
    giving: Any = Told(heard)
    taking: Any = Told(heard)
    sender = RabbitMQSender(giving)

    async def give() -> None:
        for _ in range(20):
            await sender.send(b"chunk")
            assert 0 <= sender._credit.read <= sender._credit.sent

    async def take() -> None:
        assert len([chunk async for chunk in chunks(taking)]) <= len(heard)

    for call in (give(), take()):
        try:
            call.send(None)
        except (StopIteration, BrokerUnavailableError):
            continue
        raise AssertionError("it waits for something")


TARGETS: Final[dict[str, Target]] = {
    "message": Target(message, NEWS),
    "frame": Target(frame, FRAMES),
    "key": Target(
        key,
        [
            bytes([number]) + codec.encode(sample)
            for number, (codec, sample) in enumerate(zip(KEY_CODECS, KEY_SAMPLES, strict=True))
        ],
    ),
    "entity": Target(
        entity,
        [
            bytes([number]) + codec.encode(sample)
            for number, (codec, sample) in enumerate(zip(CODECS, SAMPLES, strict=True))
        ],
    ),
    "envelope": Target(envelope, [*recorded(), seals()[0].frames("address").close(FRAMES[1])[:-1]]),
    "rules": Target(rules, [joined([one]) for one in NEWS] + [joined(NEWS)]),
    "joiner": Target(joiner, [joined(frames()), joined(FRAMES), joined(FRAMES[-3:])]),
    "comparison": Target(
        comparison, [joined(frames()), joined(FRAMES[-3:]), joined([FRAMES[-3], FRAMES[-1]])]
    ),
    "node": Target(node, [joined([one]) for one in NEWS] + [joined(NEWS)]),
    "insider": Target(insider, [joined([one]) for one in NEWS] + [joined(NEWS)]),
    "outsider": Target(outsider, [joined(recorded()), joined(NEWS)]),
    "words": Target(
        words, [joined([b"\0", b"\1a", b"\1b", b"\2"]), joined([b"\x041", b"\x043", b"\x048"])]
    ),
    "credit": Target(
        credit, [joined([b"0", b"1", b"3"]), joined([b"x"]), joined([b"-1", b"9" * 20])]
    ),
}
"""By name."""
