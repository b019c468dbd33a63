"""The main job of the library, shown and checked: a few nodes, one table, and a source that goes away.

``python -m imperfect_dollop.demo``, or ``dollop demo``, needs nothing but the extra ``cli``: the table is in
a SQLite file in a temporary directory, the broker is ``memory://``. Every node has a repository and an
engine of its own, as if it were a process of its own; with any other broker it is one.

`run` is the demo without its display.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import signal
import sys
from collections.abc import Coroutine
from typing import Any, Final

from .log import show_log
from .options import Options
from .report import Check, Report, Step
from .urls import Need, needed_for

__all__ = ["Check", "Options", "Report", "Step", "main", "run"]

NEEDED: Final = tuple(
    Need(module, "'imperfect-dollop[cli]'")
    for module in ("rich", "sqlalchemy", "greenlet", "aiosqlite")
)
"""What the extra ``cli`` brings."""


async def run(options: Options) -> Report:
    """Go through all steps; what fails is in the report."""
    from .play import Demo

    return await Demo(options).run()


def main(options: Options) -> int:
    """Run the demo for a person at a terminal; the exit code.

    0 if every check held, 1 if not, 2 if something is not installed, or the broker or the database does not
    let the demo begin, 130 if interrupted.
    """
    missing = [
        need
        for need in (*NEEDED, *needed_for(options.broker, options.database))
        if importlib.util.find_spec(need.module) is None
    ]
    if missing:
        modules = ", ".join(need.module for need in missing)
        installs = " ".join(dict.fromkeys(need.install for need in missing))
        sys.stderr.write(f"the demo needs {modules}: pip install {installs}\n")
        return 2
    from .play import NotBegunError
    from .show import perform

    show_log(options.log)
    try:
        report = asyncio.run(_interruptible(perform(options)))
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 130
    except NotBegunError as error:
        sys.stderr.write(f"{error}\n")
        return 2
    return 0 if report.held else 1


async def _interruptible(performance: Coroutine[Any, Any, Report]) -> Report:
    """SIGTERM ends the demo as Ctrl-C does: no table and no process is left behind."""
    task = asyncio.current_task()
    assert task is not None
    with contextlib.suppress(NotImplementedError):  # on Windows
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await performance
