"""A copy compared with a sibling's: what is taken over, what is read again, what stands, and frames that lie."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.msgpack import decode

from imperfect_dollop.errors import ProtocolError
from imperfect_dollop.replica import snapshot as snapshot_module
from imperfect_dollop.replica.comparison import Comparison
from imperfect_dollop.replica.effects import Effect
from imperfect_dollop.replica.messages import (
    Chunk,
    DeadRow,
    Differ,
    Events,
    Footer,
    Frame,
    Header,
    Phase,
    Run,
    Take,
    decode_frame,
    encode,
)
from imperfect_dollop.replica.replica import Replica
from imperfect_dollop.replica.snapshot import Donor, Joiner
from imperfect_dollop.replica.stamp import MAX_DRIFT, Stamp
from imperfect_dollop.replica.table import BUCKETS

from .builders import (
    FOOTER,
    NOW,
    ROWS,
    Row,
    adds_up,
    batch,
    chunk,
    create,
    delete,
    doubts,
    equal,
    give,
    header,
    holds,
    load_all,
    make,
    reread,
    resyncs,
    stamp,
    state,
    time,
    update,
)

ONE, TWO = Row(1, 1, "first"), Row(1, 2, "second")
S1, S2 = stamp(1, 1), stamp(2, 2)


@pytest.fixture(autouse=True, params=[32, -1], ids=["buckets", "leaves"])
def many_rows(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways for each: at once, and by the leaves of the buckets that differ, as where these have many rows."""
    monkeypatch.setattr(snapshot_module, "MANY_ROWS", request.param)


class Pair:
    """A replica `here` that has missed some of what a third node, ``b``, has sent; its sibling `there` has not."""

    def __init__(self, rows: int = 0) -> None:
        self.here = make("here")
        self.there = make("there")
        self.number = 0
        for key in range(100, 100 + rows):
            self.send(create(Row(key, 1, f"row {key}"), 1))

    def send(
        self, *events: object, here: bool = True, there: bool = True, second: float = 100.0
    ) -> Events:
        message = batch(*events, first=self.number + 1)  # type: ignore[arg-type]
        self.number += len(events)
        for replica, hears in ((self.here, here), (self.there, there)):
            if hears:
                replica.receive(message, NOW + second)
        return message

    def frames(
        self, comparison: Comparison[int, Row], clean: Callable[[], bool] = lambda: True
    ) -> list[bytes]:
        take = Take("here", "there", "rows", ROWS.fingerprint, "t1", [], digests=comparison.digests)
        donor = Donor(self.there, take, clean)
        return list(filter(None, donor.frames()))

    def leaves(
        self, comparison: Comparison[int, Row], clean: Callable[[], bool] = lambda: True
    ) -> list[bytes]:
        comparison.narrow("t2")
        digests = b"".join(map(comparison.leaves, comparison.differ))
        take = Take(
            "here", "there", "rows", ROWS.fingerprint, "t2", comparison.differ, digests=digests
        )
        return list(filter(None, Donor(self.there, take, clean).frames()))

    def compare(
        self,
        between: Callable[[], object] = lambda: None,
        *,
        clean: Callable[[], bool] = lambda: True,
        second: float = 200.0,
        after_the_first: Callable[[], object] = lambda: None,
    ) -> list[Effect] | None:
        """From beginning to end; `between` is what happens before the last frame."""
        comparison: Comparison[int, Row] = Comparison(self.here, "t1", NOW + second, "there")
        try:
            *frames, footer = self.frames(comparison, clean)
            for frame in frames:
                take(comparison, frame)
            if comparison.differ:
                take(comparison, footer)
                after_the_first()
                *frames, footer = self.leaves(comparison, clean)
                for frame in frames:
                    take(comparison, frame)
            between()
            comparison.take(footer)
            return comparison.finish(NOW + second)
        finally:
            comparison.close()

    @property
    def equal(self) -> bool:
        return equal(self.here, self.there)


