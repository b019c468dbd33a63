"""``python -m benchmarks NAME [--json]``; ends with 0 only if every result was right."""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import traceback
from types import ModuleType
from typing import Final

from . import (
    check,
    coldstart,
    hits,
    memory,
    propagation,
    repair,
    scale,
    snapshot,
    stall,
    stampede,
    throughput,
)
from .figures import Mistake, machine

BENCHMARKS: Final[dict[str, ModuleType]] = {
    "hits": hits,
    "stampede": stampede,
    "propagation": propagation,
    "throughput": throughput,
    "snapshot": snapshot,
    "stall": stall,
    "coldstart": coldstart,
    "repair": repair,
    "memory": memory,
    "scale": scale,
}


def main() -> int:
    """Run one benchmark, or all, and print the figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    usual = {}
    for name, benchmark in {**BENCHMARKS, "check": check}.items():
        text = (benchmark.__doc__ or "").partition("\n")[0]
        options = names.add_parser(name, help=text, description=text)
        options.add_argument("--json", action="store_true", help="one JSON object as the last line")
        benchmark.add_arguments(options)
        if name in BENCHMARKS:
            usual[name] = options.parse_args([])
    every = names.add_parser("all", help="one after the other, as they are without options")
    every.add_argument("--json", action="store_true", help="one JSON object as the last line")
    arguments = parser.parse_args()
    chosen = usual if arguments.name == "all" else {arguments.name: arguments}
    figures = {"benchmark": arguments.name, **machine()}
    print("{cores} cores, Python {python}, load average {load}".format(**figures))
    found = {}
    for name, given in chosen.items():
        print(name)
        try:
            found[name] = asyncio.run(BENCHMARKS.get(name, check).run(given))
        except Mistake as mistake:
            print(f"  no figures: {mistake}", file=sys.stderr)
        except Exception:  # nor does that cost what the others have found
            traceback.print_exc()
    if arguments.json:
        figures |= found if arguments.name == "all" else found.get(arguments.name, {})
        print(json.dumps(figures))
    return 0 if len(found) == len(chosen) else 1


if __name__ == "__main__":
    sys.exit(main())
