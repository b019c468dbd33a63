"""Where a node or a repository was opened: the process and the event loop, which are the only ones that may use it.

A forked child has copies of everything its parent had open: of the rows, which nobody keeps in step there, and of the
sockets, on which a second speaker would end the parent's connections. So what was open is closed in the child, without
a word on any socket, and may be opened there anew.
"""

from __future__ import annotations

import asyncio
import os
import weakref
from collections.abc import Callable
from typing import Final

from .errors import ClosedError

__all__ = ["LoopBinding"]

_bindings: Final[weakref.WeakSet[LoopBinding]] = weakref.WeakSet()

_inherited: Final[list[object]] = []
"""What a forked child must neither use nor collect: the end of a connection may say goodbye for the parent."""


class LoopBinding:
    """The process and the event loop in which something was opened.

    `forked` is called in a forked child; it returns what belongs to the parent.
    """

    def __init__(self, label: str, forked: Callable[[], object]) -> None:
        self._label = label
        self._loop = asyncio.get_running_loop()
        self._process = os.getpid()
        self._forked = weakref.WeakMethod(forked)
        self.inherited: bool = False
        _bindings.add(self)

    def check(self) -> None:
        """Raises `ClosedError` in a forked child, and where another event loop runs than that of opening."""
        if self.inherited:
            raise self.error()
        try:
            here = asyncio.get_running_loop()
        except RuntimeError:
            return  # a thread without an event loop, which may look at what is in memory
        if here is not self._loop:
            raise self.error()

    def error(self) -> ClosedError:
        """What to say to a user in the wrong place."""
        if self.inherited:
            return ClosedError(
                f"{self._label} was opened by process {self._process}, and this is a fork of it, process {os.getpid()}:"
                " open it anew here, or fork before it is opened"
            )
        return ClosedError(
            f"{self._label} was opened in another event loop than the one that runs here: use it in that loop only, as"
            " by asyncio.run_coroutine_threadsafe(), or open another one here"
        )

    def left(self) -> None:
        """It was closed."""
        _bindings.discard(self)

    def note_fork(self) -> None:
        """This process is a fork of the one that opened it."""
        forked = self._forked()
        self.inherited = True
        if forked is not None:
            _inherited.append(forked())


def _after_fork() -> None:
    bindings = list(_bindings)
    _bindings.clear()
    _inherited.extend(bindings)
    for binding in bindings:
        binding.note_fork()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_after_fork)
