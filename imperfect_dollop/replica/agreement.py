"""Whether the siblings' copies are the same as this one, as far as their heartbeats tell.

Two copies can be compared by their digests where both have taken in the same events. Should they differ then for some
heartbeats, it is worth looking why. (A single one may come between a write and its number.)
"""

from __future__ import annotations

from typing import Final

__all__ = ["Agreement"]

SETTLE_BEATS: Final = 2
"""Heartbeats with another digest that mean something. Doubles whenever looking has not helped, as with a row that no
two reads see alike."""


class Agreement:
    """What is known of each sibling's copy."""

    __slots__ = ("_differs", "_patience")

    def __init__(self) -> None:
        self._differs: dict[str, int] = {}  # heartbeats in a row with another digest
        self._patience: dict[str, int] = {}

    def same(self, origin: str) -> None:
        """Its copy is equal to this one."""
        self._patience.pop(origin, None)
        self._differs.pop(origin, None)

    def unknown(self, origin: str) -> None:
        """Its copy cannot be compared now."""
        self._differs.pop(origin, None)

    def differs(self, origin: str) -> bool:
        """Its copy is another; True when it is time to look why."""
        beats = self._differs.get(origin, 0) + 1
        patience = self._patience.get(origin, SETTLE_BEATS)
        if beats < patience:
            self._differs[origin] = beats
            return False
        self._patience[origin] = 2 * patience
        self._differs.clear()
        return True

    def left(self, origin: str) -> None:
        """That member is gone."""
        self._differs.pop(origin, None)
        self._patience.pop(origin, None)

    def clear(self) -> None:
        """Nothing is held any more that could be compared."""
        self._differs.clear()
