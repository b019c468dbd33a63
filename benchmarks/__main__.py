"""``python -m benchmarks NAME [--json]``; ends with 0 only if every result was right."""

from __future__ import annotations

import argparse
import json
import sys

from . import propagation
from .figures import Mistake

BENCHMARKS = {"propagation": propagation}


def main() -> int:
    """Run one benchmark, and print its figures."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    names = parser.add_subparsers(dest="name", metavar="NAME", required=True)
    for name, benchmark in BENCHMARKS.items():
        text = (benchmark.__doc__ or "").partition("\n")[0]
        options = names.add_parser(name, help=text, description=text)
        options.add_argument("--json", action="store_true", help="one JSON object as the last line")
        benchmark.add_arguments(options)
    arguments = parser.parse_args()
    try:
        figures = BENCHMARKS[arguments.name].run(arguments)
    except Mistake as mistake:
        print(f"No figures: {mistake}", file=sys.stderr)
        return 1
    if arguments.json:
        print(json.dumps(figures))
    return 0


if __name__ == "__main__":
    sys.exit(main())
