"""Envelopes: who can open one, what may not be changed in it, and which are too old to be believed."""

from __future__ import annotations

import hmac
import itertools
import logging
import time as wall
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imperfect_dollop import ConfigurationError, Node
from imperfect_dollop.errors import ProtocolError
from imperfect_dollop.replica import seal as seal_module
from imperfect_dollop.replica.messages import MAX_MESSAGE, decode, decode_frame
from imperfect_dollop.replica.seal import MOST_AROUND, Seal, Secrets
from imperfect_dollop.replica.stamp import MAX_DRIFT

from .builders import NOW

OLD = "an old secret of theirs"
NEW = b"a new secret of theirs "
BODY = b"what is said"
HOUR = 3_600.0


def seal(origin: str = "a", secret: Any = OLD, namespace: str = "school", now: float = NOW) -> Seal:
    return Seal(Secrets(secret), namespace, origin, now)


def refused(one: Seal, payload: bytes, now: float = NOW) -> str:
    with pytest.raises(ProtocolError) as caught:
        one.open(payload, now)
    return caught.value.reason


# -- who can open it -------------------------------------------------------------------------------


@given(st.binary(max_size=300), st.text(max_size=40), st.floats(NOW, NOW + 50))
def test_what_a_member_seals_others_open(body: bytes, origin: str, now: float) -> None:
    assert seal().open(seal(origin).close(body, now), NOW) == body


def test_its_echo_is_opened() -> None:
    one = seal()
    assert [one.open(one.close(BODY, NOW), NOW) for _ in range(3)] == [BODY] * 3


def test_without_the_secret_nothing_is_opened() -> None:
    payload = seal().close(BODY, NOW)
    assert refused(seal("b", NEW), payload) == "forged"
    for read in (decode, decode_frame):
        with pytest.raises(ProtocolError) as caught:
            read(payload)
        assert caught.value.reason == "signed"


def test_what_has_no_envelope_is_unsigned() -> None:
    for payload in (b"", BODY, b"\x95\xa1e"):
        assert refused(seal(), payload) == "unsigned"


def test_a_message_of_another_namespace_is_forged() -> None:
    assert refused(seal("b"), seal(namespace="office").close(BODY, NOW)) == "forged"
    frame = seal(namespace="office").frames("x").close(BODY)
    with pytest.raises(ProtocolError):
        seal("b").frames("x").open(frame)


def test_each_changed_bit_is_noticed() -> None:
    payload = seal().close(BODY, NOW)
    reader = seal("b")
    for place, bit in itertools.product(range(len(payload)), range(8)):
        changed = bytearray(payload)
        changed[place] ^= 1 << bit
        assert refused(reader, bytes(changed)) in ("forged", "unsigned", "malformed")
    for length in range(len(payload)):
        assert refused(reader, payload[:length]) in ("forged", "unsigned", "malformed")
    assert refused(reader, payload + b"\x00") == "forged"
    assert reader.open(payload, NOW) == BODY


def test_codes_are_compared_in_constant_time(monkeypatch: pytest.MonkeyPatch) -> None:
    compared: list[int] = []

    def compare(one: bytes, other: bytes) -> bool:
        compared.append(len(one))
        return one == other

    monkeypatch.setattr(hmac, "compare_digest", compare)
    assert seal("b").open(seal().close(BODY, NOW), NOW) == BODY
    assert compared == [32]


def test_what_is_too_large_is_not_even_hashed() -> None:
    assert refused(seal(), b"\xc1" * (MAX_MESSAGE + MOST_AROUND + 1)) == "oversized"
    largest = bytes(MAX_MESSAGE)
    assert seal().open(seal("o" * 255).close(largest, NOW), NOW) == largest


def test_rotation() -> None:
    old, both, turned, new = Secrets(OLD), Secrets([OLD, NEW]), Secrets([NEW, OLD]), Secrets(NEW)
    steps = [[old, both], [both, turned], [turned, new]]
    for some in steps:  # as the nodes are started again one by one, with the next list
        for sender, reader in itertools.product(some, some):
            payload = Seal(sender, "school", "a", NOW).close(BODY, NOW)
            assert Seal(reader, "school", "b", NOW).open(payload, NOW) == BODY
    assert refused(seal("b", NEW), seal(secret=[OLD, NEW]).close(BODY, NOW)) == "forged"


# -- fresh -----------------------------------------------------------------------------------------


def test_a_message_is_opened_once() -> None:
    sender, reader = seal(), seal("b")
    payloads = [sender.close(BODY, NOW) for _ in range(5)]
    assert [reader.open(payload, NOW) for payload in payloads] == [BODY] * 5
    assert [refused(reader, payload) for payload in payloads] == ["stale"] * 5


