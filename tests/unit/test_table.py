"""What a replica holds, against a plain model, and the digest of it."""

from __future__ import annotations

import dataclasses
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imperfect_dollop.codecs import EntityCodec, KeyCodec
from imperfect_dollop.errors import InvalidEntityError
from imperfect_dollop.replica import table as table_module
from imperfect_dollop.replica.stamp import ABSENT
from imperfect_dollop.replica.table import Table

from .builders import KEYS, ROWS, Row, adds_up, make, stamp, time


@dataclasses.dataclass(frozen=True)
class Price:
    id: Decimal
    cents: int


PRICES = EntityCodec(Price)


def table_of(*rows: Row) -> Table[int, Row]:
    table: Table[int, Row] = Table(KEYS, ROWS)
    for row in rows:
        table.put(row.id, row, stamp(row.version, 0))
    return table


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "bury", "forget", "clear"]),
            st.integers(0, 4),
            st.sampled_from(["x", "y"]),
        ),
        max_size=50,
    )
)
def test_content_stamps_and_digest_follow_every_change(steps: list[tuple[str, int, str]]) -> None:
    replica = make()
    table = replica.table
    live: dict[int, Row] = {}
    stamps: dict[int, Any] = {}
    for number, (what, key, text) in enumerate(steps):
        own = stamp(1, number)
        if what == "put":
            live[key] = Row(key, 1, text)
            stamps[key] = own
            table.put(key, live[key], own)
        elif what == "bury":
            live.pop(key, None)
            stamps[key] = own
            table.bury(key, own)
        elif what == "forget":
            live.pop(key, None)
            stamps.pop(key, None)
            table.forget(key)
        else:
            live.clear()
            stamps.clear()
            table.clear()
        assert table.live == live
        assert {key: table.stamp(key) for key in table.known()} == stamps
        assert table.live.keys() == dict(table.stamped()).keys()
        assert not table.live.keys() & table.dead.keys()
        assert adds_up(replica)


def test_the_digest_is_that_of_the_content_whatever_the_way_to_it() -> None:
    straight = table_of(Row(1, 2, "b"), Row(2))
    winding = table_of(Row(3), Row(2, 7, "old"), Row(1))
    winding.put(1, Row(1, 2, "b"), stamp(2, 5))
    winding.bury(3, stamp(1, 6))
    winding.put(2, Row(2), stamp(1, 7))
    assert winding.root == straight.root
    assert winding.buckets == straight.buckets


def test_the_digest_tells_apart_the_same_content_under_another_key() -> None:
    @dataclasses.dataclass
    class Named:
        name: str

    one: Table[int, Named] = Table(KeyCodec(int), EntityCodec(Named))
    other: Table[int, Named] = Table(KeyCodec(int), EntityCodec(Named))
    one.put(1, Named("x"), ABSENT)
    other.put(2, Named("x"), ABSENT)
    assert one.root != other.root


def test_the_dict_that_reads_look_into_is_replaced_only_where_all_is_dropped() -> None:
    table = table_of(Row(1))
    live, hot = table.live, table.hot
    table.put(2, Row(2), stamp(1, 0))
    table.bury(2, stamp(1, 1))
    assert table.live is live
    hot[1] = live[1]
    table.clear()
    assert not table.live
    assert not table.hot
    assert not table.dead
    assert table.live is not live
    assert table.hot is hot


def test_what_was_held_is_left_for_somebody_to_let_go() -> None:
    table = table_of(*map(Row, range(5)))
    table.bury(4, stamp(1, 1))
    live, dead = table.live, table.dead
    table.clear()
    assert table.dropped[:2] == [live, dead]
    assert sum(map(len, table.dropped[2:])) == 5
    table.clear()
    assert sum(map(len, table.dropped)) == 10


def test_an_entity_without_bytes_changes_nothing() -> None:
    table = table_of(Row(1))
    before = table.root
    with pytest.raises(InvalidEntityError):
        table.put(1, Row(1, 1, object()), stamp(2, 1))  # type: ignore[arg-type]
    assert (table.live, table.root) == ({1: Row(1)}, before)
    assert table.stamp(1) == stamp(1, 0)


def test_tombstones_go_oldest_first_and_never_those_that_are_young() -> None:
    table = table_of()
    for key in range(5):
        table.bury(key, stamp(1, key))
    assert table.expire_tombstones(time(2)) == 2
    assert list(table.dead) == [2, 3, 4]


