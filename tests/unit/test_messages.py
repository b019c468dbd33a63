"""Messages and frames: what is written is read, and whatever else comes is a `ProtocolError`."""

from __future__ import annotations

import contextlib
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imperfect_dollop.errors import ProtocolError
from imperfect_dollop.replica.messages import (
    MAX_BATCH,
    MAX_MESSAGE,
    Ask,
    Chunk,
    DeadRow,
    Event,
    Events,
    Footer,
    Frame,
    Header,
    Heartbeat,
    Kind,
    News,
    Phase,
    Refuse,
    RepositoryState,
    Run,
    Take,
    decode,
    decode_frame,
    encode,
)
from imperfect_dollop.replica.stamp import ABSENT, Stamp

EVENT = Event(Kind.UPDATE, b"key", b"content", Stamp(3, 4, "a"), ABSENT)
NEWS: list[News] = [
    Events("a", "rows", "print", 1, [EVENT, Event(Kind.DELETE, b"", None, ABSENT, ABSENT)]),
    Heartbeat(
        "a",
        "name",
        1,
        2,
        False,
        0.25,
        [
            RepositoryState(
                "rows", "p", Phase.READY, True, True, 1, 2**64 - 1, 2**64 - 1, 4, 5, 6, 7, 8, "shop"
            )
        ],
    ),
    Take("a", "b", "rows", "print", "address", [1, 2]),
    Take("a", "b", "rows", "print", "address", [1, 2], b"digests", "tag"),
    Ask("a", "rows", 1, 2, "tag"),
    Events("a", "rows", "print", 1, [EVENT], "tag"),
    Refuse("a", "address", "busy"),
]
FRAMES: list[Frame] = [
    Header("address", "print", {"a": 1}, 7, [0, 1]),
    Header("address", "print", {"a": 1}, 7, [0, 1], "tag"),
    Chunk([1], True, {"a": 1}, ["a"], [b"row"], [Run(1, 1, 0)], [DeadRow(b"key", 1, 2, 0)]),
    Footer({"a": 1}, 2**64 - 1, 4, True),
]
READ = {**{encode(news): news for news in NEWS}, **{encode(frame): frame for frame in FRAMES}}

# What msgpack can say at all, to be near enough to a message to get past the first check.
values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**63), 2**64 - 1)
    | st.floats()
    | st.binary(max_size=8)
    | st.text(max_size=8)
    | st.sampled_from(["e", "h", "t", "r", "H", "C", "F"]),
    lambda inner: st.lists(inner, max_size=8) | st.dictionaries(st.text(max_size=3), inner),
    max_leaves=20,
)


def accepts_or_refuses(payload: bytes) -> None:
    """Anything but a message or a `ProtocolError` fails the test."""
    for read in (decode, decode_frame):
        with contextlib.suppress(ProtocolError):
            assert isinstance(read(payload), msgspec.Struct)


@pytest.mark.parametrize("news", NEWS, ids=lambda news: type(news).__name__)
def test_news_are_read_as_written(news: News) -> None:
    assert decode(encode(news)) == news


@pytest.mark.parametrize("frame", FRAMES, ids=lambda frame: type(frame).__name__)
def test_frames_are_read_as_written(frame: Frame) -> None:
    assert decode_frame(encode(frame)) == frame


def test_news_are_no_frames_and_frames_no_news() -> None:
    for news in NEWS:
        with pytest.raises(ProtocolError):
            decode_frame(encode(news))
    for frame in FRAMES:
        with pytest.raises(ProtocolError):
            decode(encode(frame))


@given(st.binary(max_size=200))
def test_random_bytes_raise_nothing_else(payload: bytes) -> None:
    accepts_or_refuses(payload)


@given(values)
def test_well_formed_values_that_are_no_message_raise_nothing_else(value: Any) -> None:
    accepts_or_refuses(msgspec.msgpack.encode(value))


@given(st.sampled_from(sorted(READ)), st.data())
def test_changed_bytes_raise_nothing_else(payload: bytes, data: st.DataObject) -> None:
    garbled = bytearray(payload)
    for _ in range(data.draw(st.integers(1, 4))):
        garbled[data.draw(st.integers(0, len(garbled) - 1))] = data.draw(st.integers(0, 255))
    accepts_or_refuses(bytes(garbled))


@pytest.mark.parametrize("payload", sorted(READ))
def test_a_truncated_or_extended_message_is_none(payload: bytes) -> None:
    for length in range(len(payload)):
        for read in (decode, decode_frame):
            with pytest.raises(ProtocolError):
                read(payload[:length])
    for read in (decode, decode_frame):
        with pytest.raises(ProtocolError):
            read(payload + b"\x00")


@pytest.mark.parametrize(
    "payload",
    [
        b"\x91" * 100_000,
        b"\x81\xa1e" * 100_000,
        b"\x96\xa1e" + b"\x91" * 50_000,
        b"\x97\xa1C\xdd\xff\xff\xff\xff",
        b"\x97\xa1C\x90\xc2\xdf\xff\xff\xff\xff",
        b"\x97\xa1C\x90\xc2\x80\x90\xdd\xff\xff\xff\xff",
        b"\x96\xa1e\xdb\xff\xff\xff\xff",
        b"\xc6\xff\xff\xff\xff",
    ],
    ids=["deep", "deep maps", "deep within", "list", "map", "rows", "text", "bytes"],
)
def test_nesting_and_lengths_that_lie_are_refused(payload: bytes) -> None:
    for read in (decode, decode_frame):
        with pytest.raises(ProtocolError):
            read(payload)


def test_what_is_too_large_is_refused_unread() -> None:
    padded = Refuse("a", "address", "busy")
    with pytest.raises(ProtocolError, match="limit"):
        decode(encode(padded) + b"\x00" * MAX_MESSAGE)
    with pytest.raises(ProtocolError, match="limit"):
        decode_frame(b"\x00" * (MAX_MESSAGE + 1))


@pytest.mark.parametrize(
    "news",
    [
        Events("a" * 257, "rows", "print", 1, [EVENT]),
        Events("a", "rows", "print", 1, []),
        Events("a", "rows", "print", 1, [EVENT] * (MAX_BATCH + 1)),
        Events("a", "rows", "print", -1, [EVENT]),
        Events("a", "rows", "print", 2**63, [EVENT]),
        Events(
            "a", "rows", "print", 1, [Event(Kind.UPDATE, b"", b"", Stamp(2**63, 1, "a"), ABSENT)]
        ),
        Events("a", "rows", "print", 1, [Event(Kind.UPDATE, b"", b"", Stamp(-1, 1, "a"), ABSENT)]),
        Events(
            "a", "rows", "print", 1, [Event(Kind.UPDATE, b"", b"", ABSENT, Stamp(1, 2**63, "a"))]
        ),
        Events("a", "rows", "print", 1, [Event(9, b"", b"", ABSENT, ABSENT)]),  # type: ignore[arg-type]
        Take("a", "b", "rows", "print", "address", [0] * ((1 << 16) + 1)),
        Take("a", "b", "rows", "print", "address", [-1]),
        Refuse("a", "address", "x" * 257),
    ],
)
def test_values_out_of_bounds_are_refused(news: News) -> None:
    with pytest.raises(ProtocolError):
        decode(encode(news))