def take(comparison: Comparison[int, Row], frame: bytes) -> None:
    comparison.take(frame)


# -- what is right ---------------------------------------------------------------------------------


def test_what_is_newer_there_is_taken_over_with_its_stamp() -> None:
    pair = Pair(rows=20)
    pair.send(create(ONE, 1))
    pair.send(update(TWO, 2, S1), create(Row(2), 3), delete(105, 1, 4, stamp(1, 1)), here=False)
    assert pair.compare() == []
    assert pair.equal
    assert pair.here.table.stamp(1) == S2
    assert pair.here.table.dead == pair.there.table.dead
    assert pair.here.counts.mended == 3


def test_what_is_missed_between_the_two_answers_is_not_taken_for_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # The bucket was the same when buckets were compared, and its leaves are not.
    monkeypatch.setattr(snapshot_module, "MANY_ROWS", -1)
    pair = Pair(rows=20)
    pair.send(create(ONE, 1), here=False)
    lost = update(Row(105, 2, "new"), 3, stamp(1, 1))
    effects = pair.compare(after_the_first=lambda: pair.send(lost, here=False))
    assert effects == []
    assert pair.here.table.live[1] == ONE
    assert pair.here.table.live[105] != pair.there.table.live[105]
    assert pair.here.progress.last("b") == pair.number - 1  # so it is asked for
    assert not pair.here.progress.complete or pair.here.progress.last("b") < pair.number


def test_only_the_leaves_that_differ_are_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("imperfect_dollop.replica.table.key_hash", lambda key: decode(key) * 1_024)
    monkeypatch.setattr(snapshot_module, "MANY_ROWS", 32)
    pair = Pair(rows=64)  # all in one bucket, each in a leaf of its own
    pair.send(
        update(Row(110, 2, "new"), 3, stamp(1, 1)), delete(120, 1, 4, stamp(1, 1)), here=False
    )
    comparison: Comparison[int, Row] = Comparison(pair.here, "t1", NOW)
    first = [decode_frame(frame) for frame in pair.frames(comparison)]
    assert [type(frame) for frame in first] == [Header, Differ, Footer]
    for frame in pair.frames(comparison):
        comparison.take(frame)
    second = [decode_frame(frame) for frame in pair.leaves(comparison)]
    comparison.close()
    rows = [frame for frame in second if isinstance(frame, Chunk)]
    assert [(len(one.live), len(one.dead)) for one in rows] == [(1, 1)]
    assert pair.compare() == []
    assert pair.here.table.live == pair.there.table.live


@pytest.mark.parametrize(
    "frames",
    [
        [Differ([1])],
        [Header("t1", ROWS.fingerprint, {}, 0, [5]), Differ([1])],
        [Header("t1", ROWS.fingerprint, {}, 0, []), Differ([])],
        [Header("t1", ROWS.fingerprint, {}, 0, []), Differ([1, 1])],
        [Header("t1", ROWS.fingerprint, {}, 0, []), Differ([BUCKETS])],
        [Header("t1", ROWS.fingerprint, {}, 0, []), Differ([1]), Differ([2])],
    ],
)
def test_buckets_that_are_named_out_of_turn(frames: list[Frame]) -> None:
    comparison: Comparison[int, Row] = Comparison(make("here"), "t1", NOW)
    *before, last = map(encode, frames)
    for frame in before:
        comparison.take(frame)
    with pytest.raises(ProtocolError):
        comparison.take(last)
    comparison.close()


def test_the_second_answer_names_no_buckets() -> None:
    comparison: Comparison[int, Row] = Comparison(make("here"), "t1", NOW)
    for frame in (Header("t1", ROWS.fingerprint, {}, 0, []), Differ([1]), Footer({}, 0, 0, True)):
        comparison.take(encode(frame))
    comparison.narrow("t2")
    comparison.take(encode(Header("t2", ROWS.fingerprint, {}, 0, [])))
    with pytest.raises(ProtocolError, match="where rows are due"):
        comparison.take(encode(Differ([1])))
    comparison.close()


