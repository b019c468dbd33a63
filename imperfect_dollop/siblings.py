"""The other copies of the same repository, as upkeep sees them."""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol

from .replica.effects import Effect, Resend
from .replica.messages import Event

__all__ = ["MAX_DETOURS", "Siblings"]

MAX_DETOURS: Final = 3
"""Siblings' copies that may turn out useless before the source is asked out of turn."""


class Siblings(Protocol):
    """What upkeep asks of the node."""

    def publish(self, event: Event) -> None:
        """Queue an event for the siblings."""
        ...

    def changed(self) -> None:
        """The phase, or what is missing, has changed, which siblings should know at once."""
        ...

    def ask(self, missing: Resend) -> None:
        """Ask an origin for events that have not come."""
        ...

    async def snapshot(self, *, clean: bool, tried: set[str]) -> list[Effect] | None:
        """Fill the cold replica from a sibling's copy; ``None`` if no copy was to be had.

        Not from those that were `tried` before, to which others are added that had none.
        """
        ...

    async def compare(self, origin: str | None) -> list[Effect] | None:
        """Compare with the copy of `origin`, or with any clean one; ``None`` if no copy was to be had."""
        ...

    def hearing(self) -> bool:
        """Whether what siblings say arrives here, and what is said here there."""
        ...

    def audience(self) -> bool:
        """Whether there is a sibling that can read rows of this shape."""
        ...

    def in_view(self) -> bool:
        """Whether all siblings have been heard of that there are, as far as that can be known."""
        ...

    def donor(self) -> bool:
        """Whether a sibling that can be heard has a copy that it vouches for."""
        ...

    async def turn(self, failures: int) -> bool:
        """Wait until this node may load for all (True), or somebody has a copy to give (False)."""
        ...

    def place(self, failures: int) -> float:
        """Seconds for which this node lets others go first where each of them could load; 0 for the first in line."""
        ...

    def refreshing(self, failures: int) -> bool:
        """Whether a sibling is loading everything to publish the differences, which this node waits for."""
        ...

    def members(self) -> Collection[str]:
        """The origins of the other live nodes that may exchange rows with this one."""
        ...

    def foreign(self) -> dict[str, list[str]]:
        """The identities of other sources that live nodes read for this repository, with the names of the nodes."""
        ...

    def horizon(self) -> int:
        """The hybrid time up to which every live node was heard."""
        ...
