"""How much the demo shows, and on what. Imports no driver, so that ``--help`` always works."""

from __future__ import annotations

import argparse
import dataclasses
import os
from typing import Final

from ..brokers import check_url
from ..errors import ConfigurationError
from ..url import scheme_of
from .urls import SQLITE, async_url, masked

__all__ = [
    "BROKER_VARIABLE",
    "DATABASE_VARIABLE",
    "LEVELS",
    "Options",
    "add_arguments",
    "options_of",
]

BROKER_VARIABLE: Final = "DOLLOP_DEMO_BROKER"

DATABASE_VARIABLE: Final = "DOLLOP_DEMO_DATABASE"
"""URLs are looked for in these variables, too: what is on a command line, everybody on the machine can read."""

LEVELS: Final = ("DEBUG", "INFO", "WARNING")

SPARE: Final = 4
"""Rows that are neither updated nor deleted with the many: those of the later steps."""


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """Raises `ConfigurationError` for what cannot be shown."""

    rows: int = 10_000
    nodes: int = 5
    creates: int = 100
    updates: int = 100
    deletes: int = 5_000
    seed: int = 1
    """Decides which rows are written, and on which nodes."""
    broker: str = "memory://demo"
    database: str = SQLITE
    """Its URL, or "sqlite" for a file that is gone with the demo."""
    processes: bool | None = None
    """Whether every node is a process of its own; by default it is, unless the broker is ``memory://``."""
    patience: float = 20.0
    """Seconds for which a condition is waited for before its check has failed."""
    plain: bool = False
    """No live display."""
    log: str | None = None
    """Show the library's log from this level on, and no live display."""

    def __post_init__(self) -> None:
        if self.nodes < 2:
            raise ConfigurationError(f"nodes={self.nodes}: a cluster has at least two")
        if min(self.creates, self.updates, self.deletes) < 0:
            raise ConfigurationError("creates, updates and deletes are numbers from 0 on")
        if self.updates + self.deletes + SPARE > self.rows:
            raise ConfigurationError(
                f"rows={self.rows}: {self.updates} updates and {self.deletes} deletes, each of a row of its"
                f" own, need {self.updates + self.deletes + SPARE}"
            )
        if not self.patience > 0:
            raise ConfigurationError(f"patience={self.patience!r} must be seconds above 0")
        check_url(self.broker)
        async_url(self.database)
        for url in (self.broker, self.database):
            masked(url)  # it is going to be shown

    @property
    def apart(self) -> bool:
        """Whether every node is a process of its own."""
        if self.processes is None:
            return scheme_of(self.broker) != "memory"
        return self.processes


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The demo's options, with the defaults of `Options`, and of the environment for URLs."""
    usual = Options()

    def number(option: str, text: str, default: int | None = None) -> None:
        parser.add_argument(option, type=int, metavar="N", default=default, help=text)

    number("--rows", "rows of the table (%(default)s)", usual.rows)
    number("--nodes", "nodes (%(default)s)", usual.nodes)
    number("--creates", "rows to create (a hundredth of the rows)")
    number("--updates", "rows to update (a hundredth of the rows)")
    number("--deletes", "rows to delete (half of the rows)")
    number("--seed", "which rows are written, and on which nodes (%(default)s)", usual.seed)
    parser.add_argument(
        "--broker",
        metavar="URL",
        default=os.environ.get(BROKER_VARIABLE) or usual.broker,
        help="what joins the nodes; unless it is memory://, each is a process of its own"
        f" (${BROKER_VARIABLE}, else {usual.broker})",
    )
    parser.add_argument(
        "--database",
        metavar="URL",
        default=os.environ.get(DATABASE_VARIABLE) or usual.database,
        help="where the table is: postgresql://..., mysql://..., mariadb://..."
        f" (${DATABASE_VARIABLE}, else {usual.database}, in a file)",
    )
    parser.add_argument(
        "--patience",
        type=float,
        metavar="SECONDS",
        default=usual.patience,
        help="how long a check waits for what it expects (%(default)s)",
    )
    parser.add_argument(
        "--plain",
        action="store_true",
        help="no live display; so it is where standard output is no terminal",
    )
    parser.add_argument("--log", choices=LEVELS, help="show the library's log from this level on")


def options_of(parser: argparse.ArgumentParser, arguments: argparse.Namespace) -> Options:
    """What was asked for on a command line; ends the process with a message if it cannot be."""
    names = {field.name for field in dataclasses.fields(Options)}
    given = {name: value for name, value in vars(arguments).items() if name in names}
    shares = {
        "creates": given["rows"] // 100,
        "updates": given["rows"] // 100,
        "deletes": given["rows"] // 2,
    }
    given |= {name: share for name, share in shares.items() if given[name] is None}
    try:
        return Options(**given)
    except ConfigurationError as error:
        parser.error(str(error))
