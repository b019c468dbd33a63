"""Every decoder, with what rules make: valid inputs that were mutated in their structure or byte by byte, and noise.

`python -m tests.fuzz` searches the same targets for hours, led by the lines that an input has reached.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from .targets import TARGETS, close_all, joined, pieces

EXAMPLES = 500
"""For each target: some seconds in all."""

odd_values: st.SearchStrategy[Any] = (
    st.sampled_from(
        [
            *(None, True, -1, 0, 1, 2**31, 2**53, 2**63 - 1, 2**63, 2**64 - 1, -(2**63)),
            *(
                1.5,
                float("nan"),
                float("inf"),
                "",
                "r",
                "s",
                "address",
                "x" * 257,
                "\x00",
                b"",
                b"\xc1",
            ),
            *([], {}, [[]], [None] * 20, {"r": 1}, {1: 2}, msgspec.msgpack.Ext(5, b"x")),
        ]
    )
    | st.integers(-(2**63), 2**64 - 1)
    | st.binary(max_size=20)
    | st.text(max_size=20)
)


@st.composite
def mutated_values(draw: st.DrawFn, value: Any) -> Any:
    """A value of msgpack with something in it changed, left out, doubled or moved."""
    if isinstance(value, list) and value and draw(st.integers(0, 9)):
        changed = list(value)
        place = draw(st.integers(0, len(changed) - 1))
        what = draw(st.sampled_from(["into", "into", "into", "drop", "double", "swap", "add"]))
        if what == "into":
            changed[place] = draw(mutated_values(changed[place]))
        elif what == "drop":
            del changed[place]
        elif what == "double":
            changed.insert(place, changed[place])
        elif what == "swap":
            other = draw(st.integers(0, len(changed) - 1))
            changed[place], changed[other] = changed[other], changed[place]
        else:
            changed.insert(place, draw(odd_values))
        return changed
    if isinstance(value, dict) and value and draw(st.booleans()):
        changed_keys = dict(value)
        name = draw(st.sampled_from(list(value)))
        changed_keys[name] = draw(mutated_values(value[name]))
        return changed_keys
    if isinstance(value, bytes) and draw(st.booleans()):
        return draw(mutated_structure(value))
    return draw(odd_values)


@st.composite
def mutated_structure(draw: st.DrawFn, data: bytes) -> bytes:
    try:
        value = msgspec.msgpack.decode(data)
    except msgspec.DecodeError:
        return draw(mutated_bytes(data))
    try:
        return msgspec.msgpack.encode(draw(mutated_values(value)))
    except (TypeError, OverflowError):
        return data


@st.composite
def mutated_bytes(draw: st.DrawFn, data: bytes) -> bytes:
    """Flipped, cut, doubled or made longer."""
    changed = bytearray(data)
    for _ in range(draw(st.integers(1, 4))):
        place = draw(st.integers(0, max(0, len(changed) - 1)))
        length = draw(st.integers(0, 8))
        what = draw(st.sampled_from(["set", "cut", "drop", "double", "add"]))
        if what == "set":
            changed[place : place + 1] = draw(st.binary(min_size=1, max_size=1))
        elif what == "cut":
            del changed[place:]
        elif what == "drop":
            del changed[place : place + length]
        elif what == "double":
            changed[place:place] = changed[place : place + length]
        else:
            changed[place:place] = draw(st.binary(max_size=8))
    return bytes(changed)


@st.composite
def inputs(draw: st.DrawFn, name: str) -> bytes:
    """For one target."""
    how = draw(st.integers(0, 9))
    if how == 0:
        return draw(st.binary(max_size=200))
    seed = draw(st.sampled_from(TARGETS[name].seeds))
    if how == 1:
        return draw(mutated_bytes(seed))
    if name in ("key", "entity"):  # the first byte says which
        return seed[:1] + draw(mutated_structure(seed[1:]))
    if name in ("message", "frame", "envelope"):
        return draw(mutated_structure(seed))
    some = list(pieces(seed))
    return joined([draw(mutated_structure(one)) if draw(st.booleans()) else one for one in some])


@pytest.fixture(scope="module", autouse=True)
def nodes_closed() -> Iterator[None]:
    yield
    close_all()


@pytest.mark.parametrize("name", TARGETS)
def test_valid_inputs(name: str) -> None:
    for seed in TARGETS[name].seeds:
        TARGETS[name].run(seed)


@pytest.mark.parametrize("name", TARGETS)
def test_mutated_inputs(name: str) -> None:
    @settings(
        max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck), database=None
    )
    @given(inputs(name))
    def run(data: bytes) -> None:
        TARGETS[name].run(data)

    run()