def test_too_many_tombstones_cost_the_oldest(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(table_module, "MAX_TOMBSTONES", 2)
    table = table_of()
    for key in range(5):
        table.bury(key, stamp(1, key))
    assert list(table.dead) == [3, 4]


def test_a_row_mutated_in_place_leaves_no_trace_in_the_digest_once_replaced() -> None:
    @dataclasses.dataclass
    class Loose:
        text: str

    table: Table[int, Loose] = Table(KeyCodec(int), EntityCodec(Loose))
    table.put(1, Loose("x"), ABSENT)
    table.live[1].text = "mutated"
    table.put(1, Loose("y"), ABSENT)
    other: Table[int, Loose] = Table(KeyCodec(int), EntityCodec(Loose))
    other.put(1, Loose("y"), ABSENT)
    assert (table.root, table.buckets) == (other.root, other.buckets)


def test_restamping_keeps_content_and_digest() -> None:
    table = table_of(Row(1))
    before = table.root
    table.restamp(1, stamp(1, 8))
    assert (table.live, table.root) == ({1: Row(1)}, before)
    assert table.stamp(1) == stamp(1, 8)


def test_sameness_is_of_content_and_absence() -> None:
    table = table_of(Row(1))
    table.bury(2, stamp(1, 1))
    for absent in (2, 3):
        assert table.same(absent, None)
        assert not table.same(absent, Row(absent))
    assert not table.same(1, None)
    assert table.same(1, Row(1))
    assert not table.same(1, Row(1, 2))
    assert not table.same(
        1,
        Row(1, 1, object()),  # type: ignore[arg-type]
    )  # has no bytes


def test_a_row_that_dies_once_more_is_remembered_from_then_on() -> None:
    table = table_of()
    table.bury(1, stamp(1, 10))
    table.bury(2, stamp(1, 20))
    table.bury(1, stamp(1, 30))
    assert list(table.dead) == [2, 1]
    assert table.expire_tombstones(time(25)) == 1
    assert list(table.dead) == [1]


@given(
    st.lists(
        st.tuples(
            st.sampled_from(["put", "put_all", "bury", "forget", "restamp"]),
            st.sampled_from(["1", "1.0", "1.00", "2", "2.0"]),
        ),
        max_size=30,
    )
)
def test_keys_that_are_equal_and_have_other_bytes_are_one(steps: list[tuple[str, str]]) -> None:
    keys: KeyCodec[Decimal] = KeyCodec(Decimal)
    table: Table[Decimal, Price] = Table(keys, PRICES)
    live: dict[Decimal, Price] = {}
    stamps: dict[Decimal, Any] = {}
    for number, (what, text) in enumerate(steps):
        key, own = Decimal(text), stamp(1, number)
        price = Price(key, number)
        if what in ("put", "put_all"):
            if what == "put":
                table.put(key, price, own)
            else:
                content = PRICES.encode(price)
                of_key = table.hashes_of([key])[0]
                table.put_all(
                    [key], [of_key], [of_key % table_module.BUCKETS], [price], [own], [content]
                )
            live[key], stamps[key] = price, own
        elif what == "bury":
            table.bury(key, own)
            live.pop(key, None)
            stamps[key] = own
        elif what == "forget":
            table.forget(key)
            live.pop(key, None)
            stamps.pop(key, None)
        elif key in live:
            table.restamp(key, own)
            stamps[key] = own
        assert table.live == live
        assert {each: table.stamp(each) for each in table.known()} == stamps
        assert table.root == sum(table.buckets) % 2**64
        for each in table.known():
            contents, own_stamps, altered = (
                table.contents([each], 1) if each in live else ([], [], None)
            )
            assert altered is None
            assert (each in live) == bool(contents) == bool(own_stamps)
    for key in list(table.known()):
        table.forget(key)
    assert (table.root, table.buckets) == (0, [0] * table_module.BUCKETS)


@dataclasses.dataclass
class Loose:
    """A row whose dict may hold what was not declared."""

    id: int
    more: dict[str, int]


LOOSE = EntityCodec(Loose)


def test_a_row_that_is_not_as_it_was_declared_is_one_among_others() -> None:
    rows = [Loose(0, {"a": 1}), Loose(1, {2: 1}), Loose(2, {})]  # type: ignore[dict-item]
    table: Table[int, Loose] = Table(KEYS, LOOSE)
    for row in rows:
        table.put(row.id, row, stamp(1, row.id))
    contents = [LOOSE.encode(row) for row in rows]
    stamps = [stamp(1, row.id) for row in rows]
    assert table.contents([0, 1, 2], 10_000) == (contents, stamps, None)
    assert table.contents([1], 10_000) == (contents[1:2], stamps[1:2], None)
    assert table.contents([0, 1, 2], len(contents[0]) + 1) == (contents[:2], stamps[:2], None)
    rows[2].more["changed"] = 1
    assert table.contents([0, 1, 2], 10_000) == ([], [], 2)


def test_two_rows_of_one_key_are_not_put_in_together() -> None:
    table: Table[Decimal, Price] = Table(KeyCodec(Decimal), PRICES)
    rows = [Price(Decimal(text), 1) for text in ("2", "2.00")]
    keys, contents = [row.id for row in rows], [PRICES.encode(row) for row in rows]
    of_keys = table.hashes_of(keys)
    assert of_keys[0] != of_keys[1]
    places = [of_key % table_module.BUCKETS for of_key in of_keys]
    with pytest.raises(InvalidEntityError, match="same key"):
        table.put_all(keys, of_keys, places, rows, [stamp(1, 0)] * 2, contents)
    assert (table.root, list(table.known()), table.live) == (0, [], {})
