"""Detects sibling worker processes, which a broker within one process cannot reach."""

from __future__ import annotations

import multiprocessing
import os
import sys
from collections.abc import Mapping, Sequence

__all__ = ["sibling_workers"]


def sibling_workers(
    environment: Mapping[str, str] | None = None, arguments: Sequence[str] | None = None
) -> str | None:
    """Return the sign by which this process is one of several workers; ``None`` if there is no such sign.

    A server that reloads the application on changes runs the application in a single child, which has no siblings.
    """
    environment = os.environ if environment is None else environment
    arguments = sys.argv if arguments is None else arguments
    if environment.get("SERVER_SOFTWARE", "").startswith("gunicorn"):
        return "gunicorn started it"
    count = environment.get("WEB_CONCURRENCY", "")
    if count.isdecimal() and int(count) > 1:
        return f"WEB_CONCURRENCY is {count}"
    if multiprocessing.parent_process() is not None and "--reload" not in arguments:
        return "multiprocessing started it, as uvicorn's --workers does"
    return None
