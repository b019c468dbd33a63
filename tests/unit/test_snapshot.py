"""A copy from a donor to a joiner while writes go on, donors that are lost, and frames that lie."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.msgpack import decode
from msgspec.structs import replace

from imperfect_dollop.errors import ProtocolError
from imperfect_dollop.replica import snapshot as snapshot_module
from imperfect_dollop.replica.effects import Effect
from imperfect_dollop.replica.messages import (
    Chunk,
    DeadRow,
    Event,
    Events,
    Footer,
    Frame,
    Kind,
    Run,
    Take,
    decode_frame,
    encode,
)
from imperfect_dollop.replica.replica import Replica
from imperfect_dollop.replica.snapshot import Donor, Joiner
from imperfect_dollop.replica.stamp import MAX_DRIFT
from imperfect_dollop.replica.table import BUCKETS, LEAVES

from .builders import (
    FOOTER,
    NOW,
    ROWS,
    Row,
    batch,
    chunk,
    create,
    delete,
    doubts,
    equal,
    give,
    header,
    holds,
    make,
    resyncs,
    stamp,
    time,
    update,
)

SMALL_CHUNK = 200


@pytest.fixture(autouse=True)
def _small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_module, "CHUNK_BYTES", SMALL_CHUNK)


class Pair:
    """A donor with some rows, and a joiner that hears what the donor and a third node say."""

    def __init__(self, rows: int = 40) -> None:
        self.donor = make("donor")
        self.replica = make("joiner")
        self.replica.go_cold()
        self.joiner = Joiner(self.replica)
        self.waiting: list[Event] = []
        for key in range(rows):
            self.write(Kind.CREATE, Row(key, 1, f"row {key}"), heard=False)

    def write(self, kind: Kind, row: Row, *, heard: bool = True) -> None:
        """A write on the donor, whose event the joiner hears, or will not."""
        event = self.wrote(kind, row)
        self.say(event, heard=heard)

    def wrote(self, kind: Kind, row: Row) -> Event:
        write = self.donor.begin_write(row.id)
        entity = None if kind is Kind.DELETE else row
        event, _ = self.donor.wrote(write, kind, row.id, entity, NOW + 1)
        self.donor.end_write(write)
        return event

    def say(self, *events: Event, heard: bool = True) -> None:
        message = self.donor.pack("rows", list(events))
        if heard:
            self.replica.receive(message, NOW + 1)

    def frames(
        self, address: str = "t1", *, donor: Replica[int, Row] | None = None, clean: bool = True
    ) -> Iterator[bytes]:
        buckets = self.joiner.begin(address, (donor or self.donor).origin)
        source = donor or self.donor
        take = Take("joiner", source.origin, "rows", ROWS.fingerprint, address, buckets)
        for frame in Donor(source, take, lambda: clean, self.number).frames():
            if frame is not None:
                yield frame

    def number(self) -> None:
        if self.waiting:
            self.say(*self.waiting)
            self.waiting = []

    def transfer(
        self, between: Callable[[int], None] = lambda number: None, *, clean: bool = True
    ) -> int:
        """Everything from the donor; `between` is called after each frame. Returns their number."""
        number = 0
        for number, frame in enumerate(self.frames(clean=clean), 1):
            self.joiner.take(frame)
            between(number)
        return number

    def finish(self) -> list[Effect] | None:
        return self.joiner.finish(NOW + 5)

    def outcome(self, frames: Iterable[bytes]) -> list[Effect] | None:
        """What comes of these frames; refusing one of them is as good as not finishing."""
        try:
            for frame in frames:
                self.joiner.take(frame)
        except ProtocolError:
            return None
        return self.finish()

    def equal(self) -> bool:
        one, other = self.replica, self.donor
        return not one.cold and equal(one, other)


def test_a_joiner_ends_equal_to_its_donor_stamps_and_tombstones_included() -> None:
    pair = Pair()
    pair.write(Kind.DELETE, Row(3), heard=False)
    assert pair.transfer() > 5
    assert pair.joiner.arrived
    assert pair.finish() == []
    assert pair.equal()
    assert dict(pair.replica.table.stamped()) == dict(pair.donor.table.stamped())
    assert pair.replica.table.dead == pair.donor.table.dead
    assert pair.replica.confirmed == pair.donor.confirmed
    assert pair.joiner.rows == 39


def test_rows_of_one_load_share_a_time_on_the_wire_and_each_keeps_its_version(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshot_module, "CHUNK_BYTES", 1 << 16)
    pair = Pair(rows=0)
    load = pair.donor.begin_load(NOW)
    rows = {key: Row(key, 1 + key % 3, f"row {key}") for key in range(300)}
    for _ in pair.donor.replace(load, rows):
        pass
    pair.write(Kind.UPDATE, Row(7, 5, "changed"), heard=False)
    frames = list(pair.frames())
    chunks = [frame for frame in map(decode_frame, frames) if isinstance(frame, Chunk)]
    assert sum(len(chunk.live) for chunk in chunks) == 300
    assert (
        2 <= sum(len(chunk.runs) for chunk in chunks) <= 4
    )  # before, of, and after the row that was written
    for frame in frames:
        pair.joiner.take(frame)
    assert pair.finish() == []
    assert dict(pair.replica.table.stamped()) == dict(pair.donor.table.stamped())
    assert pair.equal()


def test_a_row_that_went_between_two_chunks_without_a_tombstone_is_left_out(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshot_module, "CHUNK_BYTES", 1)
    monkeypatch.setattr(snapshot_module, "BUCKETS", 1)
    monkeypatch.setattr("imperfect_dollop.replica.table.key_hash", lambda key: 0)
    pair = Pair()
    frames = pair.frames()
    for _ in range(3):
        pair.joiner.take(next(frames))
    for key in range(20, 40):  # as when tombstones are given up
        pair.donor.table.forget(key)
    for frame in frames:
        pair.joiner.take(frame)
    assert pair.joiner.footer is not None
    assert pair.joiner.footer.entities == 20


def test_an_empty_donor_makes_a_warm_and_empty_joiner() -> None:
    pair = Pair(rows=0)
    pair.transfer()
    assert pair.finish() == []
    assert pair.equal()


def test_what_follows_is_a_clean_successor_of_the_copy() -> None:
    pair = Pair()
    pair.transfer()
    pair.finish()
    pair.write(Kind.UPDATE, Row(5, 2, "next"))
    assert pair.replica.counts.doubts == pair.replica.counts.gaps == 0
    assert pair.equal()


# -- writes meanwhile ------------------------------------------------------------------------------


def test_updates_between_chunks_arrive() -> None:
    pair = Pair()

    def between(number: int) -> None:
        pair.write(Kind.UPDATE, Row(number, 2, "changed"))

    pair.transfer(between)
    assert pair.finish() == []
    assert pair.equal()


@pytest.mark.parametrize("kind", [Kind.UPDATE, Kind.CREATE])
def test_what_was_written_after_a_complete_load_of_the_donor_arrives(kind: Kind) -> None:
    # However much later than both it is played.
    pair = Pair()

    def between(number: int) -> None:
        if number == 1:
            load = pair.donor.begin_load(NOW)
            pair.donor.answered(load, NOW)
            for _ in pair.donor.replace(load, dict(pair.donor.table.live)):
                pass
            pair.donor.end_load(load)
            pair.say(pair.donor.confirmation(load))
        # Of some the chunk is there already, of others still to come.
        for key in (number, 39 - number):
            pair.write(kind, Row(key if kind is Kind.UPDATE else 1_000 + key, 2, "changed"))

    pair.transfer(between)
    assert pair.joiner.finish(NOW + 60) == []
    assert pair.equal()


def test_deletes_between_chunks_arrive() -> None:
    pair = Pair()
    pair.transfer(lambda number: pair.write(Kind.DELETE, Row(number)) if number < 7 else None)
    assert pair.finish() == []
    assert pair.equal()


def test_creates_between_chunks_arrive() -> None:
    pair = Pair()
    pair.transfer(lambda number: pair.write(Kind.CREATE, Row(1000 + number)))
    assert pair.finish() == []
    assert pair.equal()


def test_rows_deleted_and_created_again_between_chunks_arrive() -> None:
    pair = Pair()

    def between(number: int) -> None:
        pair.write(Kind.DELETE, Row(number))
        pair.write(Kind.CREATE, Row(number, 1, "again"))

    pair.transfer(between)
    assert pair.finish() == []
    assert pair.equal()


def test_writes_of_a_third_node_arrive_whoever_hears_them_first() -> None:
    pair = Pair()
    spoken: list[Event] = []

    def between(number: int) -> None:
        spoken.append(create(Row(2000 + number), number, origin="third"))
        message = batch(spoken[-1], first=len(spoken), origin="third")
        pair.replica.receive(message, NOW + 1)
        if number % 2:  # the donor hears two at a time, later
            pair.donor.receive(batch(*spoken, origin="third"), NOW + 1)

    pair.transfer(between)
    assert pair.joiner.arrived
    assert pair.finish() == []
    give(pair.donor, *spoken[pair.donor.progress.vector["third"] :], origin="third")
    assert pair.equal()


def test_the_copy_is_not_complete_before_the_donors_events_have_come() -> None:
    pair = Pair()
    third = batch(create(Row(99), 1, origin="third"), origin="third")

    def between(number: int) -> None:
        if number == 3:
            pair.donor.receive(third, NOW)

    pair.transfer(between)
    assert not pair.joiner.arrived
    pair.replica.receive(third, NOW)
    assert pair.joiner.arrived


def test_a_bucket_of_several_chunks_keeps_what_was_written_in_between(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshot_module, "CHUNK_BYTES", 1)
    pair = Pair()
    # Two rows of one bucket: the first is changed after its chunk, before that of the second.
    bucket = pair.donor.table.bucket(0)
    other = next(key for key in range(40, 100_000) if pair.donor.table.bucket(key) == bucket)
    pair.write(Kind.CREATE, Row(other), heard=False)
    sent = False

    def between(number: int) -> None:
        nonlocal sent
        if not sent and 0 in pair.replica.table.live:
            assert other not in pair.replica.table.live
            sent = True
            pair.write(Kind.UPDATE, Row(0, 2, "changed"))

    pair.transfer(between)
    assert sent
    assert pair.finish() is not None
    assert pair.equal()


def test_writes_that_wait_in_the_donors_outbox_do_not_spoil_the_copy() -> None:
    pair = Pair()

    def between(number: int) -> None:
        if number == 4:
            pair.waiting.append(pair.wrote(Kind.UPDATE, Row(2, 2, "changed")))
            pair.waiting.append(pair.wrote(Kind.CREATE, Row(3000)))

    pair.transfer(between)
    assert pair.finish() == []
    assert pair.equal()


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.lists(
            st.tuples(st.sampled_from(["put", "delete"]), st.integers(0, 60), st.booleans()),
            max_size=4,
        ),
        max_size=12,
    )
)
def test_whatever_is_written_meanwhile_the_joiner_ends_equal(
    written: list[list[tuple[str, int, bool]]],
) -> None:
    pair = Pair()
    versions = dict.fromkeys(range(40), 1)
    steps = iter(written)
    late: list[Events] = []

    def between(number: int) -> None:
        for what, key, at_once in next(steps, []):
            held = pair.donor.table.live.get(key)
            versions[key] = versions.get(key, 0) + 1
            row = Row(key, versions[key], "written")
            if what == "put":
                kind = Kind.CREATE if held is None else Kind.UPDATE
            elif held is None:
                continue
            else:
                kind = Kind.DELETE
            late.append(pair.donor.pack("rows", [pair.wrote(kind, row)]))
            if at_once:
                while late:
                    pair.replica.receive(late.pop(0), NOW + 1)

    pair.transfer(between)
    for message in late:
        pair.replica.receive(message, NOW + 1)
    assert pair.joiner.arrived
    assert pair.finish() == []
    assert pair.equal()


# -- donors that are lost --------------------------------------------------------------------------


def copy_of(replica: Replica[int, Row], origin: str) -> Replica[int, Row]:
    """Another node that has taken in everything that `replica` has."""
    twin = make(origin)
    twin.progress.vector = {**replica.progress.vector, replica.origin: replica.sequence}
    for key, row in replica.table.live.items():
        twin.table.put(key, row, replica.table.stamp(key))
    for key, grave in replica.table.dead.items():
        twin.table.bury(key, grave)
    return twin


def test_a_copy_without_what_was_written_here_before_is_not_taken() -> None:
    # Written, sent, everything dropped; and asked before the donor has heard of the write.
    pair = Pair()
    pair.replica.skip(1)
    pair.joiner = Joiner(pair.replica)
    pair.transfer()
    assert pair.finish() is None
    assert pair.replica.cold
    pair.donor.progress.saw("joiner", 1)
    pair.joiner = Joiner(pair.replica)
    pair.transfer()
    assert pair.finish() == []


def test_a_copy_that_is_not_vouched_for_is_for_those_who_have_shown_nothing_yet() -> None:
    pair = Pair()
    pair.transfer(clean=False)
    assert resyncs(pair.finish() or [])
    pair.replica.cleared()
    pair.donor.holding.confirmed = time(200)
    pair.joiner = Joiner(pair.replica)
    pair.transfer(clean=False)
    assert pair.finish() is None
    assert pair.replica.cold


def test_a_copy_from_before_everything_was_dropped_is_not_taken() -> None:
    pair = Pair()
    pair.transfer()
    assert pair.finish() == []
    pair.donor.holding.confirmed = time(0)
    pair.replica.cleared()
    pair.joiner = Joiner(pair.replica)
    with pytest.raises(ProtocolError, match="before everything was dropped"):
        pair.transfer()


def test_a_donor_that_drops_what_it_holds_before_it_begins_gives_nothing() -> None:
    donor = Pair().donor
    take = Take("joiner", donor.origin, "rows", ROWS.fingerprint, "t1", [0, 1])
    frames = Donor(donor, take, lambda: True).frames()
    donor.go_cold()
    assert list(frames) == []


@pytest.mark.parametrize("lost_after", range(1, 10))
def test_another_donor_goes_on_with_the_buckets_that_are_missing(lost_after: int) -> None:
    pair = Pair()
    second = copy_of(pair.donor, "second")
    for number, frame in enumerate(pair.frames("t1"), 1):
        pair.joiner.take(frame)
        if number == lost_after:
            break
    left = len(pair.joiner.begin("t2"))
    assert left < BUCKETS or lost_after == 1
    pair.donor.table.clear()  # it is gone, and nothing may come from it any more
    for frame in pair.frames("t3", donor=second):
        pair.joiner.take(frame)
    pair.donor = second
    assert pair.finish() == []
    assert pair.equal()


@pytest.mark.parametrize("lost_after", range(1, 10))
def test_what_was_written_between_two_donors_arrives(lost_after: int) -> None:
    pair = Pair()
    for number, frame in enumerate(pair.frames("t1"), 1):
        pair.joiner.take(frame)
        if number == lost_after:
            break
    pair.write(Kind.UPDATE, Row(1, 2, "changed"))
    pair.write(Kind.DELETE, Row(2))
    for frame in pair.frames("t2"):
        pair.joiner.take(frame)
    assert pair.finish() == []
    assert pair.equal()


@pytest.mark.parametrize("lost_after", range(1, 15))
def test_a_donor_lost_within_a_large_bucket_costs_that_bucket_only(
    lost_after: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Four buckets of ten rows, three rows to a chunk: chunks begin with the end of a bucket.
    monkeypatch.setattr(snapshot_module, "CHUNK_BYTES", 100)
    monkeypatch.setattr(snapshot_module, "BUCKETS", 4)
    monkeypatch.setattr("imperfect_dollop.replica.table.key_hash", lambda key: decode(key) % 4)
    pair = Pair()
    for number, frame in enumerate(pair.frames("t1"), 1):
        pair.joiner.take(frame)
        if number == lost_after:
            break
    for frame in pair.frames("t2"):
        pair.joiner.take(frame)
    assert pair.finish() == []
    assert pair.replica.table.live == pair.donor.table.live


def test_the_next_donor_may_know_less_and_the_buffer_tells_the_rest() -> None:
    pair = Pair()
    behind = copy_of(pair.donor, "behind")
    pair.write(Kind.UPDATE, Row(1, 2, "changed"))
    for number, frame in enumerate(pair.frames("t1"), 1):
        pair.joiner.take(frame)
        if number == 4:
            break
    for frame in pair.frames("t2", donor=behind):
        pair.joiner.take(frame)
    assert pair.finish() == []
    assert pair.equal()


def lost_in_the_middle(pair: Pair) -> None:
    """Of two donors the first is lost with a tombstone given, which the second has confirmed since, and built upon."""
    pair.write(Kind.DELETE, Row(3))
    frames = pair.frames("t1")
    while 3 not in pair.replica.table.dead:
        pair.joiner.take(next(frames))
    load = pair.donor.begin_load(NOW + 2)
    pair.donor.answered(load, NOW + 2)
    for _ in pair.donor.replace(load, dict(pair.donor.table.live)):
        pass
    pair.donor.end_load(load)
    pair.say(pair.donor.confirmation(load))
    pair.write(Kind.CREATE, Row(3, 1, "again"))


def test_a_copy_of_two_donors_of_which_a_key_is_in_doubt_is_compared() -> None:
    # Two copies agree in rows, and may differ in stamps of what is absent: an honest doubt, and no broken copy.
    pair = Pair()
    lost_in_the_middle(pair)
    for frame in pair.frames("t2"):
        pair.joiner.take(frame)
    effects = pair.finish() or []
    assert resyncs(effects)
    assert doubts(effects) == {3}
    assert 3 not in pair.replica.table.live  # until it has been read
    assert not pair.replica.agreement.met("donor")


def test_a_copy_of_which_a_key_is_in_doubt_is_none_for_who_has_shown_later_rows() -> None:
    pair = Pair()
    pair.transfer()
    assert pair.finish() == []
    pair.replica.cleared()
    pair.donor.holding.confirmed = time(200)
    pair.joiner = Joiner(pair.replica)
    lost_in_the_middle(pair)
    for frame in pair.frames("t2"):
        pair.joiner.take(frame)
    assert pair.finish() is None
    assert pair.replica.cold


# -- donors that cannot be believed ----------------------------------------------------------------


def test_a_digest_that_does_not_add_up_leaves_the_joiner_cold() -> None:
    pair = Pair()
    *frames, last = pair.frames()
    footer = decode_frame(last)
    assert isinstance(footer, Footer)
    for frame in frames:
        pair.joiner.take(frame)
    pair.joiner.take(encode(Footer(footer.vector, footer.digest + 1, footer.entities, True)))
    assert pair.finish() is None
    assert pair.replica.cold
    pair.joiner = Joiner(pair.replica)  # and the next attempt begins with nothing
    assert holds(pair.replica)
    pair.transfer()
    assert pair.finish() == []
    assert pair.equal()


def test_a_number_of_rows_that_does_not_add_up_leaves_the_joiner_cold() -> None:
    pair = Pair()
    *frames, last = pair.frames()
    footer = decode_frame(last)
    assert isinstance(footer, Footer)
    for frame in frames:
        pair.joiner.take(frame)
    pair.joiner.take(encode(Footer(footer.vector, footer.digest, footer.entities + 1, True)))
    assert pair.finish() is None
    assert pair.replica.cold


def test_a_copy_that_is_not_finished_is_none() -> None:
    pair = Pair()
    for frame in list(pair.frames())[:-1]:
        pair.joiner.take(frame)
    assert not pair.joiner.arrived
    assert pair.finish() is None
    assert pair.replica.cold


def test_a_donor_that_goes_cold_midway_gives_no_copy() -> None:
    # An empty table would add up: to "absent" for every row.
    pair = Pair()
    frames = pair.frames()
    pair.joiner.take(next(frames))
    pair.donor.cleared()
    assert pair.outcome(frames) is None
    assert pair.replica.cold


def test_a_clear_during_the_transfer_leaves_the_joiner_cold() -> None:
    pair = Pair()
    clear = pair.donor.announce(Kind.CLEAR, None, NOW + 1)
    frames = list(pair.frames())
    for number, frame in enumerate(frames):
        if number == 3:
            pair.say(clear)
        pair.joiner.take(frame)
    assert pair.finish() is None
    assert pair.replica.cold


def test_a_clear_that_the_donor_has_obeyed_already_leaves_the_joiner_cold() -> None:
    pair = Pair()
    third = batch(make("third").announce(Kind.CLEAR, None, NOW), origin="third")
    pair.replica.receive(third, NOW + 1)
    frames = pair.frames()
    pair.joiner.take(next(frames))
    pair.donor.receive(third, NOW + 1)
    assert pair.outcome(frames) is None
    assert pair.replica.cold


def test_a_copy_that_its_donor_does_not_vouch_for_is_compared_with_the_source() -> None:
    pair = Pair()
    assert resyncs(pair.outcome(pair.frames(clean=False)) or ())
    assert pair.equal()


def test_a_donor_in_doubt_of_what_it_has_told_gives_a_copy_that_is_compared() -> None:
    # The joiner has no reason to doubt the event, and shows what the donor will show when it has asked.
    pair = Pair()

    def between(_: int) -> None:
        if 3 in pair.replica.table.live and 3 not in pair.donor.disputes:
            write = pair.donor.begin_write(3)
            pair.donor.window.touch(3)  # somebody else's event, of what is held
            event, effects = pair.donor.wrote(write, Kind.UPDATE, 3, Row(3, 2, "next"), NOW + 1)
            pair.donor.end_write(write)
            assert doubts(effects) == {3}
            pair.say(event)

    pair.transfer(between, clean=False)
    assert resyncs(pair.finish() or ())
    assert pair.replica.table.live[3] == Row(3, 2, "next")
    assert pair.donor.table.live[3] == Row(3, 1, "row 3")
    assert not pair.replica.agreement.met("donor")  # their copies were not equal


def test_a_copy_of_which_events_are_missing_is_not_taken_from_a_donor_in_doubt() -> None:
    pair = Pair()
    frames = list(pair.frames(clean=False))
    footer = replace(decode_frame(frames[-1]), vector={"donor": 999}, digest=1)
    assert pair.outcome([*frames[:-1], encode(footer)]) is None


def test_events_lost_during_the_transfer_are_a_resync() -> None:
    pair = Pair()
    frames = list(pair.frames())
    pair.replica.lost("reconnected")
    for frame in frames:
        pair.joiner.take(frame)
    effects = pair.finish()
    assert effects is not None
    assert resyncs(effects)


def test_stamps_of_a_copy_are_taken_note_of() -> None:
    pair = Pair(rows=0)
    give(pair.donor, create(Row(1), 40, origin="third"), second=0, origin="third")
    pair.transfer()
    assert pair.finish() == []
    # What is written next must be later than what it replaces.
    write = pair.replica.begin_write(1)
    event, _ = pair.replica.wrote(write, Kind.UPDATE, 1, Row(1, 2), NOW)
    assert event.stamp.time > time(40)


@pytest.mark.parametrize("what", ["row", "tombstone", "confirmation"])
def test_times_of_a_copy_beyond_the_drift_bound_are_not_believed(what: str) -> None:
    pair = Pair(rows=0)
    far = time(5 + MAX_DRIFT + 100)
    if what == "row":
        pair.donor.table.put(1, Row(1), stamp(1, 5 + MAX_DRIFT + 100))
    elif what == "tombstone":
        pair.donor.table.bury(1, stamp(1, 5 + MAX_DRIFT + 100))
    else:
        pair.donor.holding.confirmed = far
    effects = pair.outcome(pair.frames())
    assert effects is None or resyncs(effects)
    assert pair.replica.confirmed < far
    assert pair.replica.table.stamp(1).time < far


# -- hostile frames --------------------------------------------------------------------------------


BUCKET = make().table.bucket(1)


@pytest.mark.parametrize(
    "frames",
    [
        [chunk(1)],
        [FOOTER],
        [header(address="elsewhere")],
        [header(fingerprint="theirs")],
        [header(), header()],
        [header(), FOOTER],
        [header(), chunk(*range(BUCKETS)), FOOTER, chunk(1)],
        [header(), chunk(*range(BUCKETS)), FOOTER, FOOTER],
        [header(), chunk()],
        [header(), chunk(BUCKETS)],
        [header(), chunk(1), chunk(1)],
        [header(), chunk((BUCKET + 1) % BUCKETS, live=[Row(1)])],
        [header(), chunk((BUCKET + 1) % BUCKETS, dead=[1])],
        [header(), chunk(BUCKET, live=[Row(1)], runs=[Run(1, 1, 1)])],
        [header(), chunk(BUCKET, live=[Row(1)], runs=[Run(1, 1, 2**63 - 1)])],
        [header(), chunk(BUCKET, live=[Row(1)], runs=[])],
        [header(), chunk(BUCKET, live=[Row(1)], runs=[Run(2, 1, 0)])],
        [header(), chunk(BUCKET, live=[Row(1)], runs=[Run(1, 1, 0), Run(1, 1, 0)])],
        [header(), chunk(BUCKET, live=[Row(1)], runs=[Run(0, 1, 0), Run(1, 1, 0)])],
        [header(), chunk(BUCKET, runs=[Run(1, 1, 0)])],
        [header(), chunk(BUCKET, live=[b"\xc1"])],
        [header(), chunk(BUCKET, dead=[DeadRow(b"\xc1", 1, 1, 0)])],
    ],
    ids=[
        "chunk first",
        "footer first",
        "another transfer",
        "another schema",
        "second header",
        "footer without buckets",
        "chunk after the footer",
        "second footer",
        "chunk of nothing",
        "bucket out of range",
        "bucket twice",
        "row of another bucket",
        "tombstone of another bucket",
        "unknown origin",
        "absurd origin",
        "row without a time",
        "time of a row that is not there",
        "two times of a row",
        "time of no row",
        "time without rows",
        "garbage row",
        "garbage tombstone",
    ],
)
def test_a_frame_that_is_out_of_order_or_does_not_fit_is_refused(frames: list[Frame]) -> None:
    pair = Pair()
    pair.joiner.begin("t1")
    *before, last = frames
    for frame in before:
        pair.joiner.take(encode(frame))
    rows = dict(pair.replica.table.live)
    with pytest.raises(ProtocolError):
        pair.joiner.take(encode(last))
    assert pair.replica.table.live == rows
    assert pair.replica.cold


def test_a_refused_chunk_leaves_nothing_behind_for_the_next_donor() -> None:
    pair = Pair()
    pair.joiner.begin("t0")
    pair.joiner.take(encode(header(address="t0")))
    planted = Row(5000)
    bucket = pair.replica.table.bucket(5000)
    with pytest.raises(ProtocolError):
        pair.joiner.take(encode(chunk(bucket, live=[planted, b"\xc1"])))
    pair.transfer()
    assert pair.finish() == []
    assert pair.equal()


def test_a_chunk_that_never_comes_to_its_end_is_missing_at_the_footer() -> None:
    pair = Pair()
    pair.joiner.begin("t1")
    pair.joiner.take(encode(header()))
    pair.joiner.take(encode(Chunk([0], True, {}, [], [], [], [])))
    pair.joiner.take(encode(chunk(*range(1, BUCKETS))))
    with pytest.raises(ProtocolError, match="1 buckets"):
        pair.joiner.take(encode(FOOTER))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_truncated_and_garbled_frames_raise_nothing_but_protocol_errors(
    data: st.DataObject,
) -> None:
    pair = Pair()
    frames = list(pair.frames())
    which = data.draw(st.integers(0, len(frames) - 1))
    frame = bytearray(frames[which])
    at = data.draw(st.integers(0, len(frame) - 1))
    if data.draw(st.booleans()):
        del frame[at:]
    else:
        frame[at] ^= data.draw(st.integers(1, 255))
    frames[which] = bytes(frame)
    if pair.outcome(frames) is None:
        assert pair.replica.cold
    else:
        assert pair.replica.table.live == pair.donor.table.live


def test_a_donor_asked_for_buckets_that_there_are_not_sends_no_rows() -> None:
    donor = make("donor")
    give(donor, create(Row(1), 1), update(Row(1, 2), 2, stamp(1, 1)), delete(2, 1, 3, stamp(1, 1)))
    take = Take("joiner", "donor", "rows", ROWS.fingerprint, "t1", [BUCKETS + 5])
    for frame in Donor(donor, take, lambda: True).frames():
        decoded = decode_frame(frame) if frame is not None else None
        assert not isinstance(decoded, Chunk) or not (decoded.live or decoded.dead)


def test_what_an_attempt_that_failed_has_missed_is_not_waited_for() -> None:
    pair = Pair(rows=3)
    frames = list(pair.frames())
    for frame in frames[:-1]:
        pair.joiner.take(frame)
    pair.write(Kind.CREATE, Row(50, 1, "not heard"), heard=False)
    pair.write(Kind.CREATE, Row(51, 1, "heard"))
    footer = decode_frame(frames[-1])
    assert isinstance(footer, Footer)
    pair.joiner.take(encode(Footer({"donor": 5}, 1, footer.entities, footer.clean)))
    assert pair.finish() is None
    pair.joiner = Joiner(pair.replica)
    pair.transfer()
    assert pair.finish() == []
    assert pair.replica.progress.complete
    assert pair.equal()


def test_a_tombstone_of_a_complete_bucket_outlives_the_donor(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(snapshot_module, "CHUNK_BYTES", 60)
    monkeypatch.setattr("imperfect_dollop.replica.table.key_hash", lambda key: decode(key) % 2)
    pair = Pair(rows=0)
    for key in range(1, 21, 2):
        pair.write(Kind.CREATE, Row(key), heard=False)
    pair.donor.table.bury(100, stamp(1, 1))  # all that is in the first bucket
    frames = iter(pair.frames("t1"))
    for frame in (next(frames), next(frames)):
        pair.joiner.take(frame)
    chunk = decode_frame(frame)
    assert isinstance(chunk, Chunk)
    assert (chunk.buckets, chunk.more, len(chunk.dead)) == ([0, 1], True, 1)
    assert 0 not in pair.joiner.begin("t2")
    assert pair.replica.table.dead == {100: stamp(1, 1)}
    assert not pair.replica.table.live


def test_a_bucket_that_is_named_twice_is_sent_once() -> None:
    donor = make("donor")
    give(donor, create(Row(1), 1))
    for digests in (b"", bytes(16 * LEAVES)):
        take = Take(
            "joiner", "donor", "rows", ROWS.fingerprint, "t1", [BUCKET] * 1_000, digests=digests
        )
        decoded = [
            decode_frame(frame) for frame in Donor(donor, take, lambda: True).frames() if frame
        ]
        assert sum(len(frame.live) for frame in decoded if isinstance(frame, Chunk)) == 1


def test_joiner_read_that_began_before_the_copy_does_not_replace_a_row_of_the_copy() -> None:
    pair = Pair()
    load = pair.replica.begin_load(NOW)
    pair.write(Kind.UPDATE, Row(1, 2, "newer"))
    pair.transfer()
    assert pair.finish() == []
    assert pair.replica.loaded(load, 1, Row(1)) == (False, None)
    assert pair.replica.table.live[1] == Row(1, 2, "newer")
