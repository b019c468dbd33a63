"""Memory is given back a few rows at a time: to free a million objects at once would keep the event loop for 0.3 s."""

from __future__ import annotations

from typing import Any, Final

import anyio.lowlevel

__all__ = ["SLICE", "let_go"]

SLICE: Final = 5_000
"""Rows that are let go in one go, which takes a millisecond or two."""


async def let_go(dropped: list[dict[Any, Any]]) -> None:
    """Empty these dicts, the last one first, and their list. Others may be added meanwhile."""
    while dropped:
        rows = dropped.pop()
        for _ in range(min(len(rows), SLICE)):
            rows.popitem()
        if rows:
            dropped.append(rows)
        await anyio.lowlevel.checkpoint()
