"""One load per key at a time, whoever asks.

The interleavings this guards against:

* ten thousand callers miss the same key at once, and all of them ask the source;
* the caller who happens to run the load is cancelled, and takes the others with it;
* a load that never returns keeps its key locked for ever.

So a load runs in a task of its own and callers only wait for it, each on a future of its own: cancelling
a task cancels the future it awaits, so that must not be a shared one. The load itself keeps its
deadline, see `imperfect_dollop.sourcing`.
"""

from __future__ import annotations

import asyncio
import copy
from collections.abc import Awaitable, Callable, Hashable, Iterable, Mapping
from typing import Generic, Protocol, TypeAlias, TypeVar

from .errors import ClosedError, DollopError, SourceUnavailableError

__all__ = ["Flights", "own_copy"]

K = TypeVar("K", bound=Hashable)
R = TypeVar("R")

Load: TypeAlias = "Callable[[tuple[K, ...]], Awaitable[Mapping[K, R | None]]]"


class Spawn(Protocol):
    """Runs a function in the background."""

    def __call__(
        self, function: Callable[..., Awaitable[object]], /, *args: object, name: str = ""
    ) -> None: ...


class _Flight(Generic[K, R]):
    """One load of some keys, and who waits for which of them."""

    __slots__ = ("keys", "waiting")

    def __init__(self, keys: tuple[K, ...]) -> None:
        self.keys: tuple[K, ...] = keys
        self.waiting: list[tuple[K, asyncio.Future[R | None]]] = []


class Flights(Generic[K, R]):
    """The loads that are under way.

    `load` is given keys and returns what it found by key; absent keys may be left out. `describe`
    names keys in error messages.
    """

    def __init__(
        self,
        spawn: Spawn,
        load: Load[K, R],
        *,
        describe: Callable[[tuple[K, ...]], str],
    ) -> None:
        self._spawn = spawn
        self._load = load
        self._describe = describe
        self._flying: dict[K, _Flight[K, R]] = {}

    def __contains__(self, key: K) -> bool:
        return key in self._flying

    async def join(self, key: K) -> R | None:
        """What a load finds for this key; starts one unless it is under way already.

        Raises what the load raises, and `ClosedError` when the background is stopped meanwhile.
        """
        flight = self._flying.get(key) or self.start((key,))
        waiter: asyncio.Future[R | None] = asyncio.get_running_loop().create_future()
        flight.waiting.append((key, waiter))
        return await waiter

    async def join_many(self, keys: Iterable[K], *, anew: bool = False) -> dict[K, R | None]:
        """As `join`, with one load for all the keys of which none is under way; `anew`: for all, beginning now."""
        wanted = dict.fromkeys(keys)
        new = tuple(key for key in wanted if anew or key not in self._flying)
        if new:
            self.start(new)
        loop = asyncio.get_running_loop()
        waiters = {key: loop.create_future() for key in wanted}
        for key, waiter in waiters.items():
            self._flying[key].waiting.append((key, waiter))
        try:
            return {key: await waiter for key, waiter in waiters.items()}
        finally:
            for waiter in waiters.values():
                waiter.cancel()

    def start(self, keys: tuple[K, ...]) -> _Flight[K, R]:
        """Start a load in the background. One that is under way already goes on, for those who wait for it."""
        flight: _Flight[K, R] = _Flight(keys)
        self._spawn(self._fly, flight, name=f"load of {self._describe(keys)}")
        self._flying.update(dict.fromkeys(keys, flight))
        return flight

    def outdate(self, key: K) -> None:
        """Callers that come from now on get a load of this key that begins from now on."""
        self._flying.pop(key, None)

    async def _fly(self, flight: _Flight[K, R]) -> None:
        try:
            found = await self._load(flight.keys)
            results = {key: found.get(key) for key in flight.keys}
            for key, waiter in self._land(flight):
                if not waiter.done():
                    waiter.set_result(results[key])
        except DollopError as error:
            self._fail(flight, error)
        except Exception as error:
            unexpected = SourceUnavailableError(f"{self._describe(flight.keys)}: {error!r}")
            unexpected.__cause__ = error
            self._fail(flight, unexpected)
        except BaseException:
            self._fail(flight, ClosedError(f"{self._describe(flight.keys)}: closed while loading"))
            raise

    def _fail(self, flight: _Flight[K, R], error: DollopError) -> None:
        for _, waiter in self._land(flight):
            if not waiter.done():
                waiter.set_exception(own_copy(error))

    def _land(self, flight: _Flight[K, R]) -> list[tuple[K, asyncio.Future[R | None]]]:
        """The keys are free again; returns who waits."""
        for key in flight.keys:
            if self._flying.get(key) is flight:
                del self._flying[key]
        waiting, flight.waiting = flight.waiting, []
        return waiting


def own_copy(error: DollopError) -> DollopError:
    """The same error for one more caller: a traceback grows with every task that raises it."""
    own = copy.copy(error)
    own.__cause__ = error.__cause__
    return own
