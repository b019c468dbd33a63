"""Values without a form of their own in msgpack: decimals, dates, addresses, and others that have no parts.

Each type here has one form, made of what msgpack has, that gives back a value of the same type which is equal in every
respect: a datetime keeps its offset, the name of its zone and its fold, a decimal its trailing zeros.

A type of another package is found by its name, and only where that package is imported already: the row that has such
a value cannot have been made without it.
"""

from __future__ import annotations

import datetime as dt
import decimal
import fractions
import ipaddress
import pathlib
import re
import sys
import uuid
import zoneinfo
from collections.abc import Callable
from typing import Any, Final, NamedTuple, cast

import msgspec

__all__ = [
    "ABSTRACT",
    "LARGE_INT",
    "SCALARS",
    "Scalar",
    "Unfit",
    "foreign_class",
    "foreign_scalar",
    "imported",
    "name_of",
]


class Unfit(Exception):  # noqa: N818  # internal: a codec turns it into an error of the library
    """A value, or a type, that cannot travel; the text says why."""


class Scalar(NamedTuple):
    """How the values of one type travel."""

    name: str
    """On the wire, where the declared type does not tell."""
    dump: Callable[[Any], Any]
    """A value of exactly this type to what msgpack has."""
    load: Callable[[Any], Any]
    """Back. Raises for anything that `dump` did not make."""


# -- time zones ------------------------------------------------------------------------------------
# Bound here, once: libraries for tests replace the classes in the module `datetime` by classes of their own.

_MICROSECOND: Final = dt.timedelta(microseconds=1)
_UTC: Final = dt.UTC
_FIXED: Final[Any] = type(dt.UTC)
_PYDANTIC_ZONE: Final = ("pydantic_core._pydantic_core", "TzInfo")


def _is_offset(zone: Any) -> bool:
    """Whether ISO 8601 says all there is to say of a time zone."""
    if type(zone) is not _FIXED:
        return False
    offset, *name = _FIXED.__getinitargs__(zone)
    return not name and not offset.microseconds


