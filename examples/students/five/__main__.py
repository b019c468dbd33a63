"""``python -m examples.students.five [--check] [--broker URL] [--database URL]``; ``--help`` tells more."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import os
import signal
import sys
from typing import Final

from . import brokers, databases
from .processes import NotFoundError, ProcessError
from .run import run

INTERRUPTED: Final = 130

SIGNALS: Final = ("SIGINT", "SIGTERM", "SIGHUP")


def main() -> int:
    """Run five instances for a person at a terminal; the exit code.

    0 after Ctrl-C, or if every check held; 1 if not, or if an instance has failed; 2 without a broker or a database;
    130 if interrupted before the end of a check, or before the instances were ready.
    """
    try:
        return asyncio.run(_interruptible(_options()))
    except asyncio.CancelledError:
        return INTERRUPTED
    except NotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    except ProcessError as error:
        print(error, file=sys.stderr)
        return 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m examples.students.five")
    parser.add_argument(
        "--check",
        action="store_true",
        help="take away database, instance and broker, and look whether the five do as they should",
    )
    for what, kinds in (("broker", brokers.KINDS), ("database", databases.KINDS)):
        variable = f"STUDENTS_{what.upper()}"
        parser.add_argument(
            f"--{what}",
            metavar="URL",
            default=os.environ.get(variable),
            help=f"its URL, or one of {', '.join(kinds)} (${variable}, else the best there is)",
        )
    return parser.parse_args()


async def _interruptible(options: argparse.Namespace) -> int:
    """A signal ends the run in order, once: a second one does not disturb the end."""
    task = asyncio.current_task()
    assert task is not None

    ending = False

    def cancel() -> None:
        nonlocal ending
        if not ending:
            ending = True
            task.cancel()

    loop = asyncio.get_running_loop()
    for name in SIGNALS:
        with contextlib.suppress(NotImplementedError, AttributeError):  # on Windows
            loop.add_signal_handler(getattr(signal, name), cancel)
    return await run(options.broker, options.database, check=options.check)


if __name__ == "__main__":
    sys.exit(main())
