"""``python -m imperfect_dollop.demo``."""

from __future__ import annotations

import argparse
import sys

from . import main
from .options import add_arguments, options_of

if __name__ == "__main__":
    parser: argparse.ArgumentParser = argparse.ArgumentParser(
        prog="python -m imperfect_dollop.demo",
        description="Show, with checks that can fail, what the library does.",
    )
    add_arguments(parser)
    sys.exit(main(options_of(parser, parser.parse_args())))
