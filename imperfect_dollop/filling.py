"""How a cold replica gets its rows: the places to look in, one after another, and the callers who wait for it."""

from __future__ import annotations

import asyncio
import functools
import logging
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Sequence
from typing import Any, Final, Generic, Literal, TypeAlias, TypeVar

import anyio.lowlevel

from .errors import DollopError, NotReadyError
from .health import Health
from .letting_go import let_go
from .replica.effects import Cleared, Effect, Reread, Resync
from .replica.messages import Phase
from .replica.replica import Replica
from .siblings import MAX_DETOURS, Siblings
from .sourcing import Found, Reader, source_read
from .stats import Stats
from .waiters import Waiters

__all__ = ["Filling", "Place"]

K = TypeVar("K")
V = TypeVar("V")

logger: Final = logging.getLogger(__name__)

Place: TypeAlias = "Literal['sibling', 'source'] | Callable[..., AsyncIterable[Any]]"


class Filling(Generic[K, V]):
    """One attempt at a time, which whoever drives it makes: effects go to `take`, and `enter` is told of the phase."""

    def __init__(
        self,
        replica: Replica[K, V],
        reader: Reader[K, V],
        stats: Stats,
        health: Health,
        *,
        siblings: Siblings | None,
        bootstrap: Sequence[Place],
        owner: object,
        label: str,
        take: Callable[[list[Effect]], None],
        enter: Callable[[Phase], None],
    ) -> None:
        self._replica = replica
        self._reader = reader
        self._stats = stats
        self._health = health
        self._siblings = siblings if "sibling" in bootstrap else None
        self._bootstrap = tuple(bootstrap)
        self._owner = owner
        self._label = label  # node and repository, for the log
        self._take = take
        self._enter = enter
        self._waiting = Waiters()  # for the end of an attempt
        self._attempted = asyncio.Event()
        self._dropped = False  # everything, while an attempt was under way
        self.trying: bool = True  # an attempt is under way, or the first has yet to begin
        self.filled_by: str = "nobody"

    # -- who waits -------------------------------------------------------------------------------

    async def next_attempt(self) -> None:
        """Wait for the end of an attempt, under way or to come.

        Raises `NotReadyError` if it fails.
        """
        if self._replica.cold:
            await self._waiting.wait()

    async def warm(self) -> None:
        """Wait until the set is complete; for no longer than the attempt that is under way.

        Raises `NotReadyError` when the attempt fails, or none is under way since the last failed.
        """
        while self._replica.cold:
            if not self.trying:
                raise self.not_ready()
            await self.next_attempt()

    async def attempted(self) -> None:
        """Wait until the first attempt has ended, well or not."""
        await self._attempted.wait()

    def answer(self, error: DollopError | None = None) -> None:
        """Tell whoever waits: the set is complete, or it is not."""
        self._waiting.answer(error)

    def not_ready(self) -> NotReadyError:
        """What to tell a reader between two attempts."""
        failure = self._health.failure
        error = NotReadyError(
            f"{self._reader.name}: not loaded yet: {failure}; it is tried again automatically, see"
            " startup= of Node to wait or to raise"
        )
        error.__cause__ = failure
        return error

    # -- an attempt ------------------------------------------------------------------------------

    def cleared(self) -> None:
        """The replica has dropped everything: an attempt follows, or the one under way is made once more."""
        self._dropped = self.trying = True

    async def attempt(self) -> DollopError | None:
        """Look everywhere; why the replica is still cold, or ``None`` if it is not, or was cleared meanwhile."""
        self.trying, self._dropped = True, False
        try:
            failure = await self._try_places()
        except DollopError as error:
            failure = error
        except Exception as error:
            logger.exception("%s: an attempt to fill crashed", self._label)
            failure = NotReadyError(f"{self._reader.name}: an attempt to fill crashed: {error!r}")
        cold = self._replica.cold
        if cold and self._dropped:
            return None  # that is no failure
        self.trying = False
        self._attempted.set()
        if not cold:
            return None
        return failure or NotReadyError(f"{self._reader.name}: nothing could be loaded")

    async def _try_places(self) -> DollopError | None:
        """Go through `bootstrap` until the replica is warm; the last failure if it is not."""
        failure: DollopError | None = None
        tried: set[str] = set()
        for place in self._bootstrap:
            if place == "sibling":
                if await self._from_sibling(clean=True, tried=tried):
                    return None
                continue
            try:
                if callable(place):
                    await self._from_function(place)
                elif not await self._sibling_instead(tried):
                    await self._from_source()
            except DollopError as error:
                failure = error
            else:
                return None
        # The source is away. A copy that nobody vouches for is what its readers get as well.
        if await self._from_sibling(clean=False, tried=set()):
            return None
        return failure or NotReadyError(f"{self._reader.name}: no sibling has a copy to give")

    async def _sibling_instead(self, tried: set[str]) -> bool:
        """Wait for this node's turn to load; True if a sibling has given its copy meanwhile."""
        if self._siblings is None:
            return False
        for _ in range(MAX_DETOURS):
            if await self._siblings.turn(self._health.failures):
                return False
            if await self._from_sibling(clean=True, tried=tried):
                return True
        return False

    async def _from_sibling(self, *, clean: bool, tried: set[str]) -> bool:
        if self._siblings is None:
            return False
        effects = await self._siblings.snapshot(clean=clean, tried=tried)
        if effects is None:
            return False
        self.filled_by = "a sibling"
        self._take(effects)
        return not self._replica.cold

    async def _from_source(self) -> None:
        await self._load(self._reader.load_all)
        self.filled_by = "the source"
        self._health.answered()

    async def _from_function(self, function: Callable[..., AsyncIterable[Any]]) -> None:
        read = functools.partial(self._reader.rows_of, functools.partial(function, self._owner))
        await self._load(read, known=False)
        self.filled_by = "a bootstrap function"
        # Nobody knows how old these are, so the source is asked as soon as it answers.
        self._take([Resync("filled by a bootstrap function, not by the source")])

    async def _load(
        self, read: Callable[[], Awaitable[Found[K, V]]], *, known: bool = True
    ) -> None:
        """Take over all rows; unless they are `known` to be the source's, as of no time."""
        replica = self._replica
        await let_go(replica.table.dropped)  # of a copy of which nothing has come
        load = replica.begin_cold_load(time.time())
        if not known:
            load.began = 0
        self._enter(Phase.LOADING)
        try:
            with source_read(self._stats, whole=True):
                found = await read()
            if known:
                replica.answered(load, time.time())
            for _ in replica.replace(load, found.rows, found.faults, tell=False):
                await anyio.lowlevel.checkpoint()
            if replica.window.overrun(load):
                raise NotReadyError(f"{self._reader.name}: was cleared while it was loaded")
            replica.read_untold(time.time())
            effects = replica.replay()
            if not any(isinstance(effect, Cleared) for effect in effects):
                effects += replica.go_warm()
            self._take([*effects, Reread(tuple(load.doubtful))])
        finally:
            replica.end_load(load)
        await let_go([found.rows])
