"""When a digest that differs means something."""

from __future__ import annotations

from imperfect_dollop.replica.agreement import SETTLE_BEATS, Agreement


def beats_until_looked(agreement: Agreement, origin: str = "b", most: int = 100) -> int:
    for beat in range(1, most + 1):
        if agreement.differs(origin):
            return beat
    return most + 1


def test_one_heartbeat_means_nothing() -> None:
    agreement = Agreement()
    assert beats_until_looked(agreement) == SETTLE_BEATS


def test_what_cannot_be_compared_begins_anew_and_keeps_the_patience() -> None:
    agreement = Agreement()
    assert beats_until_looked(agreement) == SETTLE_BEATS
    for _ in range(10):
        assert not agreement.differs("b")
        agreement.unknown("b")
    assert beats_until_looked(agreement) == 2 * SETTLE_BEATS


def test_looking_that_does_not_help_gets_rarer_and_agreeing_ends_that() -> None:
    agreement = Agreement()
    assert [beats_until_looked(agreement) for _ in range(4)] == [2, 4, 8, 16]
    agreement.same("b")
    assert beats_until_looked(agreement) == SETTLE_BEATS


def test_one_that_differs_says_nothing_of_another() -> None:
    agreement = Agreement()
    assert beats_until_looked(agreement, "b") == SETTLE_BEATS
    assert beats_until_looked(agreement, "c") == SETTLE_BEATS
    assert beats_until_looked(agreement, "b") == 2 * SETTLE_BEATS


def test_when_one_is_looked_into_the_others_wait_for_what_comes_of_it() -> None:
    agreement = Agreement()
    assert not agreement.differs("c")
    assert beats_until_looked(agreement, "b") == SETTLE_BEATS
    assert not agreement.differs("c")


def test_nothing_is_kept_of_who_has_left() -> None:
    agreement = Agreement()
    for number in range(1_000):
        beats_until_looked(agreement, f"b{number}")
        agreement.differs(f"b{number}")
        agreement.left(f"b{number}")
    assert not agreement._differs
    assert not agreement._patience
