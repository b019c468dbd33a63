"""The background work for one repository: fill it, keep it fresh, repair it.

The replica decides *that* something is to be done and says so in effects; what is done, when, and how often after a
failure, is decided here. There is one loop, so a repository never does two of these at once:

1. cold: fill - from a sibling, from the source when it is this node's turn, or as `bootstrap` says;
2. a caller asks: load everything and publish the differences;
3. something is missing: compare with a clean sibling; if there is none, load everything when it is this node's turn;
4. a sibling's copy differs: compare with it;
5. `ttl` is over, or a sibling has vanished, and it is this node's turn: load everything and publish the differences;
6. some keys are in doubt: read those again, those that a sibling may settle a moment later;
7. otherwise wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterable, Awaitable, Callable, Collection, Iterable, Sequence
from typing import Any, Final, Generic, Literal, Protocol, TypeAlias, TypeVar

import anyio
import anyio.lowlevel

from .age import Age
from .doubts import Doubts
from .errors import ClosedError, DollopError, InvalidEntityError, NotReadyError
from .health import Health
from .replica.effects import Cleared, Compare, Effect, Reread, Resend, Resync, Settled
from .replica.messages import Event, Kind, Phase
from .replica.replica import Replica
from .sourcing import Reader, source_read
from .stats import Stats
from .waiters import Waiters

__all__ = ["Place", "Siblings", "Upkeep"]

K = TypeVar("K")
V = TypeVar("V")

logger: Final = logging.getLogger(__name__)

Place: TypeAlias = "Literal['sibling', 'source'] | Callable[..., AsyncIterable[Any]]"

MAX_DOUBTS: Final = 10_000
"""Keys waiting to be read again. More, and everything is loaded instead."""

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
        """The phase, or what is missing, has changed, which siblings should know at once."""
        ...

    def ask(self, missing: Resend) -> None:
        """Ask an origin for events that have not come."""
        ...

    async def snapshot(self, *, clean: bool) -> list[Effect] | None:
        """Fill the cold replica from a sibling's copy; ``None`` if no copy was to be had."""
        ...

    async def compare(self, origin: str | None) -> list[Effect] | None:
        """Compare with the copy of `origin`, or with any clean one; ``None`` if no copy was to be had."""
        ...

    def hearing(self) -> bool:
        """Whether what siblings say arrives here, and what is said here there."""
        ...

    def audience(self) -> bool:
        """Whether there is a sibling that can read rows of this shape."""
        ...

    def in_view(self) -> bool:
        """Whether all siblings have been heard of that there are, as far as that can be known."""
        ...

    def donor(self) -> bool:
        """Whether a sibling that can be heard has a copy that it vouches for."""
        ...

    async def turn(self, failures: int) -> bool:
        """Wait until this node may load for all (True), or somebody has a copy to give (False)."""
        ...

    def place(self, failures: int) -> float:
        """Seconds for which this node lets others go first where each of them could load; 0 for the first in line."""
        ...

    def refreshing(self, failures: int) -> bool:
        """Whether a sibling is loading everything to publish the differences, which this node waits for."""
        ...

    def members(self) -> Collection[str]:
        """The origins of the other live nodes."""
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
        self._can_reread = can_reread
        self._wake = asyncio.Event()
        self._doubts: Doubts[K] = Doubts()
        self._asked = Waiters()  # for a load of everything
        self._waiting = Waiters()  # for the end of an attempt to fill
        self._attempted = asyncio.Event()
        self.trying: bool = True  # an attempt to fill is under way, or the first has yet to begin
        self._once_more = False  # cleared while an attempt was under way
        self.missing: str | None = None  # why everything has to be compared
        self._comparing: str | None = None  # because this was missing
        self._differing: dict[str, str] = {}  # siblings to compare with, and why
        self._detours = 0  # comparisons that came to nothing, since this is missing
        self._source_only = False  # siblings' copies do not tell what is missing
        self._wanted = 0  # hybrid time: a complete load, by whichever node, is to begin after it
        self._wanted_at = 0.0  # monotonic, since when that is so, or something is missing
        self._lull = 0.0  # monotonic, when a sibling was last seen to load everything
        self.filled_by: str = "nobody"
        self.phase: Phase = Phase.COLD
        self.on_reread: Callable[[Any], None] = lambda key: None
        self.on_warm: Callable[[], None] = lambda: None
        self.on_cold: Callable[[], None] = lambda: None
        self.on_doubt_of_all: Callable[[], None] = lambda: None
        self.on_change: Callable[[], None] = lambda: None  # in what the state depends on
        self.on_stale: Callable[[], None] = lambda: None
        self.on_altered: Callable[[Iterable[Any]], None] = lambda keys: (
            None
        )  # a load put them right
        self.health: Health = Health(retry_after, self._source_changed)
        self.age: Age = Age(ttl, jitter, self._grown_stale)

    # -- what is known ---------------------------------------------------------------------------

    @property
    def clean(self) -> bool:
        """Whether nothing is known to be wrong with what is held."""
        return self.missed is None and not self._doubts and self.replica.progress.complete

    @property
    def missed(self) -> str | None:
        """Why everything has to be compared, or is being compared; ``None`` where nothing is known to be missing."""
        return self.missing or self._comparing

    async def next_attempt(self) -> None:
        """Wait for the end of an attempt to fill, under way or to come.

        Raises `NotReadyError` if it fails.
        """
        if self.replica.cold:
            await self._waiting.wait()

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
            elif isinstance(effect, Settled):
                for key in effect.keys:
                    self._doubts.discard(key)  # type: ignore[arg-type]
            elif isinstance(effect, Resend):
                if self._siblings is not None:
                    self._siblings.ask(effect)
            elif isinstance(effect, Compare):
                self._differing[effect.origin] = effect.reason
                self._wake.set()
            elif isinstance(effect, Resync):
                self.resync(effect.reason)
            else:
                self.cleared()
        self.note_age()

    def in_doubt(self, key: K) -> bool:
        """Whether what is held for this key may be wrong: it is to be read again here, or when it is asked for."""
        return key in self._doubts or key in self.replica.disputes

    def doubt(self, keys: Iterable[Any]) -> None:
        """Read these keys again, those that events have put in doubt unless a sibling does so first."""
        if self.replica.cold:
            return
        if not self.replica.whole:
            keys = list(keys)
            for key in keys:
                if key not in self.replica.table.live:  # that it is absent is not certain any more
                    self.replica.forget(key)
            keys = [key for key in keys if key in self.replica.table.live]
        siblings = self._siblings is not None and self._siblings.hearing()
        for key in keys:
            self._doubts.add(key, wait=siblings and self.replica.disputes.shared(key))
        if len(self._doubts) > MAX_DOUBTS or (self._doubts and not self._can_reread):
            self._doubts.clear()
            self.resync("keys are in doubt that cannot be read one by one", siblings=False)
        self._wake.set()

    def resync(self, reason: str, *, siblings: bool = True) -> None:
        """Compare everything; with the source, where `siblings` cannot know either."""
        if not self.replica.whole:
            self._doubts.clear()
            self.on_doubt_of_all()
            return
        self._source_only = self._source_only or not siblings
        if self.missing is None:
            self.missing = reason or "something was missed"
            self._wanted_at = time.monotonic()
            self._detours = 0
            self._tell_siblings()
        self.on_change()
        self._wake.set()

    def want_load(self, since: int) -> None:
        """The source may have what no sibling knows of: one of all is to load everything, from a hybrid time on."""
        if not self.replica.whole:
            self.on_doubt_of_all()
        elif not self.replica.cold and since > self.replica.confirmed:
            if not self._wanted:
                self._wanted_at = time.monotonic()
            self._wanted = max(self._wanted, since)
            self._wake.set()

    def cleared(self) -> None:
        """The replica has dropped everything."""
        self._doubts.clear()
        self._differing.clear()
        self.missing = self._comparing = None
        self._source_only, self._wanted = False, 0
        self.on_cold()
        if self.replica.whole:
            self._once_more = self.trying = True
            self._set_phase(Phase.COLD)
        self.on_change()
        self._wake.set()

    async def refresh(self) -> None:
        """Load everything, beginning after this call; raises what that load raises."""
        self._wake.set()
        await self._asked.wait()

    def donor_appeared(self) -> None:
        """Siblings can be heard, or one has a copy to give: what waits for the source need not any longer."""
        if self.replica.cold:
            self.health.hurry()
        self._detours = 0
        self._wake.set()

    def close(self) -> None:
        """Tell whoever still waits."""
        self.age.close()
        self._turn_away(ClosedError(f"{self.name}: closed while a call waited"))

    # -- the loop --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Do what is to be done, most urgent first; never returns."""
        while True:
            self._wake.clear()
            pause = self.health.pause
            due = self._due()
            if self.replica.cold:
                if pause <= 0:
                    await self._fill()
                    continue
            elif self._asked:
                await self._reload()
                continue
            elif self.missing is not None and self._may_compare:
                await self._compare_all()
                continue
            elif self._differing:
                await self._compare_one()
                continue
            elif pause <= 0 and due == 0:
                await self._reload()
                continue
            elif pause <= 0 and self._doubts.due == 0:
                with contextlib.suppress(DollopError):  # noted, and tried again after a pause
                    await self.reread(self._doubts.batch())
                continue
            elif self.health.failure is not None and pause <= 0 and self._can_try_source:
                await self._try_source()
                continue
            moments = [one for one in (due, self._doubts.due) if one is not None]
            timeout = pause if pause > 0 else min(moments, default=None)
            with anyio.move_on_after(timeout):
                await self._wake.wait()

    def _due(self) -> float | None:
        """Seconds until this node is to load everything; ``None`` for never.

        The first in line does so when it is due, or up to `jitter` earlier. The others give it time, the longer the
        further behind they are, and none begins while one is at it.
        """
        if not self.replica.whole or self.replica.cold:
            return None
        now, siblings = time.monotonic(), self._siblings
        alone = siblings is None or (self.missing is not None and self._source_only)
        wait = 0.0 if alone or siblings is None else siblings.place(self.health.failures)
        if self.missing is not None or self._wanted:
            due: float | None = self._wanted_at - now
        else:
            due = self.age.due(jitter=wait == 0)
        if due is None:
            return None
        if due <= 0 and siblings is not None and siblings.refreshing(self.health.failures):
            self._lull = now
            return ELSEWHERE_PAUSE
        if wait:
            due = max(due, self._lull - now) + wait
        return max(0.0, due)

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
            self.health.failed(
                failure or NotReadyError(f"{self.name}: nothing could be loaded"), load=True
            )
            self._turn_away(self.not_ready())
            return
        self.note_age()
        self.on_warm()
        self._set_phase(Phase.READY)
        self.on_change()
        self._waiting.answer()

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
                    self.health.answered()
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
            if await siblings.turn(self.health.failures):
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

    @property
    def _may_compare(self) -> bool:
        siblings = self._siblings
        return (
            siblings is not None
            and not self._source_only
            and self._detours < MAX_DETOURS
            and siblings.donor()
        )

    async def _compare_all(self) -> None:
        """Something is missing, and a sibling has all of it."""
        assert self._siblings is not None
        self._comparing, self.missing = self.missing, None  # neither, once everything is dropped
        effects: list[Effect] | None = None
        try:
            effects = await self._siblings.compare(None)
        finally:
            if effects is None:
                self._detours += 1
                self.missing = self.missing or self._comparing
            self._comparing = None
            self.on_change()
        if effects is not None:
            self._stats.repairs += 1
            self.take(effects)
            self._tell_siblings()

    async def _compare_one(self) -> None:
        """A sibling's copy differs. If nothing comes of it, its next heartbeats tell."""
        assert self._siblings is not None
        origin = next(iter(self._differing))
        del self._differing[origin]
        self.take(await self._siblings.compare(origin) or [])

    async def _reload(self) -> None:
        """Load everything; what was held stays whatever the load says until it is complete."""
        replica, siblings = self.replica, self._siblings
        asked = self._asked.take()
        if siblings is not None and (
            not siblings.audience()
            # Cut off, and trying again and again: that is no news to anybody else.
            or (self.missing is not None and not asked and not siblings.hearing())
        ):
            siblings = None
        missing, self.missing = self.missing, None
        source_only, self._source_only = self._source_only, False
        self._comparing = missing
        load = replica.begin_load(time.time())
        seen = dict(replica.progress.vector)
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
            self.on_altered(load.altered)
            overrun = replica.window.overrun(load)
            if overrun:
                self._asked.give_back(asked)
                if not replica.cold:  # else it was cleared, and is filled next
                    self.resync("too much was written during the load", siblings=not source_only)
            else:
                # What had been sent by then, and has not come, was committed before, so the load contains it.
                self.take(replica.contains(load, seen))
                if siblings is not None:
                    siblings.publish(replica.announce(Kind.CONFIRM, None, time.time(), load.began))
            error, self._comparing = None, None
            self._stats.repairs += missing is not None and not overrun
            self.health.loaded()
            self.health.answered()
            self.note_age()
        except DollopError as failure:
            error = failure
            self.health.failed(failure, load=True)
        finally:
            if error is not None:
                self.missing = self.missing or self._comparing
                self._source_only = self._source_only or (source_only and not replica.cold)
            replica.end_load(load)
            self._comparing = None
            if not replica.cold:
                self._set_phase(Phase.READY)
            self.on_change()
            asked.answer(error)

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
            with source_read(self._stats), self._doubts.reading(keys):
                found = await self._reader.load_many(keys)
            for key in keys:
                counts, event = replica.loaded(load, key, found.get(key))
                if counts:
                    self._doubts.discard(key)
                    self.on_reread(key)
                elif self.in_doubt(
                    key
                ):  # events have overtaken the load, and not settled it: once more
                    self.doubt([key])
                if event is not None and self._siblings is not None:
                    self._siblings.publish(event)
        except DollopError as error:
            self._doubts.postpone(keys)
            self.health.failed(error)
            raise
        finally:
            replica.end_load(load)
            self._wake.set()  # for what has come into doubt while it was being read
        self.health.answered()

    async def invalidate(self, keys: Sequence[K]) -> None:
        """Read keys again that may have been changed in a way that nobody has told of; raises as `reread`."""
        for key in keys:
            self.replica.unsettled(key)
        await self.reread(keys)

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
        if key is None or not self._can_reread or self.health.load_failed:
            await self._reload()
            return
        with contextlib.suppress(DollopError):  # noted, and tried again after a pause
            await self.reread([key])

    def _source_changed(self) -> None:
        self.on_change()
        self._wake.set()

    def _grown_stale(self) -> None:
        self.on_stale()

    def note_age(self) -> None:
        """A complete load, by whichever node, may have been heard of."""
        if not self.age.note(self.replica.confirmed):
            return
        if self._wanted and self.replica.confirmed >= self._wanted:
            self._wanted = 0
        self.health.loaded()
        if not self.replica.cold:
            self.on_warm()

    def _tell_siblings(self) -> None:
        if self._siblings is not None:
            self._siblings.changed()

    def _set_phase(self, phase: Phase) -> None:
        if phase is not self.phase:
            self.phase = phase
            self._tell_siblings()

    def _turn_away(self, error: DollopError) -> None:
        """Fail everybody who waits, for a fill or for a refresh."""
        self._waiting.answer(error)
        self._asked.answer(error)

    def not_ready(self) -> NotReadyError:
        """What to tell a reader between two attempts."""
        error = NotReadyError(
            f"{self.name}: not loaded yet: {self.health.failure}; it is tried again automatically, see"
            " startup= of Node to wait or to raise"
        )
        error.__cause__ = self.health.failure
        return error
