"""Checks of the numbers that an application configures."""

from __future__ import annotations

import math
from typing import Final, TypeGuard

__all__ = ["MAX_SECONDS", "fault_in_count", "fault_in_seconds", "is_number"]

MAX_SECONDS: Final = 1e9
"""About thirty years. A larger number of seconds is taken for a mistake; infinity means never where that is allowed."""


def is_number(value: object) -> TypeGuard[float]:
    """Whether a value is a number and no NaN. A bool is none."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and value == value


def fault_in_seconds(
    name: str,
    value: object,
    *,
    zero: bool = False,
    never: bool = False,
    most: float = MAX_SECONDS,
) -> str | None:
    """Return what is wrong with a number of seconds; ``None`` if the number is good.

    `zero` allows 0. `never` allows ``None`` and infinity.
    """
    if never and (value is None or value == math.inf):
        return None
    if is_number(value) and (0 < value <= most or (zero and value == 0)):
        return None
    allowed = f"from 0 to {most:,.0f}" if zero else f"above 0, at most {most:,.0f}"
    return f"{name}={value!r} must be seconds {allowed}{', or None for never' * never}"


def fault_in_count(name: str, value: object) -> str | None:
    """Return what is wrong with a count; ``None`` if the count is good."""
    if isinstance(value, int) and not isinstance(value, bool) and value >= 1:
        return None
    return f"{name}={value!r} must be a whole number of at least 1"