def test_equal_copies_send_no_row_at_all() -> None:
    pair = Pair(rows=20)
    comparison: Comparison[int, Row] = Comparison(pair.here, "t1", NOW)
    assert [type(decode_frame(frame)) for frame in pair.frames(comparison)] == [Header, Footer]
    comparison.close()
    assert pair.compare() == []


def test_only_buckets_that_differ_are_sent() -> None:
    pair = Pair(rows=2_000)
    pair.send(*(update(Row(key, 2, "new"), 5, stamp(1, 1)) for key in (100, 900, 1800)), here=False)
    comparison: Comparison[int, Row] = Comparison(pair.here, "t1", NOW + 200)
    chunks = [
        frame for frame in map(decode_frame, pair.frames(comparison)) if isinstance(frame, Chunk)
    ]
    comparison.close()
    assert sum(len(chunk.live) for chunk in chunks) < 30
    assert pair.compare() == []
    assert pair.equal


def test_what_is_older_there_stands_and_is_read_again() -> None:
    pair = Pair()
    pair.send(create(ONE, 1))
    pair.here.receive(batch(update(TWO, 2, S1, "c"), origin="c"), NOW + 100)
    effects = pair.compare()
    assert doubts(effects or ()) == {1}
    assert holds(pair.here, TWO)


def test_a_donor_that_has_not_seen_all_that_was_seen_here_is_not_believed_on_what_is_newer() -> (
    None
):
    pair = Pair()
    pair.send(create(ONE, 1))
    pair.send(update(TWO, 2, S1), here=False)
    pair.here.receive(batch(create(Row(7), 1, origin="c"), origin="c"), NOW + 100)
    effects = pair.compare()
    assert doubts(effects or ()) == {1, 7}
    assert holds(pair.here, ONE, Row(7))


def test_a_write_of_this_node_that_the_donor_has_not_heard_of_counts_as_well() -> None:
    pair = Pair()
    pair.send(create(ONE, 1))
    pair.send(update(TWO, 2, S1), here=False)
    pair.here.pack("rows", [create(Row(7), 1)])
    assert doubts(pair.compare() or ()) == {1}
    assert holds(pair.here, ONE)


def test_of_one_time_nobody_knows_which_is_the_newer() -> None:
    """As where a row was mutated in place, or planted."""
    pair = Pair()
    pair.send(create(ONE, 1))
    pair.here.table.put(1, Row(1, 1, "planted"), S1)
    assert doubts(pair.compare() or ()) == {1}


def test_a_row_that_was_read_again_since_is_not_taken_for_older() -> None:
    pair = Pair()
    pair.send(create(ONE, 1))
    pair.send(update(TWO, 2, S1), here=False)
    reread(pair.here, 1, ONE, 50)  # and was still the same then
    assert doubts(pair.compare() or ()) == {1}
    assert holds(pair.here, ONE)


def equal_beat(pair: Pair, origin: str = "there") -> None:
    """A heartbeat of that sibling says that its copy is equal."""
    members = ["here", "there", "b"]
    assert pair.here.heard(origin, state(pair.there, members), members) == []


def test_what_was_read_here_and_told_to_nobody_stands_against_a_clock_that_is_ahead() -> None:
    pair = Pair()
    load_all(pair.there, ONE, second=30)  # by its clock
    load_all(pair.here, second=10)  # and gone since
    pair.here.read_untold(NOW + 12)
    assert doubts(pair.compare() or []) == {1}
    assert holds(pair.here)


def test_whoever_was_equal_since_knew_what_was_read_here() -> None:
    pair = Pair()
    load_all(pair.here, second=10)
    pair.here.read_untold(NOW + 12)
    equal_beat(pair)
    pair.send(create(ONE, 30), here=False)
    assert pair.compare() == []
    assert pair.equal
    pair.here.read_untold(NOW + 50)  # once more
    pair.send(update(TWO, 60, stamp(1, 30)), here=False)
    assert doubts(pair.compare() or []) == {1}


