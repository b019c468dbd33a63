"""Who is there, who is asked for a copy, whose turn it is. Times are monotonic seconds."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from imperfect_dollop.replica import members as members_module
from imperfect_dollop.replica.members import Members
from imperfect_dollop.replica.messages import MAX_BEAT_SECONDS, Heartbeat, Phase, RepositoryState

READY = RepositoryState("rows", "ours", Phase.READY, True, True, 0, 0, 0, 0, 0, 0, 0)


def beat(
    origin: str, number: int = 1, *, time: int = 0, leaving: bool = False, every: float = 1.0
) -> Heartbeat:
    return Heartbeat(origin, f"name of {origin}", number, time, leaving, every, [READY])


def fleet(**states: dict[str, Any] | None) -> Members:
    """Members by origin, each with what differs from a ready copy."""
    members = Members("me", heartbeat=1.0)
    for origin, changes in states.items():
        repositories = [] if changes is None else [msgspec.structs.replace(READY, **changes)]
        members.heard(Heartbeat(origin, origin, 1, 0, False, 1.0, repositories), 0.0)
    return members


def donor(members: Members, *, clean: bool = True, without: tuple[str, ...] = ()) -> str | None:
    return members.donor("rows", "ours", clean=clean, without=without)


# -- who is there ----------------------------------------------------------------------------------


def test_a_newcomer_is_new_once() -> None:
    members = Members("me", 1.0)
    assert members.heard(beat("b"), 0.0)
    assert not members.heard(beat("b", 2), 1.0)
    assert members.alive["b"].beat.number == 2


def test_a_heartbeat_that_comes_late_or_twice_changes_nothing() -> None:
    members = Members("me", 1.0)
    members.heard(beat("b", 5), 0.0)
    members.heard(beat("b", 4), 2.9)
    members.heard(beat("b", 5), 2.9)
    assert members.alive["b"].beat.number == 5
    assert members.expire(3.1) == {"b": "name of b"}


def test_who_says_goodbye_is_gone_at_once() -> None:
    members = Members("me", 1.0)
    members.heard(beat("b"), 0.0)
    assert not members.heard(beat("b", 2, leaving=True), 0.1)
    assert not members.alive
    assert not members.heard(beat("stranger", leaving=True), 0.1)


def test_who_was_not_heard_for_three_heartbeats_is_gone() -> None:
    members = Members("me", 2.0)
    members.heard(beat("b"), 0.0)
    members.heard(beat("c"), 5.0)
    assert members.expire(6.0) == {}
    assert members.expire(6.1) == {"b": "name of b"}
    assert list(members.alive) == ["c"]


def test_a_member_is_waited_for_as_long_as_it_has_said() -> None:
    members = Members("me", 1.0)
    members.heard(beat("b", every=4.0), 0.0)
    members.heard(beat("c", every=0.1), 0.0)  # and no shorter than this node's own heartbeats
    gone = {second: members.expire(float(second)) for second in range(1, 13)}
    assert {second: who for second, who in gone.items() if who} == {4: {"c": "name of c"}}
    members.heard(beat("b", 2), 12.0)
    gone = {second: members.expire(float(second)) for second in range(13, 18)}
    assert {second: who for second, who in gone.items() if who} == {16: {"b": "name of b"}}


def test_many_nodes_make_heartbeats_rarer(monkeypatch: pytest.MonkeyPatch) -> None:
    members = Members("me", 1.0)
    for number in range(140):
        members.heard(beat(f"n{number}"), 0.0)
    members.expire(0.0)
    assert (members.heartbeat, members.patience, members.crowded) == (1.0, 3.0, False)
    for number in range(140, 199):
        members.heard(beat(f"n{number}"), 0.5)
    assert members.heartbeat == 1.0  # the next one was promised for then
    assert members.expire(1.0) == {}
    assert (members.heartbeat, members.patience, members.crowded) == (2.0, 6.0, True)
    # Who had promised one a second is waited for as long as anybody is now.
    assert members.expire(3.0) == members.expire(5.0) == members.expire(6.0) == {}
    assert len(members.expire(6.2)) == 140
    assert len(members.expire(6.6)) == 59
    assert members.expire(7.6) == {}
    assert (members.heartbeat, members.crowded) == (1.0, False)
    monkeypatch.setattr(members_module, "MANY_BEATS", 1e-9)
    members.expire(8.6)
    assert members.heartbeat == members_module.RAREST


def test_nobody_is_waited_for_beyond_the_rarest_heartbeats() -> None:
    members = Members("me", 1.0)
    members.heard(beat("b", every=MAX_BEAT_SECONDS), 0.0)
    patience = 3 * members_module.RAREST
    for second in range(int(patience) + 1):
        assert members.expire(float(second)) == {}
    assert members.expire(patience + 1) == {"b": "name of b"}
    members = Members("me", 100.0)  # unless this node itself sends them
    members.heard(beat("b", every=100.0), 0.0)
    assert members.expire(299.0) == {}
    assert members.expire(301.0) == {"b": "name of b"}


def test_members_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(members_module, "MAX_MEMBERS", 2)
    members = Members("me", 1.0)
    for origin in "abcd":
        members.heard(beat(origin), 0.0)
    assert list(members.alive) == ["a", "b"]


def test_the_horizon_is_where_the_slowest_is() -> None:
    members = Members("me", 1.0)
    assert members.horizon("rows", 99) == 99
    members.heard(beat("b", time=50), 0.0)
    members.heard(beat("c", time=70), 0.0)
    assert members.horizon("rows", 99) == 50


def test_a_member_has_a_state_for_the_repositories_it_names() -> None:
    members = fleet(b={})
    assert members.alive["b"].state("rows") == READY
    assert members.alive["b"].state("others") is None


# -- who gives a copy ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "unfit",
    [
        None,
        {"repository": "others"},
        {"fingerprint": "theirs"},
        {"phase": Phase.COLD},
        {"phase": Phase.LOADING},
        {"clean": False},
    ],
)
def test_only_a_complete_clean_copy_of_our_schema_is_asked_for(
    unfit: dict[str, Any] | None,
) -> None:
    assert donor(fleet(b=unfit)) is None
    assert donor(fleet(b=unfit, c={"confirmed": 0})) == "c"


def test_who_reloads_still_has_a_copy() -> None:
    assert donor(fleet(b={"phase": Phase.REFRESHING})) == "b"


def test_a_copy_nobody_vouches_for_is_better_than_none_and_worse_than_any() -> None:
    unclean = {"clean": False, "confirmed": 9}
    assert donor(fleet(b=unclean), clean=False) == "b"
    assert donor(fleet(b=unclean, c={"confirmed": 1}), clean=False) == "c"


def test_the_freshest_is_asked_and_then_the_next() -> None:
    members = fleet(b={"confirmed": 1}, c={"confirmed": 3}, d={"confirmed": 2})
    assert donor(members) == "c"
    assert donor(members, without=("c",)) == "d"
    assert donor(members, without=("b", "c", "d")) is None


def test_equal_copies_are_asked_by_joiners_in_turn() -> None:
    asked = set()
    for number in range(50):
        members = fleet(b={}, c={}, d={})
        members.origin = f"joiner {number}"
        asked.add(donor(members))
    assert asked == {"b", "c", "d"}


# -- whose turn it is ------------------------------------------------------------------------------


def first_in_line(members: Members, failures: int = 0) -> bool:
    return members.first_in_line("rows", "ours", failures)


def test_of_all_that_are_cold_one_goes_first() -> None:
    origins = ["a", "b", "c", "d"]
    first = []
    for me in origins:
        members = fleet(**{origin: {"phase": Phase.COLD} for origin in origins if origin != me})
        members.origin = me
        if first_in_line(members):
            first.append(me)
    assert len(first) == 1


def test_who_has_failed_less_often_goes_first() -> None:
    members = fleet(zoe={"phase": Phase.COLD, "failures": 1})
    assert first_in_line(members, failures=0)
    assert not first_in_line(members, failures=2)


@pytest.mark.parametrize(
    "other",
    [{"phase": Phase.READY}, {"phase": Phase.LOADING}, {"fingerprint": "theirs"}, None],
)
def test_only_who_is_cold_and_of_our_schema_is_waited_for(other: dict[str, Any] | None) -> None:
    changes = None if other is None else {"phase": Phase.COLD, "failures": 0, **other}
    assert first_in_line(fleet(a=changes), failures=5)


def test_whether_somebody_loads_everything() -> None:
    members = fleet(b={"phase": Phase.LOADING}, c={"phase": Phase.REFRESHING})
    ours = READY.fingerprint
    assert members.loading("rows", ours)
    assert not members.loading("others", ours)
    assert not members.loading("rows", "theirs")
    assert not fleet(b={}, c=None).loading("rows", ours)


# -- whether this node is heard --------------------------------------------------------------------


def connected(now: float = 0.0) -> Members:
    """With a heartbeat of a second, and a link since `now`."""
    members = Members("me", heartbeat=1.0)
    members.connected(now)
    return members


def test_a_link_on_which_nothing_comes_back_for_three_heartbeats_is_deaf() -> None:
    members = connected()
    for number in (1, 2, 3):
        members.beat(number, float(number))
    assert not members.deaf(4.0)  # the first has been on its way for no longer than three
    assert members.deaf(4.1)


def test_a_link_on_which_nothing_was_sent_is_not_deaf() -> None:
    assert not connected().deaf(100.0)


def test_an_own_heartbeat_that_comes_back_clears_all_before_it() -> None:
    members = connected()
    for number in (1, 2, 3):
        members.beat(number, 0.0)
    members.echoed(2)
    assert members.deaf(3.1)  # for the third
    members.echoed(3)
    assert not members.deaf(100.0)


def test_an_old_heartbeat_that_comes_back_clears_no_later_one() -> None:
    members = connected()
    members.beat(7, 0.0)
    for number in (0, 3, 6):
        members.echoed(number)
    assert members.deaf(3.1)
    members.echoed(7)
    members.echoed(7)
    assert not members.deaf(100.0)
    members.beat(8, 100.0)
    assert members.deaf(103.1)


def test_a_link_that_is_behind_but_brings_what_others_say_is_not_deaf() -> None:
    members = connected()
    members.beat(1, 0.0)
    for second in range(1, 27):
        members.anything(float(second))
        assert not members.deaf(second + 3.0)
    assert members.deaf(29.1)


def test_a_link_that_never_brings_our_own_is_deaf_in_the_end() -> None:
    members = connected()
    members.beat(1, 0.0)
    members.anything(30.0)
    assert not members.deaf(30.0)
    members.anything(30.1)
    assert members.deaf(30.1)


def test_what_others_say_does_not_count_for_ever() -> None:
    members = connected()
    members.beat(1, 0.0)
    members.anything(2.0)
    assert not members.deaf(5.0)
    assert members.deaf(5.1)


def test_what_was_sent_on_the_last_link_is_not_waited_for_on_the_next() -> None:
    members = connected()
    members.beat(1, 0.0)
    assert members.deaf(9.0)
    members.connected(9.0)
    assert not members.deaf(100.0)
    members.beat(2, 10.0)
    assert not members.deaf(13.0)
    assert members.deaf(13.1)


def test_a_link_has_three_heartbeats_from_its_beginning() -> None:
    members = connected(100.0)
    members.beat(1, 100.0)
    assert not members.deaf(103.0)
    assert members.deaf(103.1)


def test_a_process_that_stood_still_does_not_blame_the_link() -> None:
    members = connected()
    members.heard(beat("b"), 0.9)
    members.expire(1.0)
    members.beat(1, 1.0)
    assert members.expire(61.0) == {}
    assert not members.deaf(61.0)  # the echo may be waiting to be read
    assert members.alive["b"].heard <= 61.0
    assert members.expire(62.0) == {"b": "name of b"}
    assert members.deaf(62.1)


def test_being_late_by_less_than_a_heartbeat_is_not_standing_still() -> None:
    members = connected()
    members.heard(beat("b"), 0.0)
    members.beat(1, 0.0)
    assert members.expire(0.0) == members.expire(1.9) == {}
    assert members.expire(3.8) == {"b": "name of b"}
    assert members.deaf(3.8)


def test_after_a_long_outage_a_link_has_three_heartbeats_and_no_more() -> None:
    members = connected()
    members.heard(beat("b"), 0.0)
    members.expire(0.0)
    members.connected(1_000.0)
    members.expire(1_000.0)  # nothing was looked at meanwhile, as there was no link
    members.beat(1, 1_000.0)
    for now in (1_001.0, 1_002.0, 1_003.0):
        members.expire(now)
        assert not members.deaf(now)
    assert members.deaf(1_003.1)


def test_nothing_was_heard_in_the_future() -> None:
    members = connected()
    members.expire(0.0)
    members.heard(beat("b"), 59.9)
    members.beat(1, 59.9)
    members.anything(59.9)
    for now in (60.0, 61.0, 62.0, 63.0):
        assert members.expire(now) == {}
    assert members.expire(63.1) == {"b": "name of b"}
    assert members.deaf(63.1)


def test_standing_still_is_not_held_against_a_link_that_is_behind() -> None:
    members = connected()
    members.beat(1, 0.0)
    for second in range(1, 11):
        members.anything(float(second))
        members.expire(float(second))
    members.expire(70.0)
    assert not members.deaf(70.0)  # what others have said meanwhile was not read yet
    members.expire(71.0)
    assert members.deaf(71.1)


@pytest.mark.parametrize(
    ("theirs", "ours", "waits"), [(0, 0, True), (0, 3, True), (2, 2, True), (3, 2, False)]
)
def test_who_has_failed_more_often_is_not_waited_for(theirs: int, ours: int, waits: bool) -> None:
    members = fleet(b={"phase": Phase.REFRESHING, "failures": theirs}, c={"phase": Phase.LOADING})
    assert members.refreshing("rows", "ours", ours) is waits
    assert not members.refreshing("rows", "theirs", ours)
    assert not members.refreshing("others", "ours", ours)


def test_where_this_node_had_to_connect_anew_the_others_may_have_to_as_well() -> None:
    members = Members("me", 1.0, returning=5.0)
    members.connected(0.0)
    for origin in ("b", "c"):
        members.heard(beat(origin), 0.0)
    members.expire(0.5)
    members.connected(1.0)
    members.heard(beat("c", 2), 1.0)
    for second in range(1, 9):
        gone = members.expire(float(second))
        assert gone == ({"c": "name of c"} if second == 5 else {})  # it was heard over the new link
    assert members.expire(8.1) == {"b": "name of b"}


def test_only_heartbeats_that_come_at_their_time_count() -> None:
    members = Members("me", 1.0)
    counted = []
    for number, now in enumerate((0.0, 0.05, 0.1, 0.49, 0.5, 0.6, 1.1, 2.0, 2.4, 2.6), 1):
        members.heard(beat("b", number), now)
        if members.alive["b"].timely:
            counted.append(now)
    assert counted == [0.0, 0.5, 1.1, 2.0, 2.6]
    members.heard(beat("b", 11), 3.6)
    assert members.alive["b"].timely
    members.heard(beat("b", 12), 3.6)  # at the same moment, as after a delay
    assert not members.alive["b"].timely
