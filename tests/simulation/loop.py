"""An event loop in virtual time: one thread, no sockets, and the same order of everything for the same input.

When nothing is ready, time jumps to the next timer. Every callback belongs to the *host* in whose context it was
scheduled (tasks and handles inherit it), so that a host can stand still - what becomes ready meanwhile waits, as for a
process that was stopped - or be dead: its callbacks never run again, and nothing of it says goodbye.

What else could differ between two runs is taken away as well: clocks, chance, and the order of sets, which for
objects without a hash of their own goes by their address.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import heapq
import itertools
import logging
import random
import secrets
import sys
import time
from collections import deque
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from contextvars import Context, ContextVar
from typing import Any, Final, TypeVar

import anyio._backends._asyncio as backend
import xxhash

__all__ = ["HOST", "Host", "LivelockError", "SimLoop", "draw", "simulated", "swept"]

T = TypeVar("T")

BEGINNING: Final = 1_000.0
"""The loop's time when a run begins: anything but zero, which code likes to take for "never"."""

EPOCH: Final = 1_800_000_000.0
"""The true wall clock at the loop's time zero."""

MOST_TURNS: Final = 500
"""Turns of the loop in one moment before time moves on all the same: anyio repeats a cancellation in every turn until
it is heeded, which may take a timer."""

TICK: Final = 0.001

MOST_CALLBACKS: Final = 3_000_000
"""Of a whole run: some thirty times what a busy one takes."""


class LivelockError(Exception):
    """A run does not come to an end."""


class Host:
    """A simulated process on a machine. `offset`: its wall clock's error in seconds."""

    __slots__ = (
        "context",
        "dead",
        "frozen",
        "machine",
        "name",
        "number",
        "offset",
        "parked",
        "stirred",
    )

    def __init__(self, machine: str, life: int = 1, offset: float = 0.0) -> None:
        self.machine = machine
        self.name = machine if life == 1 else f"{machine}.{life}"
        self.offset = offset
        self.frozen = False
        self.dead = False
        self.stirred = False
        self.parked: list[asyncio.Handle] = []
        self.number = 0  # of the draws so far
        self.context: Context = contextvars.copy_context()
        self.context.run(HOST.set, self)


HOST: Final[ContextVar[Host | None]] = ContextVar("host", default=None)

_numbers = itertools.count()


def draw(*what: object) -> float:
    """A number in [0, 1) that depends on its arguments and nothing else."""
    text = ":".join(map(str, what))
    return xxhash.xxh3_64_intdigest(text.encode()) / 2**64