@pytest.mark.parametrize("donor", ["there", "another"])
def test_whoever_this_copy_is_from_knew_what_was_read(donor: str) -> None:
    pair = Pair()
    load_all(pair.there, Row(2), second=10)
    pair.here.go_cold()
    joiner = Joiner(pair.here)
    wanted = Take("here", donor, "rows", ROWS.fingerprint, "t1", joiner.begin("t1", donor))
    for frame in filter(None, Donor(pair.there, wanted, lambda: True).frames()):
        joiner.take(frame)
    assert joiner.finish(NOW + 12) == []
    pair.send(create(ONE, 30), here=False, second=30.0)
    assert doubts(pair.compare() or []) == (set() if donor == "there" else {1})
    assert pair.equal is (donor == "there")


@pytest.mark.parametrize("phase", [Phase.COLD, Phase.LOADING])
def test_a_copy_that_was_equal_and_dropped_is_another(phase: Phase) -> None:
    pair = Pair()
    load_all(pair.here, second=10)
    pair.here.read_untold(NOW + 12)
    equal_beat(pair)
    members = ["here", "there", "b"]
    pair.here.heard("there", state(pair.there, members, phase=phase), members)
    pair.send(create(ONE, 30), here=False)
    assert doubts(pair.compare() or []) == {1}


def test_what_is_later_than_any_clock_can_have_made_it_is_newer() -> None:
    pair = Pair()
    load_all(pair.here, second=10)
    pair.here.read_untold(NOW + 12)
    pair.send(create(ONE, 12 + MAX_DRIFT), create(Row(2), 13 + MAX_DRIFT), here=False)
    assert doubts(pair.compare() or []) == {1}
    assert holds(pair.here, Row(2))


def test_an_older_version_of_the_same_row_is_never_taken_over() -> None:
    pair = Pair()
    pair.here.table.put(1, Row(1, 9, "ninth"), stamp(9, 5))
    pair.there.table.put(1, Row(1, 8, "eighth"), stamp(8, 50))  # by a clock that is ahead
    assert doubts(pair.compare() or ()) == {1}
    assert holds(pair.here, Row(1, 9, "ninth"))


def test_what_died_here_later_stays_dead() -> None:
    pair = Pair()
    pair.here.table.bury(1, stamp(2, 9))
    pair.there.table.put(1, TWO, S2)
    assert doubts(pair.compare() or ()) == {1}
    assert holds(pair.here)


def test_what_is_live_here_and_of_which_nothing_is_known_there_is_read_again() -> None:
    pair = Pair()
    pair.send(create(ONE, 1))
    pair.there.table.forget(1)
    assert doubts(pair.compare() or ()) == {1}
    assert holds(pair.here, ONE)


def test_tombstones_that_only_one_has_are_no_difference() -> None:
    pair = Pair()
    pair.here.table.bury(1, S1)
    pair.there.table.bury(2, S1)
    assert pair.compare() == []


def test_the_rows_of_one_bucket_in_many_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(snapshot_module, "CHUNK_BYTES", 100)
    monkeypatch.setattr("imperfect_dollop.replica.table.key_hash", lambda key: decode(key) % 2)
    pair = Pair(rows=30)
    pair.send(*(update(Row(key, 2, "new"), 5, stamp(1, 1)) for key in (100, 110, 129)), here=False)
    pair.here.table.put(300, Row(300), S1)  # in the first bucket, and in none of its chunks
    pair.here.table.buckets[:2] = [1, 2]  # both differ
    assert doubts(pair.compare() or ()) == {300}
    assert pair.here.table.live[110] == Row(110, 2, "new")
    assert pair.here.counts.mended == 3


# -- while other things go on ----------------------------------------------------------------------


