"""What can be told of processes by their ids."""

from __future__ import annotations

import os
from pathlib import Path


def process_of(name: str) -> int:
    """The process of a node that was given no name: it says so itself."""
    return int(name.rpartition(":")[2].partition("-")[0])


def lives(pid: int) -> bool:
    """Whether there is such a process."""
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def children(process: int) -> list[int]:
    """The processes that this one has started, in whichever of its threads."""
    listings = Path(f"/proc/{process}/task").glob("*/children")
    return [int(child) for listing in listings for child in listing.read_text().split()]
