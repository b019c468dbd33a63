"""Whether a copy is what the original is: by value and by type, at every depth.

It knows nothing of how objects travel, so that a fault there does not hide itself here.
"""

from __future__ import annotations

import collections
import datetime as dt
import decimal
import enum
import math
from typing import Any, Final

from .classes import state_names

__all__ = ["difference"]

_BY_VALUE: Final = frozenset({int, str, bytes, bool, type(None)})
_TIMES: Final = (dt.datetime, dt.time)
_ITEMS: Final = frozenset({list, tuple, collections.deque})
_DICTS: Final = frozenset({dict, collections.OrderedDict, collections.Counter})


def difference(one: Any, other: Any, place: str) -> str | None:
    """The place of the first difference, in words; ``None`` if there is none."""
    kind = type(one)
    if kind is not type(other):
        return f"{place} is of the type {kind.__qualname__} and would be of the type {type(other).__qualname__}"
    if kind in _BY_VALUE:
        return None if one == other else _differs(place, one, other)
    if kind is float:
        same = one == other and math.copysign(1, one) == math.copysign(1, other)
        return None if same or (one != one and other != other) else _differs(place, one, other)
    if kind is complex:
        return difference([one.real, one.imag], [other.real, other.imag], place)
    if kind in _ITEMS:
        return _of_items(one, other, place)
    if kind in _DICTS:
        return _of_dicts(one, other, place)
    if kind is set or kind is frozenset:
        if {(type(item), item) for item in one} == {(type(item), item) for item in other}:
            return None
        return _of_items(sorted(one, key=repr), sorted(other, key=repr), place)  # a NaN equals none
    if isinstance(one, _TIMES):
        same = one.replace(tzinfo=None) == other.replace(tzinfo=None) and one.fold == other.fold
        return None if same and _same_zone(one, other) else _differs(place, one, other)
    if isinstance(one, decimal.Decimal):
        return None if str(one) == str(other) else _differs(place, one, other)
    if isinstance(one, enum.Enum):
        return None if one is other else _differs(place, one, other)
    names = state_names(kind)
    if names is not None:
        return _of_records(one, other, names, place)
    return None if one == other else _differs(place, one, other)


def _differs(place: str, one: Any, other: Any) -> str:
    return f"{place} is {one!r:.100} and would be {other!r:.100}"


def _same_zone(one: Any, other: Any) -> bool:
    zone, another = one.tzinfo, other.tzinfo
    return type(zone) is type(another) and (zone == another) and repr(zone) == repr(another)


def _of_items(one: Any, other: Any, place: str) -> str | None:
    if len(one) != len(other) or getattr(one, "maxlen", None) != getattr(other, "maxlen", None):
        return _differs(place, one, other)
    for number, (item, copy) in enumerate(zip(one, other, strict=True)):
        found = difference(item, copy, f"{place}[{number}]")
        if found is not None:
            return found
    return None


def _of_dicts(one: Any, other: Any, place: str) -> str | None:
    pairs, others = list(one.items()), list(other.items())
    if type(one) is not collections.OrderedDict and list(one) != list(other):
        pairs.sort(key=repr)
        others.sort(key=repr)
    if len(pairs) != len(others):
        return _differs(place, one, other)
    for (key, item), (another, copy) in zip(pairs, others, strict=True):
        found = difference(key, another, f"a key of {place}") or difference(
            item, copy, f"{place}[{key!r}]"
        )
        if found is not None:
            return found
    return None


_ABSENT: Final = object()


def _of_records(one: Any, other: Any, names: tuple[str, ...], place: str) -> str | None:
    for name in names:
        item, copy = getattr(one, name, _ABSENT), getattr(other, name, _ABSENT)
        kind = type(item)
        if kind in _BY_VALUE and kind is type(copy) and item == copy:
            continue  # most fields: without a call, nor a text for a place that is not needed
        found = difference(item, copy, f"{place}.{name}")
        if found is not None:
            return found
    return None
