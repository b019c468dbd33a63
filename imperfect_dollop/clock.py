"""The clock by which this process waits."""

from __future__ import annotations

import asyncio
import time

__all__ = ["monotonic"]


def monotonic() -> float:
    """Seconds by the clock of the running event loop, which never goes back.

    Waits and deadlines are measured by the clock that also ends them. Libraries for tests freeze `time.monotonic` and
    can leave the clock of the event loop alone; then nothing here waits for ever. Without a running loop, as where a
    thread asks for figures, this is `time.monotonic`.
    """
    try:
        return asyncio.get_running_loop().time()
    except RuntimeError:
        return time.monotonic()
