"""What bytes from outside can grow has a limit, and what is at a limit harms nobody."""

from __future__ import annotations

import struct
from collections.abc import Callable
from typing import Any

import msgspec
import pytest

from imperfect_dollop.brokers.memory import MemoryBroker
from imperfect_dollop.codecs import MAX_CONTENT, MAX_KEY, EntityCodec, KeyCodec
from imperfect_dollop.errors import InvalidEntityError, ProtocolError
from imperfect_dollop.replica import members as members_module
from imperfect_dollop.replica.messages import (
    MAX_BATCH,
    MAX_ENTITY,
    MAX_MESSAGE,
    MAX_ORIGINS,
    MAX_REPOSITORIES,
    MAX_ROWS,
    Event,
    Events,
    Header,
    Heartbeat,
    Kind,
    Phase,
    Take,
    decode,
    decode_frame,
    encode,
)
from imperfect_dollop.replica.replica import Replica
from imperfect_dollop.replica.snapshot import Donor
from imperfect_dollop.replica.stamp import ABSENT, MAX_NAME, Stamp, at

from .builders import NOW, ROWS, Row, batch, doubts, event, holds, make, resends, resyncs, state
from .school import SchoolSource, cluster, member

ROOM = MAX_MESSAGE - 200
LAST = 2**63 - 1


def array(count: int) -> bytes:
    return b"\xdd" + struct.pack(">I", count)


def text(length: int) -> bytes:
    return b"\xdb" + struct.pack(">I", length) + b"a" * length


def vector(count: int) -> bytes:
    return msgspec.msgpack.encode({f"{number:x}": 1 for number in range(count)})


def header(count: int) -> bytes:
    return b"\x96\xa1H\xa1a\xa1f" + vector(count) + b"\0\x90"


def chunk(
    *,
    origins: bytes = b"\x90",
    live: bytes = b"\x90",
    runs: bytes = b"\x90",
    dead: bytes = b"\x90",
) -> bytes:
    return b"\x98\xa1C\x90\xc2\x80" + origins + live + runs + dead


def events(count: int, origin: bytes) -> bytes:
    stamp = b"\x93\0\0" + origin
    one = b"\x95\2\xc4\1\1\xc0" + stamp + stamp
    return b"\x96\xa1e\xa1a\xa1r\xa1f\1" + array(count) + one * count


def heartbeat(count: int) -> bytes:
    state = b"\x9c\xa1r\xa1f\2\xc3\xc3\1\1\1\1\1\1\1"
    return b"\x98\xa1h\xa1a\xa1n\1\1\xc2\1" + array(count) + state * count


LIVE, RUN, DEAD = b"\xc4\0", b"\x93\1\0\0", b"\x94\xc4\0\0\0\0"


@pytest.mark.parametrize(
    ("read", "make_it", "most"),
    [
        (decode_frame, header, MAX_ORIGINS + 1),
        (decode_frame, lambda n: chunk(live=array(n) + LIVE * n), MAX_ROWS),
        (decode_frame, lambda n: chunk(runs=array(n) + RUN * n), MAX_ROWS),
        (decode_frame, lambda n: chunk(dead=array(n) + DEAD * n), MAX_ROWS),
        (decode_frame, lambda n: chunk(origins=array(n) + b"\xa0" * n), MAX_ROWS),
        (decode, lambda n: events(n, b"\xa1o"), MAX_BATCH),
        (decode, lambda n: events(1, text(n)), MAX_NAME),
        (decode, heartbeat, MAX_REPOSITORIES),
        (KeyCodec(str).decode, lambda n: msgspec.msgpack.encode("k" * (n - 3)), MAX_KEY),
    ],
    ids=["vector", "live", "runs", "dead", "origins", "events", "stamp", "repositories", "key"],
)
def test_as_much_as_this_and_no_more(
    read: Callable[[bytes], Any], make_it: Callable[[int], bytes], most: int
) -> None:
    read(make_it(most))
    with pytest.raises(ProtocolError):
        read(make_it(most + 1))


@pytest.mark.parametrize("content", [array(ROOM) + b"\x90" * ROOM, b"\x91" * ROOM, text(ROOM)])
def test_a_key_as_large_as_a_message_is_not_even_looked_at(content: bytes) -> None:
    codecs: list[KeyCodec[Any]] = [KeyCodec(), KeyCodec(str), KeyCodec(tuple[int, str])]
    for codec in codecs:
        with pytest.raises(ProtocolError, match="8,192 are the limit"):
            codec.decode(content)


def test_a_key_of_our_own_that_nobody_would_read() -> None:
    keys: KeyCodec[str] = KeyCodec(str)
    keys.encode("k" * 8_000)
    with pytest.raises(InvalidEntityError, match="8,192 are the limit") as caught:
        keys.encode("k" * 9_000)
    assert len(str(caught.value)) < 1_000