def _zone_of(zone: dt.tzinfo | None) -> Any:
    """What names a time zone: ``True`` for UTC, microseconds of offset, a list, or the key of a `ZoneInfo`."""
    if zone is None:
        return None
    if zone is _UTC:
        return True
    kind: Any = type(zone)
    if kind is _FIXED:
        arguments = _FIXED.__getinitargs__(zone)
        return [arguments[0] // _MICROSECOND, *arguments[1:]]
    if kind is zoneinfo.ZoneInfo:
        key = cast("zoneinfo.ZoneInfo", zone).key
        if key is None:
            raise Unfit("a time zone that was read from a file has no name to travel by")
        return key
    if (kind.__module__, kind.__qualname__) == _PYDANTIC_ZONE:
        return cast("dt.timedelta", zone.utcoffset(None)) // _MICROSECOND
    raise Unfit(
        f"a time zone of the type {kind.__module__}.{kind.__qualname__}: use datetime.timezone or zoneinfo.ZoneInfo"
    )


def _zone(named: Any) -> dt.tzinfo | None:
    """The time zone that `_zone_of` has named."""
    if named is None:
        return None
    if named is True:
        return _UTC
    if type(named) is list:
        offset, *name = named
        return cast("dt.tzinfo", _FIXED(offset * _MICROSECOND, *name))
    if type(named) is str:
        return zoneinfo.ZoneInfo(named)
    if type(named) is int:
        seconds, rest = divmod(named, 1_000_000)
        if rest:
            raise ValueError("an offset of a fraction of a second")
        return cast("dt.tzinfo", imported(*_PYDANTIC_ZONE)(seconds))
    raise ValueError("no time zone")


def _moment(kind: Any) -> Scalar:
    """`datetime.datetime` or `datetime.time`: ISO 8601, beside zone and fold where there are any."""
    parse: Callable[[str], Any] = kind.fromisoformat
    replace: Callable[..., Any] = kind.replace
    text: Callable[[Any], str] = kind.isoformat

    def dump(value: Any) -> Any:
        zone, fold = value.tzinfo, value.fold
        if not fold and (zone is None or zone is _UTC or _is_offset(zone)):
            return text(value)
        return [text(replace(value, tzinfo=None)), _zone_of(zone), fold]

    def load(wire: Any) -> Any:
        if type(wire) is str:
            return parse(wire)  # its zone, if it has one, is a `datetime.timezone` without a name
        said, zone, fold = wire
        return replace(parse(said), tzinfo=_zone(zone), fold=fold)

    return Scalar(kind.__name__, dump, load)


# -- numbers, text and others ----------------------------------------------------------------------


def _by_text(kind: Any) -> Scalar:
    def load(wire: Any) -> Any:
        return kind(_text(wire))

    return Scalar(kind.__name__, str, load)


def _text(wire: Any) -> str:
    if type(wire) is not str:
        raise ValueError(f"{type(wire).__name__} where text is due")
    return wire


def _bytes(wire: Any) -> bytes:
    if type(wire) is not bytes:
        raise ValueError(f"{type(wire).__name__} where bytes are due")
    return wire


def _dump_large(value: int) -> bytes:
    return value.to_bytes(value.bit_length() // 8 + 1, "big", signed=True)


def _load_large(wire: Any) -> int:
    return int.from_bytes(_bytes(wire), "big", signed=True)


def _dump_span(value: dt.timedelta) -> list[int]:
    return [value.days, value.seconds, value.microseconds]


_new_span: Final = dt.timedelta


def _load_span(wire: Any) -> dt.timedelta:
    days, seconds, microseconds = wire
    return _new_span(days, seconds, microseconds)


def _dump_uuid(value: uuid.UUID) -> bytes:
    return value.bytes


def _load_uuid(wire: Any) -> uuid.UUID:
    return uuid.UUID(bytes=_bytes(wire))


def _load_bytearray(wire: Any) -> bytearray:
    return bytearray(_bytes(wire))


def _dump_complex(value: complex) -> list[float]:
    return [value.real, value.imag]


def _load_complex(wire: Any) -> complex:
    real, imaginary = wire
    return complex(real, imaginary)


def _dump_pattern(value: re.Pattern[Any]) -> list[Any]:
    return [value.pattern, value.flags]


def _load_pattern(wire: Any) -> re.Pattern[Any]:
    source, flags = wire
    return re.compile(source, flags)


def _load_zone_info(wire: Any) -> Any:
    return _zone(_text(wire))


def _dump_unset(value: object) -> None:
    return None


def _load_unset(wire: Any) -> msgspec.UnsetType:
    if wire is not None:
        raise ValueError("no unset value")
    return msgspec.UNSET


LARGE_INT: Final = Scalar("int", _dump_large, _load_large)
"""An int beyond 64 bits, which msgpack has no form for."""

SCALARS: Final[dict[type, Scalar]] = {
    dt.datetime: _moment(dt.datetime),
    dt.time: _moment(dt.time),
    dt.date: Scalar("date", dt.date.isoformat, dt.date.fromisoformat),
    dt.timedelta: Scalar("timedelta", _dump_span, _load_span),
    uuid.UUID: Scalar("UUID", _dump_uuid, _load_uuid),
    complex: Scalar("complex", _dump_complex, _load_complex),
    bytearray: Scalar("bytearray", bytes, _load_bytearray),
    re.Pattern: Scalar("Pattern", _dump_pattern, _load_pattern),
    zoneinfo.ZoneInfo: Scalar("ZoneInfo", _zone_of, _load_zone_info),
    msgspec.UnsetType: Scalar("UNSET", _dump_unset, _load_unset),
    **{
        kind: _by_text(kind)
        for kind in (
            decimal.Decimal,
            fractions.Fraction,
            ipaddress.IPv4Address,
            ipaddress.IPv6Address,
            ipaddress.IPv4Interface,
            ipaddress.IPv6Interface,
            ipaddress.IPv4Network,
            ipaddress.IPv6Network,
            pathlib.PurePosixPath,
            pathlib.PureWindowsPath,
            pathlib.PosixPath,
            pathlib.WindowsPath,
        )
    },
}
"""By the exact type of a value."""

ABSTRACT: Final = (pathlib.Path, pathlib.PurePath, dt.tzinfo)
"""Declared types whose values are of one of several types above."""


# -- types of other packages -----------------------------------------------------------------------


def imported(module: str, name: str) -> Any:
    """What a module that is imported already has under this name. Raises `ValueError` if it has not."""
    found = getattr(sys.modules.get(module), name, None)
    if found is None:
        raise ValueError(f"{module}.{name} is not imported here")
    return found


def _uuid_of(kind: Any) -> Scalar:
    def load(wire: Any) -> Any:
        return kind(_bytes(wire))

    return Scalar(name_of(kind), _dump_uuid, load)


def _day_of(kind: Any) -> Scalar:
    return Scalar(name_of(kind), kind.isoformat, kind.fromisoformat)


def _url_of(core: str) -> Callable[[Any], Scalar]:
    def scalar(kind: Any) -> Scalar:
        def load(wire: Any) -> Any:
            url = object.__new__(kind)
            object.__setattr__(url, "_url", imported("pydantic_core", core)(_text(wire)))
            return url

        return Scalar(name_of(kind), str, load)

    return scalar


_FOREIGN: Final[dict[str, Callable[[Any], Scalar]]] = {
    "asyncpg.pgproto.pgproto:UUID": _uuid_of,  # what asyncpg returns for a column of the type uuid
    # What the clock gives in a test that has frozen it.
    "freezegun.api:FakeDatetime": _moment,
    "freezegun.api:FakeDate": _day_of,
    "pydantic.networks:_BaseUrl": _url_of("Url"),
    "pydantic.networks:_BaseMultiHostUrl": _url_of("MultiHostUrl"),
    "pydantic_core._pydantic_core:TzInfo": lambda kind: Scalar(name_of(kind), _zone_of, _zone),
}
"""By the name of a class; a class that derives from it, and has no state of its own, is as good."""


def name_of(kind: type) -> str:
    """What a class is called on the wire.

    The module that a process was started with has another name in processes that import it (``python -m app``), or
    that ``multiprocessing`` spawns: the name is made that of the module itself.
    """
    module = kind.__module__
    if module in _MAIN_MODULES:
        spec = getattr(sys.modules.get("__main__"), "__spec__", None)
        module = "__main__" if spec is None else spec.name
    return f"{module}:{kind.__qualname__}"


_MAIN_MODULES: Final = frozenset({"__main__", "__mp_main__"})


def foreign_scalar(kind: type) -> Scalar | None:
    """How the values of another package's type travel; ``None`` where that is not known."""
    for base in kind.__mro__:
        make = _FOREIGN.get(name_of(base))
        if make is not None:
            return make(kind)._replace(name=name_of(kind))
    return None


def foreign_class(name: str) -> type:
    """The class of another package that is called so on the wire. Raises `ValueError` where it is not imported."""
    module, _, qualname = name.partition(":")
    found = imported(module, qualname)
    if not isinstance(found, type) or foreign_scalar(found) is None:
        raise ValueError(f"{name} is no class whose values travel")
    return found
