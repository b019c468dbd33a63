"""One load per key, whoever asks and whoever is cancelled.

Nothing here waits for time to pass: loads are let go by hand, and deadlines are brought about.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from typing import Any

import pytest

from imperfect_dollop.errors import (
    ClosedError,
    ConflictError,
    DollopError,
    SourceUnavailableError,
)
from imperfect_dollop.flight import Flights, own_copy


class Loads:
    """A load that counts, waits for `go`, and does what `outcome` says."""

    def __init__(self) -> None:
        self.calls: list[tuple[int, ...]] = []
        self.go = asyncio.Event()
        self.tasks: list[asyncio.Task[object]] = []
        self.outcome: Callable[[tuple[int, ...]], Any] = lambda keys: {
            key: f"row {key}" for key in keys if key >= 0
        }
        self.unretrieved: list[dict[str, Any]] = []
        self.flights: Flights[int, str] = Flights(
            self.spawn, self.load, describe=lambda keys: f"keys {keys}"
        )

    def spawn(
        self, function: Callable[..., Awaitable[object]], /, *args: object, name: str = ""
    ) -> None:
        async def run() -> object:
            return await function(*args)

        self.tasks.append(asyncio.create_task(run(), name=name))

    async def load(self, keys: tuple[int, ...]) -> Mapping[int, str]:
        self.calls.append(keys)
        await self.go.wait()
        found: Mapping[int, str] = self.outcome(keys)
        return found

    def ask(self, *keys: int) -> asyncio.Task[str | None]:
        return asyncio.create_task(self.flights.join(keys[0]))

    def ask_many(self, *keys: int) -> asyncio.Task[dict[int, str | None]]:
        return asyncio.create_task(self.flights.join_many(keys))


async def settled() -> None:
    """Everything that can go on has gone on."""
    for _ in range(20):
        await asyncio.sleep(0)


@pytest.fixture
async def loads() -> AsyncIterator[Loads]:
    made = Loads()
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: made.unretrieved.append(context))
    yield made
    made.go.set()
    for task in made.tasks:
        task.cancel()
    await asyncio.gather(*made.tasks, return_exceptions=True)


def raising(error: Exception) -> Callable[[tuple[int, ...]], Any]:
    def outcome(keys: tuple[int, ...]) -> Any:
        raise error

    return outcome


# -- sharing ---------------------------------------------------------------------------------------


async def test_ten_thousand_callers_share_one_load(loads: Loads) -> None:
    callers = [loads.ask(1) for _ in range(10_000)]
    await settled()
    assert 1 in loads.flights
    loads.go.set()
    assert set(await asyncio.gather(*callers)) == {"row 1"}
    assert loads.calls == [(1,)]
    assert 1 not in loads.flights


async def test_keys_of_their_own_have_loads_of_their_own(loads: Loads) -> None:
    loads.go.set()
    assert [await one for one in (loads.ask(1), loads.ask(2))] == ["row 1", "row 2"]
    assert sorted(loads.calls) == [(1,), (2,)]


async def test_an_absent_key_is_none(loads: Loads) -> None:
    loads.go.set()
    assert await loads.ask(-1) is None


async def test_after_a_load_the_next_caller_starts_another(loads: Loads) -> None:
    loads.go.set()
    await loads.ask(1)
    await loads.ask(1)
    assert loads.calls == [(1,), (1,)]


async def test_many_keys_are_one_load(loads: Loads) -> None:
    loads.go.set()
    found = await loads.ask_many(1, 2, -3, 1)
    assert found == {1: "row 1", 2: "row 2", -3: None}
    assert loads.calls == [(1, 2, -3)]


async def test_no_keys_are_no_load(loads: Loads) -> None:
    assert await loads.ask_many() == {}
    assert loads.calls == []


async def test_many_keys_share_what_is_under_way_for_one_and_the_other_way_round(
    loads: Loads,
) -> None:
    one = loads.ask(1)
    await settled()
    many = loads.ask_many(1, 2, 3)
    await settled()
    two, more = loads.ask(2), loads.ask_many(3, 1)
    await settled()
    assert loads.calls == [(1,), (2, 3)]
    loads.go.set()
    assert await one == "row 1"
    assert await many == {1: "row 1", 2: "row 2", 3: "row 3"}
    assert await two == "row 2"
    assert await more == {3: "row 3", 1: "row 1"}
    assert len(loads.calls) == 2


# -- cancelled callers -----------------------------------------------------------------------------


async def test_the_first_caller_cancelled_takes_nobody_with_it(loads: Loads) -> None:
    first = loads.ask(1)
    await settled()
    others = [loads.ask(1) for _ in range(3)]
    await settled()
    first.cancel()
    await settled()
    assert first.cancelled()
    loads.go.set()
    assert await asyncio.gather(*others) == ["row 1"] * 3
    assert loads.calls == [(1,)]


async def test_all_callers_cancelled_leave_a_load_that_frees_its_key(loads: Loads) -> None:
    callers: list[asyncio.Task[Any]] = [loads.ask(1), loads.ask(1), loads.ask_many(1, 2)]
    await settled()
    for caller in callers:
        caller.cancel()
    await settled()
    assert 1 in loads.flights
    again = loads.ask(1)
    await settled()
    assert loads.calls == [(1,), (2,)]
    loads.go.set()
    assert await again == "row 1"
    await settled()
    assert 1 not in loads.flights
    assert 2 not in loads.flights


async def test_one_caller_of_many_cancelled_leaves_the_others(loads: Loads) -> None:
    many, other = loads.ask_many(1, 2), loads.ask(2)
    await settled()
    many.cancel()
    await settled()
    loads.go.set()
    assert await other == "row 2"
    gc.collect()
    assert loads.unretrieved == []


# -- loads that fail -------------------------------------------------------------------------------


async def test_an_error_of_ours_reaches_every_caller_as_its_own_copy(loads: Loads) -> None:
    loads.outcome = raising(ConflictError("no"))
    callers = [loads.ask(1) for _ in range(3)]
    loads.go.set()
    raised = await asyncio.gather(*callers, return_exceptions=True)
    assert [(type(error), str(error)) for error in raised] == [(ConflictError, "no")] * 3
    assert len({id(error) for error in raised}) == 3
    assert 1 not in loads.flights


async def test_any_other_error_is_an_unavailable_source_with_its_cause(loads: Loads) -> None:
    cause = ZeroDivisionError("oops")
    loads.outcome = raising(cause)
    loads.go.set()
    with pytest.raises(SourceUnavailableError, match="oops") as caught:
        await loads.ask(1)
    assert caught.value.__cause__ is cause


async def test_after_a_failure_the_next_caller_starts_another(loads: Loads) -> None:
    loads.outcome = raising(ConflictError("no"))
    loads.go.set()
    with pytest.raises(ConflictError):
        await loads.ask(1)
    loads.outcome = lambda keys: {1: "back"}
    assert await loads.ask(1) == "back"


async def test_a_failure_of_many_keys_leaves_no_error_that_nobody_has_seen(loads: Loads) -> None:
    loads.outcome = raising(ConflictError("no"))
    loads.go.set()
    with pytest.raises(ConflictError):
        await loads.ask_many(1, 2, 3)
    gc.collect()  # that is when asyncio complains
    assert loads.unretrieved == []


async def test_an_answer_that_is_no_mapping_fails_its_callers(loads: Loads) -> None:
    loads.outcome = lambda keys: None
    loads.go.set()
    caller = loads.ask(1)
    await settled()
    assert caller.done()
    with pytest.raises(SourceUnavailableError):
        await caller


# -- closing ---------------------------------------------------------------------------------------


async def test_closed_while_loading_is_said_to_every_caller(loads: Loads) -> None:
    callers: list[asyncio.Task[Any]] = [loads.ask(1), loads.ask_many(1)]
    await settled()
    loads.tasks[0].cancel()
    for error in await asyncio.gather(*callers, return_exceptions=True):
        assert isinstance(error, ClosedError)
    assert 1 not in loads.flights


async def test_a_background_that_takes_nothing_leaves_no_key_behind(loads: Loads) -> None:
    def refuse(*args: object, name: str = "") -> None:
        raise RuntimeError("not running")

    loads.flights._spawn = refuse
    with pytest.raises(RuntimeError):
        await loads.ask(1)
    assert 1 not in loads.flights


def test_an_errors_copy_keeps_its_type_text_and_cause() -> None:
    error: DollopError = SourceUnavailableError("away")
    error.__cause__ = cause = OSError("x")
    copy = own_copy(error)
    assert copy is not error
    assert (type(copy), str(copy), copy.__cause__) == (SourceUnavailableError, "away", cause)
