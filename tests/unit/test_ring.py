"""The events that a node keeps to send them again."""

from __future__ import annotations

import pytest

from imperfect_dollop.replica import buffer as buffer_module
from imperfect_dollop.replica import ring as ring_module
from imperfect_dollop.replica.buffer import EVENT_BYTES, Buffer
from imperfect_dollop.replica.messages import Event, Events, Kind
from imperfect_dollop.replica.ring import Ring
from imperfect_dollop.replica.stamp import ABSENT

from .builders import NOW, Row, batch, create, found, stamp


def events(first: int, count: int, text: str = "") -> Events:
    return batch(*(create(Row(n, 1, text), n) for n in range(first, first + count)), first=first)


def ring(*batches: Events) -> Ring:
    made = Ring()
    for one in batches:
        made.add(one)
    return made


def test_an_empty_ring_keeps_what_is_to_come() -> None:
    assert Ring().kept(0) == 1
    assert Ring().kept(7) == 8
    assert Ring().between(1, 100) == []


def test_the_batches_that_have_any_of_the_numbers() -> None:
    one, two, three = events(1, 3), events(4, 1), events(5, 10)
    kept = ring(one, two, three)
    assert kept.kept(14) == 1
    assert kept.between(1, 3) == [one]
    assert kept.between(3, 4) == [one, two]
    assert kept.between(4, 4) == [two]
    assert kept.between(14, 2**62) == [three]
    assert kept.between(15, 20) == []
    assert kept.between(9, 5) == [three]  # no range at all: whoever asks so may have it
    assert kept.between(0, 2**62) == [one, two, three]


@pytest.mark.parametrize("limit", ["RING_EVENTS", "RING_BYTES"])
def test_the_oldest_go_first_and_the_last_stays(
    limit: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = create(Row(1, 1, "x" * 100), 1)
    size = EVENT_BYTES + len(one.key) + len(one.content or b"")
    monkeypatch.setattr(ring_module, limit, 10 if limit == "RING_EVENTS" else 10 * size)
    kept = ring(*(events(n, 3, "x" * 100) for n in range(1, 100, 3)))
    assert kept.kept(99) == 91  # nine events, and with three more there would be twelve
    assert kept.between(90, 90) == []
    large = events(100, 50, "x" * 100)
    kept.add(large)
    assert kept.kept(149) == 100
    assert kept.between(1, 149) == [large]


@pytest.mark.parametrize(
    "large",
    [
        Event(Kind.DELETE, bytes(8_000), None, stamp(1, 1), ABSENT),
        found(1, Row(1), stamp(1, 1), ABSENT, [stamp(1, 1, "x" * 256)] * 16),
    ],
    ids=["key", "answers"],
)
def test_whatever_makes_events_large_is_counted(
    large: Event, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring_module, "RING_BYTES", 50_000)
    monkeypatch.setattr(buffer_module, "MAX_BUFFERED", 50_000)
    kept, buffer = Ring(), Buffer()
    for number in range(1, 101):
        kept.add(batch(large, first=number))
        buffer.add(batch(large, first=number), NOW)
    assert len(kept.between(1, 100)) < 10
    assert len(buffer.events) < 10
    assert buffer.lost


def test_numbers_that_were_given_up_end_what_is_kept() -> None:
    kept = ring(events(1, 3), events(4, 2))
    kept.add(events(8, 2))  # 6 and 7 were never sent
    assert kept.kept(9) == 8
    assert kept.between(1, 7) == []


def test_a_ring_that_began_anew_counts_anew(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ring_module, "RING_EVENTS", 4)
    kept = ring(events(1, 4))
    kept.add(events(10, 2))
    kept.add(events(12, 2))
    assert kept.kept(13) == 10
    kept.clear()
    assert kept.kept(13) == 14
