"""The background work for one repository: fill it, keep it fresh, repair it.

The replica decides *that* something is to be done and says so in effects; what is done, when, and how often after a
failure, is decided here. There is one loop, so a repository never does two of these at once:

1. cold: fill it, from a sibling, from the source when it is this node's turn, or as `bootstrap` says (`filling`);
2. a caller asks: load everything and publish the differences;
3. something is missing: compare with a clean sibling; if there is none, load everything when it is this node's turn;
4. `ttl` is over, or a sibling has vanished, and it is this node's turn: load everything and publish the differences;
5. a sibling's copy differs: compare with it;
6. some keys are in doubt: read those again, those that a sibling may settle a moment later;
7. otherwise wait.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Iterable, Sequence
from typing import Any, Final, Generic, TypeVar

import anyio
import anyio.lowlevel

from .age import Age
from .clock import monotonic
from .doubts import REREAD_BATCH, Doubts
from .errors import ClosedError, DollopError, InvalidEntityError
from .filling import Filling, Place
from .health import Health
from .letting_go import let_go
from .repairs import Repairs
from .replica.effects import Compare, Effect, Reread, Resend, Resync, Settled
from .replica.messages import Phase
from .replica.replica import Replica
from .siblings import Siblings
from .sourcing import Found, Reader, source_read
from .stats import Stats
from .waiters import Waiters

__all__ = ["Upkeep"]

K = TypeVar("K")
V = TypeVar("V")

MAX_DOUBTS: Final = 10_000
"""Keys waiting to be read again. More, and everything is loaded instead."""

ELSEWHERE_PAUSE: Final = 0.5
"""Seconds after which it is looked again whether a sibling has finished a refresh that is due here too."""


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
        self.replica = replica
        self._reader = reader
        self._stats = stats
        self._siblings = siblings
        self._can_reread = can_reread
        self._wake = asyncio.Event()
        self._load_heard = (
            0.0  # monotonic, when a complete load was last heard of, by whichever node
        )
        self._doubts: Doubts[K] = Doubts()
        self._asked = Waiters()  # for a load of everything
        self.repairs: Repairs = Repairs()
        self._lull = 0.0  # monotonic, when a sibling was last seen to load everything
        self.phase: Phase = Phase.COLD
        self.on_reread: Callable[[Any], None] = lambda key: None
        self.on_warm: Callable[[], None] = lambda: None
        self.on_cold: Callable[[], None] = lambda: None
        self.on_doubt_of_all: Callable[[], None] = lambda: None
        self.on_change: Callable[[], None] = lambda: None  # in what the state depends on
        self.on_stale: Callable[[], None] = lambda: None
        # A load has put these right, which somebody had changed in place.
        self.on_altered: Callable[[Iterable[Any]], None] = lambda keys: None
        self.health: Health = Health(retry_after, self._source_changed)
        self.age: Age = Age(ttl, jitter, self._grown_stale)
        self.filling: Filling[K, V] = Filling(
            replica,
            reader,
            stats,
            self.health,
            siblings=siblings,
            bootstrap=bootstrap,
            owner=owner,
            label=label,
            take=self.take,
            enter=self._set_phase,
        )

    # -- what is known ---------------------------------------------------------------------------

    @property
    def clean(self) -> bool:
        """Whether nothing is known to be wrong with what is held.

        Not every key in doubt is in the queue: a writer who was overtaken reads its row itself.
        """
        replica = self.replica
        in_doubt = bool(self._doubts or replica.disputes)
        return self.repairs.known is None and not in_doubt and replica.progress.complete

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
                self.repairs.differing[effect.origin] = None
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
        if self.repairs.miss(reason, siblings=siblings):
            self._tell_siblings()
        self.on_change()
        self._wake.set()

    def look_after(self, since: int, ago: float) -> None:
        """A member has vanished: since a hybrid time, `ago` seconds ago, the source may have what no sibling knows of.

        A load that had been heard of by then began earlier, whatever its node's clock says.
        """
        if not self.replica.whole:
            self.on_doubt_of_all()
            return
        if self._load_heard < monotonic() - ago:
            since = max(since, self.replica.confirmed + 1)
        self.want_load(since)

    def want_load(self, since: int) -> None:
        """One of all nodes is to load everything, from a hybrid time on; of a whole set."""
        if not self.replica.cold and since > self.replica.confirmed:
            self.repairs.want(since)
            self._wake.set()

    def cleared(self) -> None:
        """The replica has dropped everything."""
        self._doubts.clear()
        self.repairs.clear()
        self.on_cold()
        if self.replica.whole:
            self.filling.cleared()
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
        self.repairs.hope()
        self._wake.set()

    def close(self) -> None:
        """Tell whoever still waits."""
        self.age.close()
        self._turn_away(ClosedError(f"{self._reader.name}: closed while a call waited"))

    # -- the loop --------------------------------------------------------------------------------

    async def run(self) -> None:
        """Do what is to be done, most urgent first; never returns."""
        while True:
            await let_go(self.replica.table.dropped)
            self._wake.clear()
            pause, due = self.health.pause, self._due()  # as of one moment, or none would wake it
            step = self._next_step(due, may_try=pause <= 0)
            if step is not None:
                await step()
                continue
            moments = [one for one in (due, self._doubts.due) if one is not None]
            timeout = pause if pause > 0 else min(moments, default=None)
            with anyio.move_on_after(timeout):
                await self._wake.wait()

    def _next_step(
        self, due: float | None, *, may_try: bool
    ) -> Callable[[], Awaitable[None]] | None:
        """What is to be done now, if anything is.

        `due`: seconds until this node is to load everything. `may_try`: no pause follows on a failure of the source.
        """
        if self.replica.cold:
            return self._fill if may_try else None
        if self._asked:
            return self._reload
        if self._may_compare:
            return self._compare_all
        if may_try and due == 0:
            return self._reload
        if self.repairs.differing:
            return self._compare_one
        if not may_try:
            return None
        if self._doubts.due == 0:
            return self._reread_doubts
        if self.health.failure is not None and self._can_try_source:
            return self._try_source
        return None

    def _due(self) -> float | None:
        """Seconds until this node is to load everything; ``None`` for never.

        The first in line does so when it is due, or up to `jitter` earlier. The others give it time, the longer the
        further behind they are, and none begins while one is at it.
        """
        if not self.replica.whole or self.replica.cold:
            return None
        now, siblings, repairs = monotonic(), self._siblings, self.repairs
        alone = siblings is None or (repairs.missing is not None and repairs.source_only)
        wait = 0.0 if alone or siblings is None else siblings.place(self.health.failures)
        if repairs.load_wanted:
            due: float | None = repairs.since - now
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
        failure = await self.filling.attempt()
        if self.replica.cold:
            self._set_phase(Phase.COLD)
            if failure is not None:
                self.health.failed(failure, load=True)
                self._turn_away(self.filling.not_ready())
            return
        self.note_age()
        self.on_warm()
        self._set_phase(Phase.READY)
        self.on_change()
        self.filling.answer()

    # -- repairing -------------------------------------------------------------------------------

    @property
    def _may_compare(self) -> bool:
        siblings = self._siblings
        return siblings is not None and self.repairs.comparable and siblings.donor()

    async def _compare_all(self) -> None:
        """Something is missing, and a sibling has all of it."""
        assert self._siblings is not None
        effects: list[Effect] | None = None
        self.repairs.begin()
        try:
            effects = await self._siblings.compare(None)
            if effects is None:
                self.repairs.came_to_nothing()
            else:
                self.repairs.made_up()
        finally:
            self.repairs.end()
            self.on_change()
        if effects is not None:
            self._stats.repairs += 1
            self.take(effects)
            self._tell_siblings()

    async def _compare_one(self) -> None:
        """A sibling's copy differs. If nothing comes of it, its next heartbeats tell."""
        assert self._siblings is not None
        origin = next(iter(self.repairs.differing))
        del self.repairs.differing[origin]
        self.take(await self._siblings.compare(origin) or [])

    async def _reload(self) -> None:
        """Load everything; what was held stays whatever the load says until it is complete."""
        replica, repairs, siblings = self.replica, self.repairs, self._siblings
        asked = self._asked.take()
        if siblings is not None and (
            not siblings.audience()
            # Cut off, and trying again and again: that is no news to anybody else.
            or (repairs.missing is not None and not asked and not siblings.hearing())
        ):
            siblings = None
        missing, source_only = repairs.missing, repairs.source_only
        repairs.begin()
        load = replica.begin_load(time.time())
        seen = dict(replica.progress.vector)
        read: Found[K, V] = Found()
        self._set_phase(Phase.REFRESHING)
        error: DollopError | None = ClosedError(f"{self._reader.name}: closed while it was loaded")
        try:
            with source_read(self._stats, whole=True):
                read = await self._reader.load_all()
            replica.answered(load, time.time())
            for found in replica.replace(load, read.rows, read.faults, tell=siblings is not None):
                if siblings is not None:
                    for event in found:
                        siblings.publish(event)
                await anyio.lowlevel.checkpoint()
            if siblings is None:
                replica.read_untold(time.time())
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
                    siblings.publish(replica.confirmation(load))
            error = None
            repairs.made_up()
            self._stats.repairs += missing is not None and not overrun
            self.health.loaded()
            self.health.answered()
            self.note_age()
        except DollopError as failure:
            error = failure
            self.health.failed(failure, load=True)
        finally:
            repairs.end()
            replica.end_load(load)
            if not replica.cold:
                self._set_phase(Phase.READY)
            self.on_change()
            asked.answer(error)
        await let_go([read.rows])

    async def _reread_doubts(self) -> None:
        with contextlib.suppress(DollopError):  # noted, and tried again after a pause
            await self.reread(self._doubts.batch())

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

    async def _found(self, keys: Sequence[K]) -> Found[K, V]:
        """Read keys. If the source refuses to look for a key that is not held, there is no such row."""
        try:
            return await self._reader.load_many(keys)
        except InvalidEntityError:
            if len(keys) == 1 and keys[0] not in self.replica.table.live:
                return Found()
            raise

    async def _reread_together(self, keys: Sequence[K]) -> None:
        replica = self.replica
        load = replica.begin_load(time.time())
        try:
            with source_read(self._stats), self._doubts.reading(keys):
                found = await self._found(keys)
            replica.answered(load, time.time())
            for key in keys:
                fault, unsure = found.faults.get(key), replica.disputes.unsure(key)
                counts, event = replica.loaded(load, key, found.rows.get(key), fault)
                if fault is not None and not unsure:
                    event = None  # siblings in the same doubt find the fault themselves
                if counts:
                    self._doubts.discard(key)
                    self.on_reread(key)
                elif (
                    self.in_doubt(key) and key not in replica.holding.unshown
                ):  # else a writer reads it
                    self.doubt([key])  # events have overtaken the load, and not settled it
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
        if found.faults or replica.table.quarantined:
            self.on_change()

    async def invalidate(self, keys: Sequence[K]) -> None:
        """Read keys again that may have been changed in a way that nobody has told of; raises as `reread`."""
        if not self._can_reread:
            await self.refresh()
            return
        # Not all at once: what is remembered of keys in doubt, and while they are read, has room for so many.
        for first in range(0, len(keys), REREAD_BATCH):
            some = keys[first : first + REREAD_BATCH]
            for key in some:
                self.replica.unsettled(key)
            try:
                await self.reread(some)
                await self._read_until_shown([key for key in some if key in self.replica.disputes])
            finally:  # failed, or cancelled: what may have been changed is still to be read
                self.doubt([key for key in some if key in self.replica.disputes])

    async def _read_until_shown(self, keys: Sequence[K]) -> None:
        """Read keys until this node shows what the source has from now on, whatever events arrive; see `own_writes`."""
        replica = self.replica
        awaited = {key: replica.await_read(key, time.time()) for key in keys}
        try:
            while left := [key for key in keys if not replica.shows(key, awaited[key])]:
                await self.reread(left)
        finally:
            for key, moment in awaited.items():
                replica.no_longer_awaited(key, moment)

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
        self._load_heard = monotonic()
        self.repairs.confirmed(self.replica.confirmed)
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
        self.filling.answer(error)
        self._asked.answer(error)
