"""Who holds what, against what should be there."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, TypeAlias

__all__ = ["Students", "differences"]

Students: TypeAlias = Mapping[int, Mapping[str, Any]]
"""As an instance answers, or the database, by id."""


def differences(wanted: Students, held: Mapping[str, Students]) -> list[str]:
    """For each holder that has something else than what is wanted, what it is; nothing if all are equal."""
    return [
        f"{name} {', '.join(found)}"
        for name, students in held.items()
        if (found := _off(wanted, students))
    ]


def _off(wanted: Students, held: Students) -> list[str]:
    kinds = {
        "lacks": wanted.keys() - held.keys(),
        "has too many": held.keys() - wanted.keys(),
        "has otherwise": {key for key in wanted.keys() & held.keys() if wanted[key] != held[key]},
    }
    return [
        f"{what} {len(keys)} (the first is {min(keys)})" for what, keys in kinds.items() if keys
    ]
