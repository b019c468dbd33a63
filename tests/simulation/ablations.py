"""Safeguards that can be switched off by name, to see whether their absence is found.

Each is a patch around the product's code, which has no such switches itself. To add one, write a function that swaps
what the safeguard consists of, with `ablation` and one line that says what is no longer done.
"""

from __future__ import annotations

import asyncio
import contextlib
import inspect
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from types import SimpleNamespace
from typing import Any, Final

import msgspec

from imperfect_dollop import filling, flight, membership, seat, session, sourcing, upkeep, writing
from imperfect_dollop.broker import Gap
from imperfect_dollop.errors import ClosedError, LoadTimeoutError, SourceUnavailableError
from imperfect_dollop.replica import (
    buffer,
    comparison,
    disputes,
    holding,
    loads,
    members,
    own_writes,
    progress,
    replica,
    rules,
    snapshot,
    stamp,
    table,
    window,
)
from imperfect_dollop.replica.messages import FOR_ALL

__all__ = ["ABLATIONS", "without"]

Patch = Callable[["Swap"], None]


class Swap:
    """Replaces attributes of classes and modules until it is closed."""

    def __init__(self, stack: ExitStack) -> None:
        self._stack = stack

    def __call__(self, owner: Any, name: str, make: Callable[[Any], Any]) -> None:
        """`make` is given what is there, and returns what is to be there."""
        held = vars(owner)[name]
        self._stack.callback(setattr, owner, name, held)
        setattr(owner, name, make(held))


class Ablation(msgspec.Struct, frozen=True):
    """A safeguard that is off.

    `means`: what is no longer done. `along`: what else has to be off as well, since it makes up for it. `covered`: why
    no promise is broken in any of these runs all the same.
    """

    name: str
    means: str
    patch: Patch
    along: tuple[str, ...] = ()
    covered: str = ""


ABLATIONS: Final[dict[str, Ablation]] = {}


def ablation(
    name: str, means: str, *, along: tuple[str, ...] = (), covered: str = ""
) -> Callable[[Patch], Patch]:
    """Register a patch."""

    def register(patch: Patch) -> Patch:
        ABLATIONS[name] = Ablation(name, means, patch, along, covered)
        return patch

    return register


@contextmanager
def without(*names: str) -> Iterator[None]:
    """The product with these safeguards off, while the block runs. Raises `KeyError` for an unknown name."""
    with ExitStack() as stack:
        swap = Swap(stack)
        for name in names:
            ABLATIONS[name].patch(swap)
        yield


def _nothing(*args: Any, **kwargs: Any) -> None:
    return None


# -- order ---------------------------------------------------------------------------------------------


@ablation("tombstones", "nothing is remembered of a row that was deleted")
def _tombstones(swap: Swap) -> None:
    swap(table.Table, "bury", lambda held: lambda self, key, stamp: self.forget(key))