def test_what_events_bring_meanwhile_stands() -> None:
    pair = Pair()
    pair.send(create(ONE, 1))
    pair.send(update(TWO, 2, S1), here=False)
    three = update(Row(1, 3, "third"), 3, S2)

    effects = pair.compare(lambda: pair.send(three))
    # Here it was no clean successor. What the copy had of that key does not count any more, nor does what it knew.
    assert doubts(effects or ()) == {1}
    assert holds(pair.here, ONE)


def test_what_is_missing_may_be_later_than_what_has_touched_its_key() -> None:
    """The delete is missed; the create before it comes while the copies are compared, which are equal otherwise."""
    pair = Pair()
    created, deleted = create(ONE, 1), delete(1, 1, 2, S1)
    message = pair.send(created, here=False)
    pair.send(deleted, here=False)
    effects = pair.compare(lambda: pair.here.receive(message, NOW + 100))
    assert holds(pair.here, ONE)
    assert pair.here.progress.complete
    assert pair.here.progress.last("b") == 2  # the delete would pass for seen
    assert doubts(effects or ()) == {1}


def test_where_nothing_is_missing_what_has_touched_a_key_is_no_doubt() -> None:
    pair = Pair(rows=3)
    effects = pair.compare(lambda: pair.send(create(ONE, 5)))
    assert effects == []
    assert pair.equal


def test_a_copy_that_was_dropped_meanwhile_is_not_compared() -> None:
    pair = Pair(rows=3)
    assert pair.compare(pair.here.go_cold) is None
    assert pair.here.cold


def test_a_complete_load_meanwhile_has_the_last_word() -> None:
    pair = Pair()
    pair.send(create(ONE, 1))
    pair.send(update(TWO, 2, S1), here=False)
    assert pair.compare(lambda: load_all(pair.here, TWO, second=50)) is None
    assert holds(pair.here, TWO)


def test_too_many_events_meanwhile_make_it_void() -> None:
    pair = Pair()
    pair.here.window.limit = 3
    pair.send(create(ONE, 1))
    pair.send(update(TWO, 2, S1), here=False)
    assert pair.compare(lambda: pair.send(*(create(Row(n), 5) for n in range(5, 10)))) is None
    assert pair.here.progress.last("b") == 7


@pytest.mark.parametrize("there", ["newer", "unknown"])
def test_however_many_rows_differ_each_is_taken_over_or_read_again(there: str) -> None:
    pair = Pair(rows=50)
    pair.here.window.limit = 20  # fewer keys than that are remembered as touched
    keys = range(100, 150)
    if there == "newer":
        pair.send(*(update(Row(key, 2, "new"), 5, stamp(1, 1)) for key in keys), here=False)
        assert pair.compare() == []
        assert pair.equal
        assert pair.here.counts.mended == 50
    else:
        for key in keys:
            pair.there.table.forget(key)
        effects = pair.compare()
        assert effects is not None
        assert doubts(effects) == set(keys)


# -- what is known afterwards ----------------------------------------------------------------------


def test_what_a_clean_copy_contains_is_missing_no_longer() -> None:
    pair = Pair()
    pair.send(create(ONE, 1))
    missed = pair.send(update(TWO, 2, S1), here=False)
    pair.send(create(Row(2), 3))
    assert not pair.here.progress.complete
    assert pair.compare() == []
    assert pair.here.progress.complete
    before = dict(pair.here.table.live)
    assert pair.here.receive(missed, NOW + 100) == []  # sent again after all
    assert pair.here.table.live == before


@pytest.mark.parametrize("where", ["at the header", "in between", "at the footer"])
def test_a_donor_that_did_not_vouch_all_along_is_believed_nothing(where: str) -> None:
    """What was missing there when its buckets were compared is in none of those that it sends."""
    pair = Pair()
    pair.send(create(ONE, 1))
    pair.send(update(TWO, 2, S1), here=False)
    pair.send(create(Row(2), 3))
    asked = iter(range(100))
    place = {"at the header": 0, "in between": 1, "at the footer": 2}[where]
    effects = pair.compare(clean=lambda: next(asked) != place)
    assert doubts(effects or ()) == {1}
    assert holds(pair.here, ONE, Row(2))
    assert not pair.here.progress.complete


