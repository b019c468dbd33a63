"""The library's log, as far as somebody wants to see it."""

from __future__ import annotations

import logging

__all__ = ["show_log"]


def show_log(level: str | None, *, name: str | None = None) -> None:
    """Show it on standard error, or nothing of it: failures are part of the demo."""
    logger = logging.getLogger("imperfect_dollop")
    if level is None:
        logger.addHandler(logging.NullHandler())
    else:
        origin = "" if name is None else f"{name} "
        logging.basicConfig(format=f"%(asctime)s {origin}%(levelname)s %(name)s: %(message)s")
        logger.setLevel(level)