class _Task(asyncio.Task[Any]):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(_numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class _Future(asyncio.Future[Any]):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(_numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class _Scope(backend.CancelScope):
    __slots__ = ("_number",)

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._number = next(_numbers)
        super().__init__(*args, **kwargs)

    def __hash__(self) -> int:
        return self._number


class _Arrival(asyncio.TimerHandle):
    """Something from outside reaches a host."""


class SimLoop(asyncio.BaseEventLoop):
    """`moment` is called each time before time moves on."""

    def __init__(self) -> None:
        super().__init__()
        self.now = BEGINNING
        self.moment: Callable[[], None] = lambda: None
        self.faults: list[str] = []  # what the loop was told of that nobody has caught
        self.callbacks = 0
        self._queue: deque[asyncio.Handle] = deque()
        self._timers: list[tuple[float, int, asyncio.TimerHandle]] = []
        self._order = itertools.count()
        self._turns = 0
        self._over = False
        self._tasks: list[asyncio.Task[Any]] = []
        self._kept: list[asyncio.Future[Any]] = []
        self._graves: list[asyncio.Handle] = []
        self.set_task_factory(self._make)  # type: ignore[arg-type]
        self.set_exception_handler(self._fault)

    # -- what asyncio asks of a loop ---------------------------------------------------------------

    def time(self) -> float:
        return self.now

    def create_future(self) -> asyncio.Future[Any]:
        return _Future(loop=self)

    def _make(
        self, loop: asyncio.AbstractEventLoop, coroutine: Coroutine[Any, Any, T], **kwargs: Any
    ) -> asyncio.Task[T]:
        task = _Task(coroutine, loop=self, **kwargs)
        self._tasks.append(task)
        return task

    def call_soon(  # type: ignore[override]
        self, callback: Callable[..., object], *args: Any, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if not self._over:
            self._queue.append(handle)
        return handle

    call_soon_threadsafe = call_soon  # type: ignore[assignment]  # there is one thread

    def call_later(  # type: ignore[override]
        self,
        delay: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self.call_at(self.now + delay, callback, *args, context=context)

    def call_at(  # type: ignore[override]
        self,
        when: float,
        callback: Callable[..., object],
        *args: Any,
        context: Context | None = None,
    ) -> asyncio.TimerHandle:
        return self._schedule(asyncio.TimerHandle(when, callback, args, self, context))

    def _schedule(self, timer: asyncio.TimerHandle) -> asyncio.TimerHandle:
        if not self._over:
            heapq.heappush(self._timers, (timer.when(), next(self._order), timer))
        return timer

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """They go when their time has come."""

    def _fault(self, loop: object, context: dict[str, Any]) -> None:
        if self._over:
            return
        error = context.get("exception")
        self.faults.append(f"{context.get('message')}: {error!r}")

    # -- hosts -------------------------------------------------------------------------------------

    def at(
        self, when: float, callback: Callable[..., object], *args: object
    ) -> asyncio.TimerHandle:
        """Call something of the world, which belongs to no host."""
        return self.call_at(max(when, self.now), callback, *args, context=_NOWHERE)

    def arrive(
        self, host: Host, when: float, callback: Callable[..., object], *args: object
    ) -> asyncio.TimerHandle:
        """Something from outside reaches a host: it is noticed when the host runs."""
        return self._schedule(_Arrival(max(when, self.now), callback, args, self, host.context))

    def spawn(self, host: Host, coroutine: Coroutine[Any, Any, T], name: str) -> asyncio.Future[T]:
        """Run something on a host."""
        return self.create_task(coroutine, name=name, context=host.context.copy())

    def start(self, host: Host, coroutine: Coroutine[Any, Any, object], name: str) -> None:
        """Run something on a host that nobody waits for."""
        self._kept.append(self.spawn(host, coroutine, name))

    def thaw(self, host: Host, *, timers_first: bool) -> None:
        """A host that stood still goes on. What has arrived meanwhile is read before timers are looked at, or after."""
        host.frozen = False
        parked, host.parked = host.parked, []
        parked.sort(key=lambda handle: isinstance(handle, _Arrival) == timers_first)
        self._queue.extend(parked)

    # -- running -----------------------------------------------------------------------------------

    def _run_once(self) -> None:
        queue, timers = self._queue, self._timers
        if not queue:
            self._turns = 0
            self.moment()
            while timers and timers[0][2].cancelled():
                heapq.heappop(timers)
            if not queue:
                if not timers:
                    raise LivelockError("everybody waits for ever")
                self.now = max(self.now, timers[0][0])
        else:
            self._turns += 1
            if self._turns > MOST_TURNS:
                self._turns = 0
                self.now += TICK
        while timers and timers[0][0] <= self.now:
            queue.append(heapq.heappop(timers)[2])
        for _ in range(len(queue)):
            handle = queue.popleft()
            if handle._cancelled:
                continue
            host = handle._context.get(HOST)  # type: ignore[attr-defined]
            if host is not None:
                if host.dead:
                    self._graves.append(handle)
                    continue
                if host.frozen:
                    host.parked.append(handle)
                    continue
                host.stirred = True
            self.callbacks += 1
            handle._run()
        if self.callbacks > MOST_CALLBACKS:
            raise LivelockError("too much to do")

    def end(self) -> None:
        """Nothing runs any more. What was still under way is closed, and whatever it does then has no effect."""
        self._over = True
        for task in self._tasks:
            if not task.done():
                task._log_destroy_pending = False  # type: ignore[attr-defined]
                coroutine = task.get_coro()
                with contextlib.suppress(Exception, BaseExceptionGroup):
                    coroutine.close()
        for held in (self._tasks, self._queue, self._timers, self._kept, self._graves):
            held.clear()
        self._asyncgens.clear()  # type: ignore[attr-defined]
        self.close()


_NOWHERE: Final = Context()


def _host_draw() -> float:
    host = HOST.get()
    if host is None:
        raise RuntimeError("chance is for hosts")
    host.number += 1
    return draw(_seed, host.name, host.number)


def _host_token(nbytes: int = 32) -> str:
    host = HOST.get()
    if host is None:
        raise RuntimeError("tokens are for hosts")
    host.number += 1
    text = f"{_seed}:{host.name}:token:{host.number}".encode()
    return xxhash.xxh3_128_hexdigest(text)[: 2 * nbytes].rjust(2 * nbytes, "0")


_seed = 0


def _let_go(loop: SimLoop) -> None:
    """What anyio knows of a task refers to it, so what was still under way would be kept for ever."""
    for task in [task for task in backend._task_states if task.get_loop() is loop]:
        del backend._task_states[task]


@contextmanager
def _silence() -> Iterator[None]:
    """What coroutines say when they are ended in the middle is nothing that would happen to the product."""
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    disabled = logging.root.manager.disable
    logging.disable()
    try:
        yield
    finally:
        logging.disable(disabled)
        sys.unraisablehook = hook


def swept() -> None:
    """Collect what a run has left, which no collection has seen yet."""
    with _silence():
        gc.collect(0)


@contextmanager
def simulated(seed: int) -> Iterator[SimLoop]:
    """A loop, and with it the time and the chance of all that runs on it."""
    global _numbers, _seed
    _numbers, _seed = itertools.count(1), seed
    loop = SimLoop()

    def wall() -> float:
        host = HOST.get()
        return EPOCH + loop.now + (0.0 if host is None else host.offset)

    saved = (time.time, time.monotonic, random.random, secrets.token_hex, backend.CancelScope)
    time.time, time.monotonic = wall, loop.time
    random.random, secrets.token_hex = _host_draw, _host_token  # type: ignore[assignment]
    backend.CancelScope = _Scope  # type: ignore[misc]
    collecting = gc.isenabled()
    gc.disable()  # what is collected when would be chance
    try:
        yield loop
    finally:
        with _silence():
            loop.end()
        _let_go(loop)
        time.time, time.monotonic, random.random, secrets.token_hex, backend.CancelScope = saved  # type: ignore[misc]
        if collecting:
            gc.enable()
