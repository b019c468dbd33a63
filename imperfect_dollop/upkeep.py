"""The background work for one repository: fill it, keep it fresh, repair it.

The replica decides *that* something is to be done and says so in effects; what is done, when, and how often after a
failure, is decided here. There is one loop, so a repository never does two of these at once:

1. cold: fill - from a sibling, from the source when it is this node's turn, or as `bootstrap` says;
2. something is missing, a caller asks, or `ttl` is over: load everything and publish the differences;
3. some keys are in doubt: read those again;
4. otherwise wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import itertools
import logging
import random
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Generic, Literal, Protocol, TypeAlias, TypeVar

import anyio
import anyio.lowlevel

from .errors import ClosedError, DollopError, InvalidEntityError, NotReadyError
from .flight import own_copy
from .freshness import Backoff, due_after
from .replica.messages import Event, Kind, Phase
from .replica.replica import Cleared, Effect, Replica, Reread, Resync
from .replica.stamp import seconds
from .sourcing import Reader, source_read
from .stats import Stats

__all__ = ["Place", "Siblings", "Upkeep"]

K = TypeVar("K")
V = TypeVar("V")

logger: Final = logging.getLogger(__name__)

Place: TypeAlias = "Literal['sibling', 'source'] | Callable[..., AsyncIterable[Any]]"

MAX_DOUBTS: Final = 10_000
"""Keys waiting to be read again. More, and everything is loaded instead."""

REREAD_BATCH: Final = 200
"""Keys read again in one call of the source."""

MAX_CANCELLED: Final = 1_000
"""Callers that have gone, before the queues are cleared of them."""

MAX_DETOURS: Final = 3
"""Siblings' copies that may turn out useless before the source is asked out of turn."""

ELSEWHERE_PAUSE: Final = 0.5
"""Seconds after which it is looked again whether a sibling has finished a refresh that is due here too."""


class Siblings(Protocol):
    """What upkeep asks of the node: the other copies of the same repository."""

    def publish(self, event: Event) -> None:
        """Queue an event for the siblings."""
        ...

    def changed(self) -> None:
        """The phase has changed, which siblings should know at once."""
        ...

    async def snapshot(self, *, clean: bool) -> list[Effect] | None:
        """Fill the cold replica from a sibling's copy; ``None`` if no copy was to be had."""
        ...

    async def turn(self, failures: int) -> bool:
        """Wait until this node may load for all (True), or somebody has a copy to give (False)."""
        ...

    def refreshing(self) -> bool:
        """Whether a sibling is loading everything to publish the differences."""
        ...

    def horizon(self) -> int:
        """The hybrid time up to which every live node was heard."""
        ...


