"""``python -m tests.soak``: ten processes, random faults, and a judge; ends with 0 only if every promise was kept."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from . import report
from .run import Result, soak
from .services import DATABASES, KINDS, NotThereError, broker_of, database_of
from .settings import Settings

BROKER = "SOAK_BROKER"
DATABASE = "SOAK_DATABASE"
"""Variables with the URLs: everybody on the machine can read a command line."""


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.soak", description=__doc__)
    parser.add_argument("--minutes", type=float, default=3.0, help="of writes and faults (3)")
    parser.add_argument(
        "--broker",
        default=os.environ.get(BROKER) or "redis",
        metavar="URL",
        help=f"redis://... or amqp://..., or one of {', '.join(KINDS)}: a server that is started, and killed; {BROKER}",
    )
    parser.add_argument(
        "--database",
        default=os.environ.get(DATABASE) or "postgresql",
        metavar="URL",
        help=f"of PostgreSQL or MariaDB, or one of {', '.join(DATABASES)} for that on this machine; {DATABASE}",
    )
    parser.add_argument("--seed", type=int, help="of the faults; drawn and printed by default")
    parser.add_argument("--nodes", type=int, default=10, help="processes (10)")
    parser.add_argument("--json", action="store_true", help="one JSON object as the last line")
    parser.add_argument(
        "--keep", type=Path, metavar="FOLDER", help="for logs and records, which stay there"
    )
    return parser.parse_args()


async def run(options: argparse.Namespace, folder: Path) -> Result:
    began = time.monotonic()

    def say(what: str) -> None:
        print(f"{time.monotonic() - began:7.1f} s  {what}", flush=True)

    task = asyncio.current_task()
    assert task is not None
    for given in (signal.SIGINT, signal.SIGTERM):
        # Once: whoever presses Ctrl-C again does not disturb the end of what was started.
        asyncio.get_running_loop().add_signal_handler(given, _once(task.cancel))
    seed = random.SystemRandom().randrange(10**6) if options.seed is None else options.seed
    settings = Settings(seed=seed, seconds=60 * options.minutes, nodes=options.nodes)
    database = await database_of(options.database)
    async with broker_of(options.broker) as broker:
        say(f"seed {seed}; {broker}; {options.minutes:g} minutes")
        return await soak(settings, broker, database, folder, say)


def _once(act: Callable[[], object]) -> Callable[[], None]:
    left = [act]

    def acting() -> None:
        while left:
            left.pop()()

    return acting


def main() -> int:
    options = arguments()
    folder = options.keep or Path(tempfile.mkdtemp(prefix="dollop-soak-"))
    folder.mkdir(parents=True, exist_ok=True)
    kept = options.keep is not None
    try:
        result = asyncio.run(run(options, folder))
        kept = kept or bool(result.verdict.faults)
    except NotThereError as error:
        print(error, file=sys.stderr)
        return 2
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("Interrupted; everything that was started has been ended.", file=sys.stderr)
        return 130
    except BaseException:
        kept = True
        raise
    finally:
        if not kept:
            with contextlib.suppress(FileNotFoundError):
                shutil.rmtree(folder)
        elif folder.exists():
            print(f"Logs and records are in {folder}")
    print(report.as_text(result))
    if options.json:
        print(json.dumps(report.as_json(result)))
    return 1 if result.verdict.faults else 0


if __name__ == "__main__":
    sys.exit(main())
