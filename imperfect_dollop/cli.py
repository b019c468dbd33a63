"""The ``dollop`` command. What a subcommand needs is imported when it is used."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from . import __version__, demo
from .demo.options import add_arguments, options_of

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a subcommand; its exit code. Arguments that make no sense exit with 2."""
    parser = argparse.ArgumentParser(
        prog="dollop", description="Imperfect Dollop: a distributed in-memory cache for asyncio."
    )
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    text = "show, with checks that can fail, what the library does"
    demonstrate = commands.add_parser("demo", help=text, description=f"{text.capitalize()}.")
    add_arguments(demonstrate)
    return demo.main(options_of(demonstrate, parser.parse_args(arguments)))


if __name__ == "__main__":
    sys.exit(main())
