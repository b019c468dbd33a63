"""The main job of the library, shown and checked: a few nodes, one table, and a source that goes away.

``python -m imperfect_dollop.demo``, or ``dollop demo``, needs nothing but the extra ``cli``: the table is in
a SQLite file in a temporary directory, the broker is ``memory://``. Every node has a repository and an
engine of its own, as if it were a process of its own.

`run` is the demo without its display.
"""

from __future__ import annotations

import asyncio
import importlib.util
import logging
import sys
from typing import Final

from .options import Options
from .report import Check, Report, Step

__all__ = ["Check", "Options", "Report", "Step", "main", "run"]

NEEDED: Final = ("rich", "sqlalchemy", "greenlet", "aiosqlite")
"""Modules that the extra ``cli`` brings."""


async def run(options: Options) -> Report:
    """Go through all steps; what fails is in the report."""
    from .play import Demo

    return await Demo(options).run()


def main(options: Options) -> int:
    """Run the demo for a person at a terminal; the exit code.

    0 if every check held, 1 if not, 2 if the extra ``cli`` is not installed, 130 if interrupted.
    """
    missing = [name for name in NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        sys.stderr.write(
            f"the demo needs {', '.join(missing)}, which the extra cli brings:"
            " pip install 'imperfect-dollop[cli]'\n"
        )
        return 2
    from .show import perform

    _log(options.log)
    try:
        report = asyncio.run(perform(options))
    except KeyboardInterrupt:
        return 130
    return 0 if report.held else 1


def _log(level: str | None) -> None:
    """Show the library's log on standard error, or nothing of it: failures are part of the demo."""
    logger = logging.getLogger("imperfect_dollop")
    if level is None:
        logger.addHandler(logging.NullHandler())
    else:
        logging.basicConfig(format="%(asctime)s %(levelname)s %(name)s: %(message)s")
        logger.setLevel(level)