def test_an_entity_larger_than_any_of_ours_is_not_looked_at() -> None:
    content = msgspec.msgpack.encode(Row(1, text="x" * MAX_CONTENT))
    with pytest.raises(ProtocolError, match="4,194,304 are the limit"):
        EntityCodec(Row).decode(content)


def test_a_row_that_is_too_large_for_an_event_is_read_again() -> None:
    replica = make()
    row = Row(1, text="x" * MAX_ENTITY)
    large = event(Kind.CREATE, 1, row, Stamp(1, at(NOW), "b"))
    assert doubts(replica.receive(batch(large), NOW)) == {1}
    assert holds(replica)


def test_a_donor_that_has_heard_of_all_that_can_be_remembered_is_understood() -> None:
    replica: Replica[int, Row] = make("donor")
    for number in range(MAX_ORIGINS + 10):
        replica.receive(batch(origin=f"o{number}"), NOW)
    take = Take("joiner", "donor", "rows", ROWS.fingerprint, "a", [0])
    first = decode_frame(next(filter(None, Donor(replica, take, lambda: True).frames())))
    assert isinstance(first, Header)
    assert len(first.vector) == MAX_ORIGINS + 1


async def test_more_members_than_are_counted_are_not_listened_to(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(members_module, "MAX_MEMBERS", 3)
    async with cluster(member(MemoryBroker(), SchoolSource())) as (one,):
        membership, (seat,) = one.node._membership, one.node._seats
        assert membership is not None
        for number in range(10):
            known = [f"o{other}" for other in range(min(number + 1, 3))]
            about = state(seat.replica, known, phase=Phase.READY)
            said = [msgspec.structs.replace(about, repository="Student", digest=1)]
            beat = Heartbeat(f"o{number}", "a stranger", 1, 0, False, 1.0, said)
            membership._message(encode(beat))
        assert sorted(membership.members.alive) == ["o0", "o1", "o2"]
        assert seat.replica.agreement._differs.keys() <= membership.members.alive.keys()
        assert seat.replica.agreement._differs


# -- numbers at their limits -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [Kind.CREATE, Kind.UPDATE, Kind.FOUND])
def test_a_version_at_the_limit_is_one(kind: Kind) -> None:
    replica = make()
    row = Row(1, version=LAST)
    replica.receive(batch(event(kind, 1, row, Stamp(LAST, at(NOW), "b"))), NOW)
    assert replica.table.live == {1: row}
    # What follows it began anew: its base fits, its version does not.
    lower = event(Kind.UPDATE, 1, Row(1), Stamp(1, at(NOW) + 1, "b"), Stamp(LAST, at(NOW), "b"))
    assert doubts(replica.receive(batch(lower, first=2), NOW)) == {1}


@pytest.mark.parametrize("field", ["version", "time"])
@pytest.mark.parametrize("number", [2**63, 2**64 - 1, -1])
def test_a_stamp_beyond_the_limit_is_no_message(field: str, number: int) -> None:
    one = Stamp(**{"version": 1, "time": 1, "origin": "b", field: number})  # type: ignore[arg-type]
    payload = encode(Events("b", "rows", "f", 1, [Event(Kind.DELETE, b"\1", None, one, ABSENT)]))
    with pytest.raises(ProtocolError):
        decode(payload)


def test_a_content_whose_version_is_beyond_the_limit_is_not_believed() -> None:
    replica = make()
    row = Row(1, version=2**64 - 1)
    one = Event(Kind.CREATE, b"\1", ROWS.encode(row), Stamp(LAST, at(NOW), "b"), ABSENT)
    assert doubts(replica.receive(batch(one), NOW)) == {1}
    assert holds(replica)


def test_a_time_at_the_limit_does_not_drag_the_clock_along() -> None:
    replica = make()
    late = event(Kind.CREATE, 1, Row(1), Stamp(1, LAST, "b"))
    confirms = [
        Event(Kind.CONFIRM, b"", None, Stamp(0, answered, "b"), Stamp(0, LAST, "b"))
        for answered in (at(NOW), LAST)
    ]
    assert doubts(replica.receive(batch(late, *confirms), NOW)) == {1}
    assert (replica.clock.time, replica.confirmed) == (0, 0)


@pytest.mark.parametrize("first", [LAST, LAST - 1])
def test_numbers_at_the_limit_are_noticed(first: int) -> None:
    replica = make()
    effects = replica.receive(batch(event(Kind.REREAD, 1, None, ABSENT), first=first), NOW)
    assert resyncs(effects) or resends(effects)
    assert replica.progress.vector.get("b", 0) <= LAST
    assert doubts(replica.receive(batch(event(Kind.REREAD, 1, None, ABSENT)), NOW)) in (set(), {1})
