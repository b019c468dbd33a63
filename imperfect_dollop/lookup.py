"""Which of several repositories is meant by a class, and a name where the class does not tell."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, TypeVar

from .errors import ConfigurationError
from .repository import Repository

__all__ = ["repository_of"]

V = TypeVar("V")


def repository_of(
    repositories: Iterable[Repository[Any, Any]], entity: type[V], name: str | None = None
) -> Repository[Any, V]:
    """The one of this class, and of this name if one is given.

    Raises `ConfigurationError` if there is none, or if there are several.
    """
    there = list(repositories)
    found: list[Repository[Any, V]] = [
        one for one in there if one.entity is entity and name in (None, one.name)
    ]
    if len(found) == 1:
        return found[0]
    sought = _shown(entity) if name is None else f"{_shown(entity)} named {name!r}"
    if found:
        names = ", ".join(repr(one.name) for one in found)
        what = f"named {names}: say which by its name" if name is None else "on several nodes"
        raise ConfigurationError(f"there are {len(found)} repositories of {sought}, {what}")
    others = ", ".join(f"{one.name!r} of {_shown(one.entity)}" for one in there)
    raise ConfigurationError(
        f"there is no repository of {sought}; there is {others or 'none at all'}"
    )


def _shown(entity: object) -> str:
    """With its module: two classes of one name are a mistake that is hard to see."""
    if isinstance(entity, type):
        return f"{entity.__module__}.{entity.__qualname__}"
    return f"{entity!r}, which is no class"