def test_equal_copies_that_lack_the_same_event_do_not_vouch_for_each_other() -> None:
    """What is missing at both is no difference; the donor has got it only when it makes its footer."""
    pair = Pair()
    pair.send(create(ONE, 1))
    missed = pair.send(update(TWO, 2, S1), here=False, there=False)
    pair.send(create(Row(2), 3))
    asked = iter((False, True))
    assert pair.compare(clean=lambda: next(asked)) == []
    assert not pair.here.progress.complete
    pair.here.receive(missed, NOW + 100)
    assert holds(pair.here, TWO, Row(2))


def test_times_beyond_the_drift_bound_are_not_taken_over() -> None:
    pair = Pair()
    pair.there.table.put(1, ONE, Stamp(1, time(200 + 2 * MAX_DRIFT), "b"))
    assert doubts(pair.compare() or ()) == {1}
    assert pair.here.clock.time < time(200 + MAX_DRIFT)


def test_times_that_were_taken_over_are_behind_what_is_written_next() -> None:
    pair = Pair()
    pair.there.table.put(1, ONE, stamp(1, 210))
    assert pair.compare(second=200.0) == []
    assert pair.here.clock.tick(NOW + 200) > time(210)


# -- frames that lie -------------------------------------------------------------------------------


HERE = make().table.bucket(1)
"""The bucket of row 1."""
ELSEWHERE = (HERE + 1) % BUCKETS


@pytest.mark.parametrize(
    "frames",
    [
        [chunk(HERE)],
        [FOOTER],
        [header(HERE), header(HERE)],
        [header(HERE, address="t2")],
        [header(HERE, fingerprint="another")],
        [header(HERE, HERE)],
        [header(BUCKETS)],
        [header(2**62)],
        [header(HERE), FOOTER],
        [header(HERE), chunk()],
        [header(HERE), chunk(ELSEWHERE)],
        [header(HERE), chunk(HERE, HERE)],
        [header(HERE), chunk(HERE, HERE, more=True)],
        [header(HERE, ELSEWHERE), chunk(HERE, ELSEWHERE, HERE)],
        [header(HERE), chunk(HERE), chunk(HERE)],
        [header(HERE, ELSEWHERE), chunk(HERE), chunk(HERE, ELSEWHERE)],
        [header(HERE), chunk(HERE, more=True), FOOTER],
        [header(ELSEWHERE), chunk(ELSEWHERE, live=[ONE])],
        [header(HERE, ELSEWHERE), chunk(ELSEWHERE, live=[ONE])],
        [header(ELSEWHERE), chunk(ELSEWHERE, dead=[1])],
        [header(HERE), Chunk([HERE], False, {}, [], [ROWS.encode(ONE)], [Run(1, 1, 0)], [])],
        [header(HERE), chunk(HERE, live=[b"\xc1"])],
        [header(HERE), chunk(HERE, dead=[DeadRow(b"\xc1", 1, 1, 0)])],
        [header(), FOOTER, FOOTER],
        [header(), FOOTER, chunk(HERE)],
        [header(), FOOTER, header()],
    ],
)
def test_a_frame_that_is_out_of_order_or_does_not_fit_is_refused(frames: list[Frame]) -> None:
    replica = make()
    give(replica, create(Row(1, 1, "held"), 1))
    comparison: Comparison[int, Row] = Comparison(replica, "t1", NOW)
    *good, bad = frames
    for frame in good:
        take(comparison, encode(frame))
    with pytest.raises(ProtocolError):
        take(comparison, encode(bad))
    comparison.close()
    assert holds(replica, Row(1, 1, "held"))


