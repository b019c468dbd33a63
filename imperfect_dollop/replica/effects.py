"""What a replica cannot do itself, and asks of whoever drives it."""

from __future__ import annotations

from typing import TypeAlias

import msgspec

__all__ = ["Cleared", "Compare", "Effect", "Reread", "Resend", "Resync", "Settled"]


class Reread(msgspec.Struct, frozen=True):
    """These keys are in doubt: read them again from the source."""

    keys: tuple[object, ...]


class Settled(msgspec.Struct, frozen=True):
    """These keys are no longer in doubt: a sibling has read them again."""

    keys: tuple[object, ...]


class Resend(msgspec.Struct, frozen=True):
    """These events of an origin have not come: ask it for them."""

    origin: str
    first: int
    last: int


class Compare(msgspec.Struct, frozen=True):
    """A sibling's copy differs, and nothing is missing in either: find out in which rows, and read those again."""

    origin: str


class Resync(msgspec.Struct, frozen=True):
    """Something is missing and nobody knows what: compare everything, with a sibling or the source."""

    reason: str


class Cleared(msgspec.Struct, frozen=True):
    """A node has told all to drop what they hold; the replica is empty now, and cold if it is to hold every row."""


Effect: TypeAlias = Reread | Settled | Resend | Compare | Resync | Cleared
