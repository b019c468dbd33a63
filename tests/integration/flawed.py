"""A node of the soak that breaks a promise, another one by its number: for the judge to find.

Run as ``python -m tests.integration.flawed``.
"""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Any, Final

from imperfect_dollop import Repository

from ..soak.member import WHOLE, run
from ..soak.settings import Member
from .rows import Row

RARELY: Final = 50
"""One in so many reads is wrong, so that the others have something to be held against."""

LOST: Final = 15
"""Keys of which one of them hears nothing any more."""


class Flawed(Repository[int, Row]):
    """Wrong where it holds all rows, right where it loads by key."""

    def __init__(self, *arguments: Any, **named: Any) -> None:
        super().__init__(*arguments, **named)
        self._last: dict[int, Row] = {}
        self._replaced: dict[int, Row] = {}
        self._numbers = itertools.count()

    def peek(self, key: int) -> Row | None:
        row = super().peek(key)
        if self.name != WHOLE:
            return row
        shown = self.shown(key, row, rarely=next(self._numbers) % RARELY == 0)
        if row is not None and row != self._last.get(key):
            if key in self._last:
                self._replaced[key] = self._last[key]
            self._last[key] = row
        return shown

    def shown(self, key: int, row: Row | None, *, rarely: bool) -> Row | None:
        raise NotImplementedError


class Stale(Flawed):
    def shown(self, key: int, row: Row | None, *, rarely: bool) -> Row | None:
        return self._replaced.get(key, row) if rarely and row is not None else row


class Risen(Flawed):
    def shown(self, key: int, row: Row | None, *, rarely: bool) -> Row | None:
        return self._last.get(key) if rarely and row is None else row


class Inventing(Flawed):
    def shown(self, key: int, row: Row | None, *, rarely: bool) -> Row | None:
        return replace(row, mark="invented") if rarely and row is not None else row


class Deaf(Flawed):
    def shown(self, key: int, row: Row | None, *, rarely: bool) -> Row | None:
        return self._last.get(key, row) if key < LOST else row


FLAWS: Final = {"n0": Stale, "n1": Risen, "n2": Inventing, "n3": Deaf}
"""By node; the others have none."""


def flaw_of(setup: Member) -> type[Repository[int, Row]]:
    return FLAWS.get(setup.name.partition(".")[0], Repository[int, Row])


if __name__ == "__main__":
    run(flaw_of)
