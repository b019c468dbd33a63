"""The library's log, as far as somebody wants to see it."""

from __future__ import annotations

import logging
from typing import Final

__all__ = ["show_log"]

OTHERS: Final = ("aiormq",)
"""Loggers of drivers that report what they raise as well."""


def show_log(level: str | None, *, name: str | None = None) -> None:
    """Show it on standard error, or nothing of it: failures are part of the demo."""
    logger = logging.getLogger("imperfect_dollop")
    if level is None:
        for silent in (logger, *map(logging.getLogger, OTHERS)):
            silent.addHandler(logging.NullHandler())
    else:
        origin = "" if name is None else f"{name} "
        logging.basicConfig(format=f"%(asctime)s {origin}%(levelname)s %(name)s: %(message)s")
        logger.setLevel(level)
