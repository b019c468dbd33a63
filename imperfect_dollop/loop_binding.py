"""The process and the event loop that opened a node or a repository; no other may use it.

A forked child inherits the rows and the sockets of its parent. The rows are not kept in step in the child, and a second
sender on a socket would break the parent's connection. So the child closes nodes and repositories without sending
anything. The child may open them anew.
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
"""Objects of the parent process that a forked child must neither use nor collect: closing a connection would send."""


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
        """The error that says where the object was opened and where it was used."""
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
        """Forget the binding: node or repository was closed."""
        _bindings.discard(self)

    def note_fork(self) -> None:
        """Mark the object as the parent's: this process is a fork of the process that opened it."""
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