def test_who_has_sent_what_is_stale_is_said() -> None:
    payload = seal("so-and-so").close(BODY, NOW)
    reader = seal("b")
    reader.open(payload, NOW)
    with pytest.raises(
        ProtocolError, match="not later than the last one of its sender 'so-and-so'"
    ):
        reader.open(payload, NOW)
    with pytest.raises(
        ProtocolError, match=r"'so-and-so' was not heard before, and is 90 s behind"
    ):
        seal("b", now=NOW + 90).open(payload, NOW + 90)


def test_an_own_message_is_not_played_back_to_its_sender() -> None:
    one = seal()
    payload = one.close(BODY, NOW)
    one.open(payload, NOW)
    assert refused(one, payload) == "stale"


def test_a_recording_of_a_sender_that_was_not_heard_before() -> None:
    payload = seal("gone").close(BODY, NOW)
    for late in (MAX_DRIFT + 1, HOUR, 1_000 * HOUR):
        reader = seal("b", now=NOW + late)
        assert refused(reader, payload, NOW + late) == "stale"
    # What the clocks of two hosts may differ by, it may be old.
    assert seal("b", now=NOW + MAX_DRIFT - 1).open(payload, NOW + MAX_DRIFT - 1) == BODY


def test_the_stale_and_the_forged_leave_no_trace() -> None:
    reader, other = seal("b"), seal("c")
    stranger = seal("z", NEW)
    recording = seal("gone").close(BODY, NOW - HOUR)

    def state() -> tuple[object, ...]:
        return (dict(reader._last), reader._read, reader._forgotten, reader._time)

    payload = other.close(BODY, NOW)
    reader.open(payload, NOW)
    before = state()
    for one in (recording, payload, stranger.close(BODY, NOW + HOUR), b"\xc1", payload[:60], BODY):
        refused(reader, one)
    assert state() == before


def test_what_was_said_while_a_node_was_cut_off_counts_however_late_it_is_read() -> None:
    reader, known, newcomer = seal("b"), seal("a"), seal("c")
    reader.open(known.close(BODY, NOW), NOW)
    backlog: list[bytes] = []
    for second in range(60, int(HOUR), 60):
        backlog.append(known.close(BODY, NOW + second))
        backlog.append(newcomer.close(BODY, NOW + second))
        if second % 600 == 0:  # of a node that came and went meanwhile
            backlog.append(seal(f"passing {second}").close(BODY, NOW + second))
    back = NOW + 2 * HOUR
    assert [reader.open(payload, back) for payload in backlog] == [BODY] * len(backlog)
    assert [refused(reader, payload, back) for payload in backlog] == ["stale"] * len(backlog)
    # What was recorded at its beginning, and is played behind its end, is as stale as it was then.
    assert refused(reader, seal("unheard").close(BODY, NOW), back) == "stale"


def test_a_link_that_begins_anew_brings_nothing_old() -> None:
    reader, recording = seal("b"), seal("gone").close(BODY, NOW)
    reader.begin(NOW + HOUR)
    assert refused(reader, recording, NOW + HOUR) == "stale"


def test_a_sender_from_the_future_is_believed_only_if_it_was_heard_before() -> None:
    known, unknown, reader = seal("a"), seal("c"), seal("b")
    reader.open(known.close(BODY, NOW), NOW)
    assert refused(reader, unknown.close(BODY, NOW + MAX_DRIFT + 1), NOW) == "stale"
    assert reader.open(known.close(BODY, NOW + HOUR), NOW) == BODY  # its clock was set
    assert reader.open(known.close(BODY, NOW), NOW) == BODY  # and set back
    # None of which is held against others.
    assert reader.open(seal("d").close(BODY, NOW - MAX_DRIFT / 2), NOW) == BODY


@pytest.mark.parametrize("jump", [HOUR, -HOUR])
def test_a_clock_that_is_set_parts_no_nodes_that_know_each_other(jump: float) -> None:
    one, other = seal("a"), seal("b")
    now = NOW
    for second in range(300):
        now = NOW + second
        mine = now + (jump if second >= 100 else 0) - (jump if second >= 200 else 0)
        payload = one.close(BODY, mine)
        assert one.open(payload, mine) == other.open(payload, now) == BODY
        answer = other.close(BODY, now)
        assert one.open(answer, mine) == other.open(answer, now) == BODY
    assert one.open(seal("c").close(BODY, now), now) == BODY