class Upkeep(Generic[K, V]):
    """Owns a replica's state of repair. `run` is the loop; everything else only leaves it notes."""

    def __init__(
        self,
        replica: Replica[K, V],
        reader: Reader[K, V],
        stats: Stats,
        *,
        siblings: Siblings | None,
        bootstrap: Sequence[Place],
        owner: object,
        label: str,
        ttl: float | None,
        jitter: float,
        retry_after: float,
        can_reread: bool,
    ) -> None:
        self.name: str = reader.name
        self.label = label  # node and repository, for the log
        self.replica = replica
        self._reader = reader
        self._stats = stats
        self._siblings = siblings
        self._bootstrap = tuple(place for place in bootstrap if siblings or place != "sibling")
        self._owner = owner
        self._ttl = ttl
        self._jitter = jitter
        self._can_reread = can_reread
        self._backoff = Backoff(retry_after)
        self._not_before = 0.0  # monotonic: nothing is tried earlier
        self._wake = asyncio.Event()
        self._doubts: dict[K, None] = {}
        self._asked: list[asyncio.Future[None]] = []
        self._waiting: list[asyncio.Future[None]] = []
        self._cancelled = 0  # waiters that are still in their queue
        self._attempted = asyncio.Event()
        self.trying: bool = True  # an attempt to fill is under way, or the first has yet to begin
        self._tell = False  # what the comparison finds is news to the siblings too
        self._once_more = False  # cleared while an attempt was under way
        self.missing: str | None = None  # why everything has to be compared
        self._comparing: str | None = None  # because this was missing
        self.filled_by: str = "nobody"
        self.on_reread: Callable[[Any], None] = lambda key: None
        self.failure: DollopError | None = None  # the last, while nothing has succeeded since
        self.phase: Phase = Phase.COLD
        self.failures: int = 0  # attempts to fill that failed
        self.alive_since: float | None = None  # wall clock
        self._confirmed = 0
        self._confirmed_at = 0.0  # monotonic
        self._due_in = self._draw()
        self.on_warm: Callable[[], None] = lambda: None
        self.on_cold: Callable[[], None] = lambda: None
        self.on_doubt_of_all: Callable[[], None] = lambda: None
        self.on_change: Callable[[], None] = lambda: None  # in what the state depends on
        self.on_stale: Callable[[], None] = lambda: None
        self.stale: bool = False  # all that is held is older than ttl
        self._stale_timer: asyncio.TimerHandle | None = None
        self._load_failed = False  # of everything, and nobody's has succeeded since

    # -- what is known ---------------------------------------------------------------------------

    @property
    def clean(self) -> bool:
        """Whether nothing is known to be wrong with what is held."""
        return self.missed is None and not self._doubts

    @property
    def missed(self) -> str | None:
        """Why everything has to be compared, or is being compared; ``None`` where nothing is known to be missing."""
        return self.missing or self._comparing

    @property
    def age(self) -> float | None:
        """Seconds since the last complete read began. Measured, so a clock that is set changes nothing."""
        self._note_age()
        if self.replica.confirmed == 0:
            return None
        return max(0.0, time.monotonic() - self._confirmed_at)

    @property
    def may_try(self) -> bool:
        """Whether the pause after the last failure is over."""
        return time.monotonic() >= self._not_before

    async def next_attempt(self) -> None:
        """Wait for the end of an attempt to fill, under way or to come.

        Raises `NotReadyError` if it fails.
        """
        if self.replica.cold:
            await self._wait_in(self._waiting)

    async def warm(self) -> None:
        """Wait until the set is complete; for no longer than the attempt that is under way.

        Raises `NotReadyError` when the attempt fails, or none is under way since the last failed.
        """
        while self.replica.cold:
            if not self.trying:
                raise self.not_ready()
            await self.next_attempt()

    async def attempted(self) -> None:
        """Wait until the first attempt to fill has ended, well or not."""
        await self._attempted.wait()

    # -- notes for the loop ----------------------------------------------------------------------

    def take(self, effects: Iterable[Effect]) -> None:
        """Effects of the replica."""
        for effect in effects:
            if isinstance(effect, Reread):
                self.doubt(effect.keys)
            elif isinstance(effect, Resync):
                self.resync(effect.reason)
            elif isinstance(effect, Cleared):
                self.cleared()
        self._note_age()

    def in_doubt(self, key: K) -> bool:
        """Whether this key is still to be read again."""
        return key in self._doubts

    def doubt(self, keys: Iterable[Any]) -> None:
        """Read these keys again."""
        if self.replica.cold:
            return
        if not self.replica.whole:
            keys = list(keys)
            for key in keys:
                if key not in self.replica.table.live:  # that it is absent is not certain any more
                    self.replica.forget(key)
            keys = [key for key in keys if key in self.replica.table.live]
        self._doubts.update(dict.fromkeys(keys))
        if len(self._doubts) > MAX_DOUBTS or (self._doubts and not self._can_reread):
            self._doubts.clear()
            self.resync("keys are in doubt that cannot be read one by one")
        self._wake.set()

    def resync(self, reason: str, *, tell: bool = False) -> None:
        """Compare everything with the source; `tell` the siblings what differs."""
        self._tell = self._tell or tell
        if not self.replica.whole:
            self._doubts.clear()
            self.on_doubt_of_all()
            return
        self.missing = self.missing or reason or "something was missed"
        self.on_change()
        self._wake.set()

    def cleared(self) -> None:
        """The replica has dropped everything."""
        self._doubts.clear()
        self.missing = None
        self.on_cold()
        if self.replica.whole:
            self._once_more = self.trying = True
            self._set_phase(Phase.COLD)
        self.on_change()
        self._wake.set()

    async def refresh(self) -> None:
        """Load everything, beginning after this call; raises what that load raises."""
        self._wake.set()
        await self._wait_in(self._asked)

    async def _wait_in(self, queue: list[asyncio.Future[None]]) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        queue.append(waiter)
        try:
            await waiter
        finally:
            if waiter.cancelled():
                self._cancelled += 1
                if self._cancelled > MAX_CANCELLED:
                    self._cancelled = 0
                    for waiting in (self._asked, self._waiting):
                        waiting[:] = [other for other in waiting if not other.done()]

    def donor_appeared(self) -> None:
        """A sibling has become ready; a cold replica need not wait for its source any longer."""
        if self.replica.cold:
            self._not_before = 0.0
            self._wake.set()

    def close(self) -> None:
        """Tell whoever still waits."""
        if self._stale_timer is not None:
            self._stale_timer.cancel()
        self._turn_away(ClosedError(f"{self.name}: closed while a call waited"))

    # -- the loop --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Do what is to be done, most urgent first; never returns."""
        while True:
            self._wake.clear()
            pause = self._not_before - time.monotonic()
            due = self._due()
            if self.replica.cold:
                if pause <= 0:
                    await self._fill()
                    continue
            elif self._asked or (pause <= 0 and (self.missing is not None or due == 0)):
                await self._reload()
                continue
            elif self._doubts and pause <= 0:
                with contextlib.suppress(DollopError):  # noted, and tried again after a pause
                    await self.reread(list(itertools.islice(self._doubts, REREAD_BATCH)))
                continue
            elif self.failure is not None and pause <= 0 and self._can_try_source:
                await self._try_source()
                continue
            timeout = pause if pause > 0 else due
            with anyio.move_on_after(timeout):
                await self._wake.wait()

    def _due(self) -> float | None:
        """Seconds until everything is due to be loaded; ``None`` for never."""
        if not self.replica.whole or self._ttl is None or self.replica.cold:
            return None
        age = self.age
        left = 0.0 if age is None else max(0.0, self._due_in - age)
        if left == 0 and self._siblings is not None and self._siblings.refreshing():
            return ELSEWHERE_PAUSE
        return left

    # -- filling ---------------------------------------------------------------------------------

    async def _fill(self) -> None:
        self.trying, self._once_more = True, False
        failure: DollopError | None = None
        try:
            failure = await self._try_places()
        except DollopError as error:
            failure = error
        except Exception as error:
            logger.exception("%s: an attempt to fill crashed", self.label)
            failure = NotReadyError(f"{self.name}: an attempt to fill crashed: {error!r}")
        if self.replica.cold:
            self._set_phase(Phase.COLD)
            if self._once_more:  # cleared meanwhile: that is no failure
                return
        self.trying = False
        self._attempted.set()
        if self.replica.cold:
            self.failures += 1
            self._load_failed = True
            self.source_failed(failure or NotReadyError(f"{self.name}: nothing could be loaded"))
            self._turn_away(self.not_ready())
            return
        self.failures = 0
        self._note_age()
        self.on_warm()
        self._set_phase(Phase.READY)
        self.on_change()
        waiting, self._waiting = self._waiting, []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_result(None)

    async def _try_places(self) -> DollopError | None:
        """Go through `bootstrap` until the replica is warm; the last failure if it is not."""
        failure: DollopError | None = None
        siblings = self._siblings if "sibling" in self._bootstrap else None
        for place in self._bootstrap:
            if place == "sibling":
                if await self._from_sibling(clean=True):
                    return None
                continue
            try:
                if not callable(place):
                    if siblings is not None and await self._sibling_instead(siblings):
                        return None
                    await self._load_cold(self._reader.load_all)
                    self.filled_by = "the source"
                    self.source_answered()
                else:
                    fallback = functools.partial(place, self._owner)
                    await self._load_cold(
                        functools.partial(self._reader.rows_of, fallback), known=False
                    )
                    self.filled_by = "a bootstrap function"
                    # Nobody knows how old these are, so the source is asked as soon as it answers.
                    self.resync("filled by a bootstrap function, not by the source")
            except DollopError as error:
                failure = error
            else:
                return None
        # The source is away. A copy that nobody vouches for is what its readers get as well.
        if siblings is not None and await self._from_sibling(clean=False):
            return None
        return failure or NotReadyError(f"{self.name}: no sibling has a copy to give")

    async def _sibling_instead(self, siblings: Siblings) -> bool:
        """Wait for this node's turn to load; True if a sibling has given its copy meanwhile."""
        for _ in range(MAX_DETOURS):
            if await siblings.turn(self.failures):
                return False
            if await self._from_sibling(clean=True):
                return True
        return False

    async def _from_sibling(self, *, clean: bool) -> bool:
        assert self._siblings is not None
        effects = await self._siblings.snapshot(clean=clean)
        if effects is None:
            return False
        self.filled_by = "a sibling"
        self.take(effects)
        return not self.replica.cold

    async def _load_cold(
        self, read: Callable[[], Awaitable[dict[K, V]]], *, known: bool = True
    ) -> None:
        replica = self.replica
        load = replica.begin_cold_load(time.time())
        if not known:
            load.began = 0
        self._set_phase(Phase.LOADING)
        try:
            with source_read(self._stats, whole=True):
                rows = await read()
            for _ in replica.replace(load, rows, tell=False):
                await anyio.lowlevel.checkpoint()
            if replica.window.overrun(load):
                raise NotReadyError(f"{self.name}: was cleared while it was loaded")
            effects = replica.replay(time.time())
            if not any(isinstance(effect, Cleared) for effect in effects):
                effects += replica.go_warm()
            self.take(effects)
            self.doubt(load.doubtful)
        finally:
            replica.end_load(load)

    # -- repairing -------------------------------------------------------------------------------

    async def _reload(self) -> None:
        """Load everything; what was held stays whatever the load says until it is complete."""
        replica = self.replica
        asked, self._asked = self._asked, []
        missing, self.missing = self.missing, None
        tell, self._tell = self._tell, False
        self._comparing = missing
        # Where events were missed, the differences are news to this node only; unless somebody asked.
        siblings = self._siblings if missing is None or asked or tell else None
        load = replica.begin_load(time.time())
        self._set_phase(Phase.REFRESHING)
        error: DollopError | None = ClosedError(f"{self.name}: closed while it was loaded")
        try:
            with source_read(self._stats, whole=True):
                rows = await self._reader.load_all()
            for found in replica.replace(load, rows, tell=siblings is not None):
                if siblings is not None:
                    for event in found:
                        siblings.publish(event)
                await anyio.lowlevel.checkpoint()
            self.doubt(load.doubtful)
            overrun = replica.window.overrun(load)
            if overrun:
                self._asked, asked = [*asked, *self._asked], []
                if not replica.cold:  # else it was cleared, and is filled next
                    self.missing = self.missing or "too much was written during the load"
            elif siblings is not None:
                siblings.publish(replica.announce(Kind.CONFIRM, None, time.time(), load.began))
            error, self._comparing = None, None
            self._stats.repairs += missing is not None and not overrun
            self._load_failed = False
            self.source_answered()
            self._note_age()
        except DollopError as failure:
            error = failure
            self._load_failed = True
            self.source_failed(failure)
        finally:
            if error is not None:
                self.missing = self.missing or missing
                self._tell = self._tell or tell
            replica.end_load(load)
            self._comparing = None
            if not replica.cold:
                self._set_phase(Phase.READY)
            self.on_change()
            for waiter in asked:
                if waiter.done():
                    continue
                if error is None:
                    waiter.set_result(None)
                else:
                    waiter.set_exception(own_copy(error))

    async def reread(self, keys: Sequence[K]) -> None:
        """Read keys again and publish what differs from what is held.

        Raises what the read raises; of several keys, what is wrong with one does not keep the others,
        and is tried again later.
        """
        if not self._can_reread:
            await self.refresh()
            return
        try:
            await self._reread_together(keys)
        except InvalidEntityError:
            if len(keys) == 1:
                raise
            for key in keys:
                try:
                    await self._reread_together([key])
                except InvalidEntityError:
                    self.doubt([key])

    async def _reread_together(self, keys: Sequence[K]) -> None:
        replica = self.replica
        load = replica.begin_load(time.time())
        try:
            with source_read(self._stats):
                found = await self._reader.load_many(keys)
            for key in keys:
                counts, event = replica.loaded(load, key, found.get(key))
                if counts:
                    self._doubts.pop(key, None)
                    self.on_reread(key)
                else:  # an event has overtaken the load: once more
                    self.doubt([key])
                if event is not None and self._siblings is not None:
                    self._siblings.publish(event)
        except DollopError as error:
            for key in keys:  # after those that may do better
                if key in self._doubts:
                    self._doubts[key] = self._doubts.pop(key)
            self.source_failed(error)
            raise
        finally:
            replica.end_load(load)
        self.source_answered()

    # -- bookkeeping -----------------------------------------------------------------------------

    @property
    def _can_try_source(self) -> bool:
        """On demand there may be nothing to try it with."""
        return self.replica.whole or bool(self.replica.table.live)

    async def _try_source(self) -> None:
        """Look whether it answers again, at the least cost: siblings may refresh the set, or nobody read anything.

        Where all rows could not be read, that one can be says nothing.
        """
        key = next(iter(self.replica.table.live), None)
        if key is None or not self._can_reread or self._load_failed:
            await self._reload()
            return
        with contextlib.suppress(DollopError):  # noted, and tried again after a pause
            await self.reread([key])

    def source_answered(self) -> None:
        """The source works, as far as what failed last: a row that was read does not make up for a load that failed."""
        if self._load_failed:
            return
        self.failure = None
        if self.alive_since is None:
            self.alive_since = time.time()
            self.on_change()
        self._backoff.succeeded()
        self._not_before = 0.0

    def source_failed(self, error: DollopError) -> None:
        """The source does not work."""
        self.failure = error
        self.alive_since = None
        if self.may_try:  # many calls that fail at once are one failure
            self._not_before = time.monotonic() + self._backoff.failed(random.random())
        self.on_change()
        self._wake.set()

    def _note_age(self) -> None:
        """From the wall clock to the monotonic one, as soon as a complete load is heard of."""
        if self.replica.confirmed != self._confirmed:
            self._confirmed = self.replica.confirmed
            elapsed = max(0.0, time.time() - seconds(self._confirmed))
            self._confirmed_at = time.monotonic() - elapsed
            self._due_in = self._draw()
            self._load_failed = self.stale = False
            if self._stale_timer is not None:
                self._stale_timer.cancel()
            if not self.replica.cold:
                self.on_warm()
            if self._ttl is not None and self._confirmed:
                loop = asyncio.get_running_loop()
                self._stale_timer = loop.call_later(self._ttl - elapsed, self._grown_stale)

    def _grown_stale(self) -> None:
        self.stale = True
        self.on_stale()

    def _draw(self) -> float:
        return 0.0 if self._ttl is None else due_after(self._ttl, self._jitter, random.random())

    def _set_phase(self, phase: Phase) -> None:
        if phase is not self.phase:
            self.phase = phase
            if self._siblings is not None:
                self._siblings.changed()

    def _turn_away(self, error: DollopError) -> None:
        """Fail everybody who waits, for a fill or for a refresh."""
        waiting, self._waiting, self._asked = [*self._waiting, *self._asked], [], []
        for waiter in waiting:
            if not waiter.done():
                waiter.set_exception(own_copy(error))

    def not_ready(self) -> NotReadyError:
        """What to tell a reader between two attempts."""
        error = NotReadyError(
            f"{self.name}: not loaded yet: {self.failure}; it is tried again automatically, see"
            " startup= of Node to wait or to raise"
        )
        error.__cause__ = self.failure
        return error
