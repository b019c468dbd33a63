"""Which source the rows of a repository come from, in the forms that nodes tell each other.

Heartbeats carry the identity in words, so that a log can show it; every other message about a repository carries its
tag. An empty identity or tag means that the identity is not known: such a node exchanges rows with every other.
"""

from __future__ import annotations

from typing import Final, TypeGuard

import xxhash

from .stamp import MAX_NAME

__all__ = ["identity_tag", "is_foreign", "is_identity", "wire_identity"]

CUT: Final = "... #"
"""Stands between the beginning of a long identity and the hash of the whole."""


def wire_identity(identity: str | None) -> str:
    """`identity` in at most `MAX_NAME` characters; two that differ stay different. Empty for ``None``."""
    if identity is None or len(identity) <= MAX_NAME:
        return identity or ""
    end = CUT + xxhash.xxh3_128_hexdigest(identity.encode())
    return identity[: MAX_NAME - len(end)] + end


def identity_tag(identity: str) -> str:
    """The 16 characters that messages carry for an identity as on the wire; empty for an empty one."""
    return xxhash.xxh3_64_hexdigest(identity.encode()) if identity else ""


def is_identity(value: object) -> TypeGuard[str]:
    """Whether `value` can be an identity: a text that is not empty and can be encoded."""
    if not isinstance(value, str) or not value:
        return False
    return not any("\ud800" <= character <= "\udfff" for character in value)


def is_foreign(one: str, other: str) -> bool:
    """Whether two identities, or two tags, are known and differ."""
    return bool(one) and bool(other) and one != other