def test_what_is_forgotten_is_not_played_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seal_module, "MAX_ORIGINS", 10)
    reader = seal("r")
    payloads = [seal(f"s{number}").close(BODY, NOW + number / 100) for number in range(30)]
    for payload in payloads:
        assert reader.open(payload, NOW) == BODY
    assert len(reader._last) == 10
    assert [refused(reader, payload) for payload in payloads] == ["stale"] * 30


def test_times_at_the_limits() -> None:
    sender, reader = seal(), seal("b")
    for now in (-1.0, 0.0, 2.0**43):
        assert refused(reader, sender.close(BODY, now)) == "stale"
    with pytest.raises(ProtocolError):  # authentic, and no message
        reader.open(reader._codes.sealed(b"short"), NOW)
    assert reader.open(seal("").close(b"", NOW), NOW) == b""


# -- frames ----------------------------------------------------------------------------------------


def test_frames_are_opened_in_their_order_only() -> None:
    giving = seal().frames("address")
    sent = [giving.close(b"%d" % number) for number in range(4)]
    reading = seal("b").frames("address")
    assert [reading.open(frame) for frame in sent] == [b"0", b"1", b"2", b"3"]
    for order in itertools.permutations(range(4)):
        reading = seal("b").frames("address")
        wrong = next((n for n, place in enumerate(order) if n != place), None)
        for number, place in enumerate(order):
            if number == wrong:
                with pytest.raises(ProtocolError, match="not of this"):
                    reading.open(sent[place])
                break
            reading.open(sent[place])


def test_a_frame_of_one_transfer_is_none_of_another_nor_a_message() -> None:
    sender, reader = seal(), seal("b")
    frame = sender.frames("address").close(BODY)
    with pytest.raises(ProtocolError):
        reader.frames("another").open(frame)
    assert refused(reader, frame) == "forged"
    with pytest.raises(ProtocolError):
        reader.frames("address").open(sender.close(BODY, NOW))


def test_names_do_not_run_into_each_other() -> None:
    frame = seal(namespace="ab").frames("c").close(BODY)
    with pytest.raises(ProtocolError):
        seal(namespace="a").frames("bc").open(frame)


# -- secrets ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "good", ["x" * 16, "é" * 8, b"\x00" * 16, ["x" * 16], (b"x" * 16, "y" * 99)]
)
def test_good_secrets(good: Any) -> None:
    Node("memory://", secret=good)


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        ("", "0 bytes can be guessed"),
        ("hunter2", "7 bytes can be guessed"),
        (b"\x01" * 15, "15 bytes can be guessed"),
        ([], "no secret in it"),
        ((), "no secret in it"),
        (["x" * 16, "short"], "5 bytes can be guessed"),
        (12345678901234567890, "text, bytes, or a list of these, not of type int"),
        ({"x" * 16, "y" * 16}, "not of type set"),
        (bytearray(16), "not of type bytearray"),
        ([None], "not of type NoneType"),
        (["x" * 16, 5], "not of type int"),
        ("\ud800" * 16, "UTF-8"),
    ],
)
def test_bad_secrets_are_refused_and_not_quoted(bad: Any, why: str) -> None:
    with pytest.raises(ConfigurationError, match=why) as caught:
        Node("memory://", secret=bad)
    assert caught.value.__cause__ is None
    assert "hunter2" not in str(caught.value)


async def test_a_secret_is_shown_nowhere(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(0)
    node = Node("memory://", secret=["correct horse battery", b"staple it to the wall"])
    async with node:
        node._membership._rejected(ProtocolError("forged", reason="forged"))  # type: ignore[union-attr]
        said = [repr(node), str(node.status()), str(node.stats), repr(vars(node)), caplog.text]
        assert node._membership is not None
        said.append(repr(vars(node._membership)))
    for text in said:
        assert "horse" not in text
        assert "staple" not in text


async def test_what_is_rejected_does_not_flood_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with Node("memory://", secret="correct horse battery") as node:
        assert node._membership is not None
        for _ in range(1_234):
            node._membership._rejected(ProtocolError("a lie", reason="forged"))
    said = [record.message for record in caplog.records if "rejected" in record.message]
    assert ["give all nodes the same" in text for text in said] == [True] * 4
    for text, count in zip(said[1:], (10, 100, 1_000), strict=True):
        assert f"a lie ({count} for that reason)" in text


def test_its_cost() -> None:
    """An envelope costs microseconds: the bound is far above that, and far below what would be noticed."""
    one, other = seal(), seal("b")
    began = wall.perf_counter()
    for _ in range(1_000):
        other.open(one.close(bytes(1_000), NOW), NOW)
    assert wall.perf_counter() - began < 1.0
