"""What the benchmarks hold: rows of five columns, each a function of its number."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Final

import msgspec

__all__ = ["CITIES", "Row", "chunks", "row"]

CITIES: Final = ("Madrid", "Berlin", "Lisbon", "Warsaw", "Athens", "Dublin", "Oslo", "Vienna")

CHUNK: Final = 1_000
"""Rows that a source hands over at a time."""


class Row(msgspec.Struct, frozen=True, gc=False):
    """A small row, as there are many. The garbage collector is told that it need not look at them."""

    id: int
    name: str
    city: str
    year: int
    version: int = 0


def row(number: int, version: int = 1) -> Row:
    """The row with this key."""
    city = CITIES[number % len(CITIES)]
    return Row(number, f"Student {number} {version}", city, 1990 + number % 30, version)


async def chunks(count: int) -> AsyncIterator[list[Row]]:
    """All rows with the keys from 0 to `count`, as a source hands them over."""
    for begin in range(0, count, CHUNK):
        yield [row(number) for number in range(begin, min(count, begin + CHUNK))]
