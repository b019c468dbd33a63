"""``python -m tests.simulation``: run many seeds, and tell the story of those that break a promise."""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from .ablations import ABLATIONS, without
from .missed import first_seed
from .plan import Plan, make
from .runs import planned, seeds
from .shrink import minimal, story
from .world import run

__all__ = ["main"]

FRESH: Final = 2_000
"""Runs after which a worker is another process."""


def _work(arguments: argparse.Namespace, say: Any) -> int:
    """Run the seeds of one worker, and say one line of JSON for each that fails, and one at the end.

    What anyio knows of a task refers to it, so those of killed processes are kept: after a while it is another process
    that goes on, with empty memory. (To let go of them here would end them in the middle of another run.)
    """
    failed = 0
    last = arguments.seed + min(arguments.seeds, FRESH * arguments.every)
    left = arguments.seed + arguments.seeds - last
    kinds: Counter[str] = Counter()
    longest = 0.0
    with without(*arguments.without):
        for plan, verdict in seeds(arguments.seed, last - arguments.seed, arguments.every):
            kinds[plan.flavour] += 1
            longest = max(longest, verdict.healed)
            if verdict.promise is None:
                continue
            failed += 1
            say({"seed": plan.seed, "promise": verdict.promise, "text": verdict.text})
            if failed >= arguments.stop_after:
                break
    say({"runs": kinds.total(), "kinds": dict(kinds), "longest": longest})
    if left > 0 and failed < arguments.stop_after:
        arguments.seed, arguments.seeds, arguments.stop_after = (
            last,
            left,
            arguments.stop_after - failed,
        )
        os.execv(sys.executable, _worker(arguments, arguments.every))
    return failed


def _worker(arguments: argparse.Namespace, every: int) -> list[str]:
    """The command of a worker that takes every so-manieth seed."""
    return [
        *(sys.executable, "-m", "tests.simulation", "--worker"),
        *(f"--seed={arguments.seed}", f"--seeds={arguments.seeds}", f"--every={every}"),
        f"--stop-after={arguments.stop_after}",
        *(f"--without={name}" for name in arguments.without),
    ]


def _shared(arguments: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """The lines of several workers. Each takes every so-manieth seed; hashing is the same in all."""
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    workers = []
    for number in range(arguments.jobs):
        own = argparse.Namespace(**vars(arguments))
        own.seed, own.seeds = arguments.seed + number, arguments.seeds - number
        command = _worker(own, arguments.jobs)
        root = Path(__file__).parents[2]
        workers.append(
            subprocess.Popen(command, stdout=subprocess.PIPE, env=environment, cwd=root, text=True)
        )
    try:
        for worker in workers:
            assert worker.stdout is not None
            for line in worker.stdout:
                yield json.loads(line)
            if worker.wait() not in (0, 1):
                raise RuntimeError(f"a worker ended with {worker.returncode}")
    finally:
        for worker in workers:
            with contextlib.suppress(ProcessLookupError):
                worker.kill()
            worker.wait()


def _options() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m tests.simulation", description=__doc__)
    parser.add_argument("--seeds", type=int, default=500, help="how many")
    parser.add_argument("--seed", type=int, default=1, help="the first")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="processes")
    parser.add_argument(
        "--without",
        action="append",
        default=[],
        metavar="NAME",
        choices=sorted(ABLATIONS),
        help="a safeguard that is switched off; may be given more than once",
    )
    parser.add_argument(
        "--list", action="store_true", help="the safeguards that can be switched off"
    )
    parser.add_argument(
        "--missed",
        nargs="*",
        metavar="NAME",
        help="look for the first seed that shows that a safeguard is missed, of these or of all",
    )
    parser.add_argument("--stop-after", type=int, default=10, metavar="N", help="seeds that fail")
    parser.add_argument("--replay", metavar="SEED[:STEPS]", help="tell the story of one run")
    parser.add_argument("--beats", action="store_true", help="stories with heartbeats")
    parser.add_argument("--full", action="store_true", help="do not look for a smaller plan")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--every", type=int, default=1, help=argparse.SUPPRESS)
    return parser


def _print(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _tell(plan: Plan, arguments: argparse.Namespace) -> bool:
    """Print the story of a plan, of its smallest part if it breaks a promise; whether it does."""
    with without(*arguments.without):
        verdict = run(plan)
        if verdict.promise is not None and not arguments.full:
            plan = minimal(plan, verdict.promise)
        verdict = run(plan, told=True)
        text = story(plan, verdict)
    lines = text.splitlines()
    if not arguments.beats:
        lines = [line for line in lines if " publishes heartbeat " not in line]
    _print("\n".join(lines))
    return verdict.promise is not None


def main(words: list[str] | None = None) -> int:
    """Returns how many seeds failed, at most 1."""
    options = _options()
    arguments = options.parse_args(words)
    if arguments.worker:
        return min(1, _work(arguments, lambda line: _print(json.dumps(line))))
    if arguments.list:
        for ablation in ABLATIONS.values():
            _print(f"{ablation.name:<26} {ablation.means}")
        return 0
    if arguments.missed is not None:
        for name in arguments.missed or ABLATIONS:
            seed = None if ABLATIONS[name].covered else first_seed(name)
            _print(
                f"{name} {seed}" if seed else f"# {name}: {ABLATIONS[name].covered or 'not found'}"
            )
        return 0
    if arguments.replay:
        try:
            plan = planned(arguments.replay)
        except ValueError:
            options.error(
                f"--replay takes SEED, SEED:STEP,STEP or a plan as it is written out, not {arguments.replay!r}"
            )
        return int(_tell(plan, arguments))
    began = time.monotonic()
    failures: list[dict[str, Any]] = []
    runs = 0
    longest = 0.0
    kinds: Counter[str] = Counter()
    for line in _shared(arguments):
        if "seed" in line:
            failures.append(line)
            _print(f"seed {line['seed']} breaks {line['promise']}: {line['text']}")
        else:
            runs += line["runs"]
            kinds.update(line["kinds"])
            longest = max(longest, line["longest"])
    took = time.monotonic() - began
    _print(
        f"{runs} seeds in {took:.1f} s ({1_000 * took / max(1, runs):.1f} ms each), {len(failures)} broke a"
        f" promise; the longest took {longest:.1f} virtual seconds to agree after the faults"
    )
    _print("  ".join(f"{kind} {count}" for kind, count in sorted(kinds.items())))
    if failures:
        failures.sort(key=lambda line: int(line["seed"]))
        _print("")
        _tell(make(failures[0]["seed"]), arguments)
    return min(1, len(failures))


if __name__ == "__main__":
    sys.exit(main())