@ablation("tombstone-age", "tombstones are forgotten at the next sweep, however young")
def _tombstone_age(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def sweep(self: Any, now: float, *rest: Any) -> Any:
            return held(self, now + holding.TOMBSTONE_SECONDS, *rest)

        return sweep

    swap(replica.Replica, "sweep", make)
    swap(session, "SWEEP_SECONDS", lambda held: 0.1)


@ablation(
    "horizon",
    "tombstones are forgotten by age, whether every live node has been heard since or not",
)
def _horizon(swap: Swap) -> None:
    swap(holding, "TOMBSTONE_SECONDS", lambda held: 0.0)
    swap(session, "SWEEP_SECONDS", lambda held: 0.1)
    swap(
        replica.Replica,
        "sweep",
        lambda held: lambda self, now, horizon, members: held(self, now, 2**63, members),
    )


@ablation("base", "an event is applied whatever it was built on")
def _base(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def apply(self: Any, event: Any, *rest: Any) -> Any:
            if event.kind not in FOR_ALL:
                base = self._holding.table.stamp(self._holding.keys.decode(event.key))
                event = msgspec.structs.replace(event, base=base)
            return held(self, event, *rest)

        return apply

    swap(rules.Rules, "apply", make)


@ablation(
    "base-agrees", "an event that is newer by version and time is applied whatever it was built on"
)
def _base_agrees(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def apply(self: Any, event: Any, *rest: Any) -> Any:
            if event.kind not in FOR_ALL:
                mine = self._holding.table.stamp(self._holding.keys.decode(event.key))
                if event.stamp.version > mine.version and event.stamp.time > mine.time:
                    event = msgspec.structs.replace(event, base=mine)
            return held(self, event, *rest)

        return apply

    swap(rules.Rules, "apply", make)


@ablation(
    "base-begins",
    "the base of a write is what is held when the source answers, not when the write began",
)
def _base_begins(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def wrote(self: Any, write: Any, kind: Any, key: Any, *rest: Any) -> Any:
            write.base = self.table.stamp(key)
            return held(self, write, kind, key, *rest)

        return wrote

    swap(replica.Replica, "wrote", make)


@ablation(
    "backwards",
    "an update to an older version passes as a clean successor, an older version of a sibling as newer",
    along=("untold",),
)
def _backwards(swap: Swap) -> None:
    for module in (rules, loads):
        swap(module, "backwards", lambda held: lambda *states: False)


@ablation("load-window", "a load's word counts even if an event has spoken about the key meanwhile")
def _load_window(swap: Swap) -> None:
    swap(window.Window, "untouched", lambda held: lambda self, key, load: True)
    swap(window.Window, "overrun", lambda held: lambda self, load: False)


@ablation(
    "doubtful",
    "keys on which a complete load was not believed are not read again",
)
def _doubtful(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def replace(self: Any, load: Any, *rest: Any, **more: Any) -> Any:
            for found in held(self, load, *rest, **more):
                load.doubtful.clear()
                yield found
            load.doubtful.clear()

        return replace

    swap(replica.Replica, "replace", make)


@ablation("proven", "it is not remembered when a row was read again and found the same")
def _proven(swap: Swap) -> None:
    swap(holding.Holding, "proven", lambda held: lambda self, key: 0)


@ablation(
    "absent-restamped", "a row that is found absent again keeps the stamp of its old tombstone"
)
def _absent_restamped(swap: Swap) -> None:
    swap(holding.Holding, "still_absent", lambda held: lambda self, key, load: None)


@ablation("doubt", "keys in doubt are not read again")
def _doubt(swap: Swap) -> None:
    swap(upkeep.Upkeep, "doubt", lambda held: lambda self, keys: None)


# -- losses --------------------------------------------------------------------------------------------


@ablation("sequence", "a number that is skipped is not noticed")
def _sequence(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def take(self: Any, events: Any, *rest: Any) -> Any:
            if events.first > self.progress.last(events.origin) + 1:
                self.progress.saw(events.origin, events.first - 1)
            return held(self, events, *rest)

        return take

    swap(replica.Replica, "_take", make)


@ablation("heartbeat-sequence", "a heartbeat that knows of a later event is not listened to")
def _heartbeat_sequence(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def heard(self: Any, origin: str, peer: Any, *rest: Any, **how: Any) -> Any:
            if not self.cold:
                peer = msgspec.structs.replace(peer, sequence=self.progress.last(origin))
            return held(self, origin, peer, *rest, **how)

        return heard

    swap(replica.Replica, "heard", make)


@ablation("digest", "digests that differ are not noticed")
def _digest(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def heard(self: Any, origin: str, peer: Any, *rest: Any, **how: Any) -> Any:
            same = msgspec.structs.replace(peer, digest=self.table.root)
            return held(self, origin, same, *rest, **how)

        return heard

    swap(replica.Replica, "heard", make)


@ablation("epoch", "a gap that the broker tells of is not believed: trimmed, empty, overflown")
def _epoch(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def deliver(self: Any, delivery: Any) -> int:
            return 1 if isinstance(delivery, Gap) else int(held(self, delivery))

        return deliver

    swap(membership.Membership, "_deliver", make)


@ablation(
    "gap-on-reconnect",
    "nothing is thought to be missed between two links where the broker keeps nothing",
)
def _gap_on_reconnect(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def missed(self: Any, reason: str) -> None:
            if not reason.startswith("nothing was heard"):
                held(self, reason)

        return missed

    swap(membership.Membership, "_missed", make)


@ablation("skipped-numbers", "events that were given up leave no hole in the numbers")
def _skipped_numbers(swap: Swap) -> None:
    swap(replica.Replica, "skip", lambda held: _nothing)


@ablation("resync", "nothing is done when something is missing")
def _resync(swap: Swap) -> None:
    swap(upkeep.Upkeep, "resync", lambda held: _nothing)


@ablation("deaf", "a link that only looks alive is not given up")
def _deaf(swap: Swap) -> None:
    swap(members.Members, "deaf", lambda held: lambda self, now: False)


@ablation("rewind", "what was under way on a link that is lost is not sent again")
def _rewind(swap: Swap) -> None:
    swap(seat.Seat, "rewind", lambda held: _nothing)


# -- cold ----------------------------------------------------------------------------------------------


@ablation(
    "buffer",
    "events that come while the replica is cold are dropped",
)
def _buffer(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def add(self: Any, events: Any, now: float) -> None:
            self.tail[events.origin] = events.first + len(events.events) - 1

        return add

    swap(buffer.Buffer, "add", make)


@ablation(
    "echo",
    "a newcomer does not wait for its own echo before it takes a copy",
    covered="a link delivers from the moment of connecting, by contract; that of somebody else may not",
)
def _echo(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def connected(self: Any, link: Any) -> Any:
            pipeline = held(self, link)
            self.listening, self._listening_since = True, time.monotonic()
            return pipeline

        return connected

    swap(membership.Membership, "_connected", make)


class _Anything:
    """Equal to all."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return True

    def __ne__(self, other: object) -> bool:
        return False


@ablation(
    "snapshot-digest",
    "a copy is believed whatever it adds up to",
    covered="events are waited for up to the donor's vector, so a copy adds up; it would show a fault of ours",
)
def _snapshot_digest(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def finish(self: Any, now: float) -> Any:
            footer = self.footer
            if footer is not None:
                self._frames.footer = SimpleNamespace(
                    vector=footer.vector,
                    digest=_Anything(),
                    entities=_Anything(),
                    clean=footer.clean,
                )
            return held(self, now)

        return finish

    swap(snapshot.Joiner, "_finish", make)


@ablation(
    "snapshot-vector",
    "events that a copy contains already are played over it",
)
def _snapshot_vector(swap: Swap) -> None:
    swap(snapshot.Joiner, "_covered", lambda held: lambda self, key, origin, number: False)


@ablation(
    "catch-up",
    "a copy is taken over before the events that its donor had seen are there",
)
def _catch_up(swap: Swap) -> None:
    swap(snapshot.Joiner, "arrived", lambda held: property(lambda self: self.footer is not None))


@ablation("donor-resets", "a donor that was cleared before its first frame gives what is left")
def _donor_resets(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def frames(self: Any) -> Any:
            self._resets = self._replica.resets
            yield from held(self)

        return frames

    swap(snapshot.Donor, "frames", make)


@ablation("clean-donor", "a copy that its owner does not vouch for is taken for a good one")
def _clean_donor(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def donor(self: Any, *args: Any, clean: bool, without: Any) -> Any:
            return held(self, *args, clean=False, without=without)

        return donor

    def vouch(held: Any) -> Any:
        def init(self: Any, replica: Any, take: Any, clean: Any, *rest: Any, **more: Any) -> None:
            held(self, replica, take, lambda: True, *rest, **more)

        return init

    swap(members.Members, "donor", make)
    swap(snapshot.Donor, "__init__", vouch)


@ablation("cold-guard", "a read before the first complete load is answered with what is there")
def _cold_guard(swap: Swap) -> None:
    async def warm(self: Any) -> None:
        await asyncio.sleep(0)

    swap(filling.Filling, "warm", lambda held: warm)


@ablation("turn", "every cold node loads, whoever else does")
def _turn(swap: Swap) -> None:
    async def turn(self: Any, failures: int) -> bool:
        await asyncio.sleep(0)
        return True

    swap(seat.Seat, "turn", lambda held: turn)


# -- calls ---------------------------------------------------------------------------------------------


@ablation("settle", "a writer whose write raced with an event does not wait for the source's word")
def _settle(swap: Swap) -> None:
    async def settle(self: Any, key: Any, write: Any) -> None:
        self._replica.no_longer_awaited(key, write.answered)
        self._upkeep.doubt([key])

    swap(writing.Writer, "_show_written", lambda held: settle)


@ablation("settle-fails", "a raced write that the source could not settle is said to be done")
def _settle_fails(swap: Swap) -> None:
    def make(held: Any) -> Any:
        async def settle(self: Any, key: Any, write: Any) -> None:
            with contextlib.suppress(SourceUnavailableError, LoadTimeoutError):
                await held(self, key, write)

        return settle

    swap(writing.Writer, "_show_written", make)


@ablation(
    "write-lock",
    "two writes of a key on one node are under way at once",
)
def _write_lock(swap: Swap) -> None:
    swap(writing.Writer, "_turn", lambda held: lambda self, key: asyncio.Lock())


@ablation("unsure-after-failed-write", "a write that failed is taken for one that did not happen")
def _unsure(swap: Swap) -> None:
    swap(writing.Writer, "_doubt", lambda held: _nothing)


@ablation("late", "a write that ends after it was given up goes unnoticed")
def _late(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def write(self: Any, what: str, call: Any, late: Any) -> Any:
            return held(self, what, call, lambda: None)

        return write

    swap(sourcing.Reader, "write", make)


@ablation("carry-through", "a write ends where its caller is cancelled")
def _carry_through(swap: Swap) -> None:
    def carry_on(self: Any, call: Any, finish: Any) -> None:
        call.give_up(ClosedError("its caller has gone"))
        begun = inspect.getclosurevars(finish).nonlocals
        self._calls.discard(call)
        self._over(begun["turn"], begun["write"])  # without what follows on it

    swap(writing.Writer, "_carry_on", lambda held: carry_on)


@ablation(
    "own-futures",
    "callers that wait for one load share a future, which the first that is cancelled cancels",
)
def _own_futures(swap: Swap) -> None:
    async def join(self: Any, key: Any) -> Any:
        started = self._flying.get(key) or self.start((key,))
        if not started.waiting:
            started.waiting.append((key, asyncio.get_running_loop().create_future()))
        return await started.waiting[0][1]

    swap(flight.Flights, "join", lambda held: join)


@ablation("deadline", "a call of the source that hangs is waited for, for ever")
def _deadline(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def init(self: Any, *args: Any, **more: Any) -> None:
            held(self, *args, **{**more, "timeout": None})

        return init

    swap(sourcing.Reader, "__init__", make)


@ablation("drift", "a time from the future is believed, however far")
def _drift(swap: Swap) -> None:
    def observe(self: Any, time: int, now: float) -> bool:
        self.time = max(self.time, time)
        return True

    swap(stamp.HybridClock, "observe", lambda held: observe)


@ablation("resend", "an origin that is asked for what did not arrive does not send it again")
def _resend(swap: Swap) -> None:
    swap(seat.Seat, "missed", lambda held: lambda self, ask: None)


@ablation("holes", "what is sent again counts as seen, since later events were")
def _holes(swap: Swap) -> None:
    swap(progress.Progress, "news", lambda held: lambda self, origin, n: n > self.last(origin))


@ablation("looked-around", "what is missing of an origin that is gone is waited for, for ever")
def _looked_around(swap: Swap) -> None:
    swap(replica.Replica, "looked_around", lambda held: lambda self, members: [])


@ablation("vanished", "nobody looks for what a member has written that vanished")
def _vanished(swap: Swap) -> None:
    swap(upkeep.Upkeep, "look_after", lambda held: lambda self, since, ago: None)


@ablation("covers", "a sibling's row is taken over whether it knew as much or not")
def _covers(swap: Swap) -> None:
    swap(comparison.Comparison, "_covers", lambda held: lambda self, vector: True)


@ablation("untold", "a sibling's row is taken over whether it knew what was read here or not")
def _untold(swap: Swap) -> None:
    swap(replica.Replica, "read_untold", lambda held: lambda self, now: None)


@ablation(
    "contained",
    "what a comparison's donor has seen, and has not come here, counts as older than what came meanwhile",
    covered="whoever sent it sends it again, and those who have heard of both are in doubt, read and tell",
)
def _contained(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def contains(self: Any, load: Any, vector: Any) -> Any:
            held(self, load, vector)
            return []

        return contains

    swap(replica.Replica, "contains", make)


@ablation(
    "refused", "after a refusal the row is read again in the background, and nobody waits for that"
)
def _refused(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def refused(self: Any, write: Any, key: Any, now: float) -> Any:
            effects = held(self, write, key, now)
            self.no_longer_awaited(key, write.answered)
            return effects

        return refused

    swap(replica.Replica, "refused", make)


@ablation("own-writes", "a write that rivals have overtaken returns at once")
def _own_writes(swap: Swap) -> None:
    swap(replica.Replica, "shows", lambda held: lambda self, key, moment: True)


@ablation(
    "frozen", "events change what is held for a key while a write of this node waits to be shown"
)
def _frozen(swap: Swap) -> None:
    swap(own_writes.Unshown, "__contains__", lambda held: lambda self, key: False)


@ablation("invalidate", "an invalidate whose read events have overtaken returns at once")
def _invalidate(swap: Swap) -> None:
    async def nothing(self: Any, keys: Any) -> None:
        pass

    swap(upkeep.Upkeep, "_read_until_shown", lambda held: nothing)


@ablation("answers", "a sibling's re-read is taken for the answer to any doubt")
def _answers(swap: Swap) -> None:
    swap(disputes.Disputes, "settles", lambda held: lambda self, key, known, answers: bool(answers))


@ablation("join", "of two that said the same the later stamp is kept")
def _join(swap: Swap) -> None:
    def make(held: Any) -> Any:
        return lambda one, other: max(one, other, key=lambda stamp: (stamp.time, stamp.origin))

    swap(holding, "join", make)


@ablation("remembered", "a row from before the oldest tombstone is taken for a new one")
def _remembered(swap: Swap) -> None:
    swap(holding.Holding, "remembered", lambda held: lambda self, now: 0)


@ablation("dropped", "a copy from before everything was dropped is taken after it")
def _dropped(swap: Swap) -> None:
    def make(held: Any) -> Any:
        def cleared(self: Any) -> Any:
            effects = held(self)
            self.dropped = 0
            return effects

        return cleared

    swap(replica.Replica, "cleared", make)