def test_an_answer_without_a_footer_changes_nothing() -> None:
    pair = Pair()
    pair.send(create(ONE, 1))
    pair.send(update(TWO, 2, S1), here=False)
    comparison: Comparison[int, Row] = Comparison(pair.here, "t1", NOW + 200)
    for frame in pair.frames(comparison)[:-1]:
        take(comparison, frame)
    assert comparison.finish(NOW + 200) is None
    comparison.close()
    assert holds(pair.here, ONE)
    assert pair.here.progress.last("b") == 1


@pytest.mark.parametrize("size", [0, 7, 8, 8 * BUCKETS - 1, 8 * BUCKETS + 8, 8 << 16])
def test_a_donor_asked_with_digests_of_another_size_sends_everything(size: int) -> None:
    pair = Pair(rows=10)
    assert len(pair.there.table.differing(b"\0" * size)) == BUCKETS


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_whatever_a_donor_says_nothing_but_a_protocol_error_is_raised(data: st.DataObject) -> None:
    """Frames of honest answers, cut, swapped, repeated and garbled."""
    pair = Pair(rows=5)
    pair.send(*(create(Row(key), 2) for key in range(5)), here=False)
    comparison: Comparison[int, Row] = Comparison(pair.here, "t1", NOW + 200)
    frames = pair.frames(comparison)
    chosen = data.draw(st.lists(st.sampled_from(frames), max_size=6))
    for frame in chosen:
        if data.draw(st.booleans()):
            place = data.draw(st.integers(0, len(frame) - 1))
            frame = frame[:place] + bytes([data.draw(st.integers(0, 255))]) + frame[place + 1 :]
        try:
            take(comparison, frame)
        except ProtocolError:
            break
    comparison.finish(NOW + 200)
    comparison.close()
    assert adds_up(pair.here)


# -- in all ----------------------------------------------------------------------------------------

STATES = st.one_of(
    st.none(),
    st.tuples(st.booleans(), st.integers(1, 4), st.integers(1, 60), st.sampled_from("abc")),
)


def hold(replica: Replica[int, Row], key: int, said: tuple[bool, int, int, str] | None) -> None:
    if said is None:
        return
    live, version, second, origin = said
    own = Stamp(version, time(second), origin)
    if live:
        replica.table.put(key, Row(key, version, f"{version} of {origin} at {second}"), own)
    else:
        replica.table.bury(key, own)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(st.tuples(STATES, STATES), min_size=1, max_size=12),
    st.dictionaries(st.integers(0, 11), st.integers(1, 60), max_size=4),
    st.integers(0, 60),
    st.booleans(),
)
def test_with_what_is_read_again_the_copies_are_equal(
    states: list[tuple[tuple[bool, int, int, str] | None, tuple[bool, int, int, str] | None]],
    proven: dict[int, int],
    confirmed: int,
    clean: bool,
) -> None:
    """Whatever was different. What is taken over is later than what was known here, and of no older version."""
    pair = Pair()
    for key, (here, there) in enumerate(states):
        hold(pair.here, key, here)
        hold(pair.there, key, there)
    for key, second in proven.items():
        if key in pair.here.table.live:
            pair.here.holding._proven[key] = time(second), time(second)
    pair.here.holding.confirmed = time(confirmed) if confirmed else 0
    before = {
        key: (pair.here.table.live.get(key), pair.here.table.stamp(key), pair.here.known_since(key))
        for key in range(len(states))
    }
    effects = pair.compare(clean=lambda: clean)
    assert effects is not None
    assert not resyncs(effects)
    again = doubts(effects)
    for key, (row, own, since) in before.items():
        shown, taken = pair.here.table.live.get(key), pair.here.table.stamp(key)
        if shown == row:
            assert taken == own
            assert key in again or row == pair.there.table.live.get(key)
            continue
        assert clean
        assert key not in again
        assert shown == pair.there.table.live.get(key)
        assert taken.time > since
        if row is not None and shown is not None:
            assert taken.version >= own.version
    for doubtful in again:
        assert isinstance(doubtful, int)
        reread(pair.here, doubtful, pair.there.table.live.get(doubtful), 300)
    assert pair.equal
