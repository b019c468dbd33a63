"""The classes that rows are made of: which fields each has, and how an object is rebuilt past its own code.

An object that is rebuilt gets the values that its fields had. No constructor, validator, converter or
``__post_init__`` runs: what these have made of the values is in them already.
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import keyword
import sys
import types
import typing
import weakref
from collections.abc import Callable
from typing import Any, Final, NamedTuple

import msgspec

from .scalars import Unfit

__all__ = [
    "ClassKind",
    "Field",
    "alias_value",
    "extras_of",
    "fields_of",
    "kind_of",
    "reading",
    "rebuilding",
    "slots_of",
    "state_names",
]

ClassKind: typing.TypeAlias = typing.Literal["dataclass", "attrs", "Struct", "pydantic", "tuple"]


class Field(NamedTuple):
    """One field of a class."""

    name: str
    annotation: Any


def kind_of(cls: type) -> ClassKind | None:
    """What a class was declared with; ``None`` for a class that is no record of fields."""
    if issubclass(cls, msgspec.Struct):
        return "Struct"
    if hasattr(cls, "__pydantic_validator__") and hasattr(cls, "model_dump"):
        return "pydantic"
    if hasattr(cls, "__attrs_attrs__"):
        return "attrs"
    if dataclasses.is_dataclass(cls):
        return "dataclass"
    if issubclass(cls, tuple) and hasattr(cls, "_fields"):
        return "tuple"
    return None


def fields_of(cls: Any) -> list[Field]:
    """The fields of a class, in their order. Raises `Unfit` where annotations cannot be resolved."""
    kind = kind_of(cls)
    if kind == "pydantic":
        return [Field(name, field.annotation) for name, field in _model_fields(cls).items()]
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        raise Unfit(f"the annotations of {cls.__name__} cannot be resolved: {error}") from error
    if kind == "Struct":
        names: Any = cls.__struct_fields__
    elif kind == "attrs":
        names = [attribute.name for attribute in cls.__attrs_attrs__]
    elif kind == "dataclass":
        names = [field.name for field in dataclasses.fields(cls)]
    else:
        names = cls._fields
    return [Field(name, hints.get(name, Any)) for name in names]


def alias_value(alias: Any) -> Any:
    """The type that an alias stands for. Raises `Unfit` where a name in it cannot be resolved."""
    place = types.SimpleNamespace(__annotations__={"value": alias.__value__})
    module = sys.modules.get(alias.__module__)
    try:
        hints = typing.get_type_hints(place, vars(module) if module else {}, include_extras=True)
    except (NameError, TypeError, AttributeError) as error:
        raise Unfit(f"the alias {alias.__name__} cannot be resolved: {error}") from error
    return hints["value"]


_state_names: Final[weakref.WeakKeyDictionary[type, tuple[str, ...] | None]] = (
    weakref.WeakKeyDictionary()
)

_MODEL_STATE: Final = ("__pydantic_fields_set__", "__pydantic_extra__", "__pydantic_private__")


def state_names(cls: type) -> tuple[str, ...] | None:
    """The attributes that make up the state of a record; ``None`` for another class. The answer is remembered."""
    try:
        return _state_names[cls]
    except KeyError:
        kind = kind_of(cls)
        names: tuple[str, ...] | None = None
        if kind is not None:
            names = tuple(field.name for field in fields_of(cls))
            names += _MODEL_STATE if kind == "pydantic" else ()
        _state_names[cls] = names
        return names


def _model_fields(cls: Any) -> dict[str, Any]:
    if not cls.__pydantic_complete__:
        try:
            cls.model_rebuild()
        except Exception as error:  # pydantic's own; the package is not ours to import
            raise Unfit(f"the fields of {cls.__name__} cannot be resolved: {error}") from error
    fields: dict[str, Any] = cls.__pydantic_fields__
    return fields


def extras_of(cls: type, fields: list[Field]) -> Callable[[Any], dict[str, Any] | None] | None:
    """What finds the attributes of an object that are no fields; ``None`` where objects have no place for them.

    A cached property is none of them, nor is an attribute whose name begins with an underscore: both count as caches,
    which each object fills by itself.
    """
    if not any("__dict__" in vars(base) for base in cls.__mro__ if base is not object):
        return None
    names = frozenset(field.name for field in fields)
    stored = sum(not _is_slot(cls, field.name) for field in fields)
    cached = frozenset(
        name
        for base in cls.__mro__
        for name, value in vars(base).items()
        if isinstance(value, functools.cached_property)
    )

    def extras(value: Any) -> dict[str, Any] | None:
        state = value.__dict__
        if len(state) == stored:
            return None
        return {
            name: item
            for name, item in state.items()
            if name not in names and name not in cached and not name.startswith("_")
        } or None

    return extras


def slots_of(cls: type) -> tuple[str, ...]:
    """The names of the slots of a class and of its bases."""
    return tuple(
        name
        for base in cls.__mro__
        for name, value in vars(base).items()
        if isinstance(value, types.MemberDescriptorType)
    )


def _is_slot(cls: type, name: str) -> bool:
    return isinstance(_class_attribute(cls, name), types.MemberDescriptorType)


def _class_attribute(cls: type, name: str) -> Any:
    for base in cls.__mro__:
        if name in vars(base):
            return vars(base)[name]
    return None


# -- rebuilding ------------------------------------------------------------------------------------

_HEAP_TYPE: Final = 1 << 9
"""``Py_TPFLAGS_HEAPTYPE``: the class was made in Python."""

_HASH_CACHE: Final = "_attrs_cached_hash"
"""The attribute in which an attrs class with ``cache_hash=True`` keeps an object's hash."""

_force: Final = msgspec.structs.force_setattr


def rebuilding(cls: Any, names: list[str], context: dict[str, Any]) -> list[str]:
    """Lines of Python that make an object of the values ``v0``, ``v1``, ... of its fields and leave it in ``o``.

    What the lines name is added to `context`. They are generated, as `dataclasses` does it: a loop over the fields
    would take twice as long. Raises `Unfit`, naming the field, where a value cannot be put back as it was.
    """
    context["cls"] = cls
    kind = kind_of(cls)
    values = "".join(f"v{n}, " for n in range(len(names)))
    if kind == "tuple":
        context["new"] = tuple.__new__
        return [f"o = new(cls, ({values}))"]
    if kind == "Struct":
        return _struct_lines(cls, names, values, context)
    context["new"] = object.__new__
    base = cls.__base__
    while base is not None and base is not object and base.__flags__ & _HEAP_TYPE:
        base = base.__base__
    if base is not object:
        raise Unfit(
            f"{cls.__name__} derives from {getattr(base, '__name__', base)}, whose objects only its own code can make"
        )
    if kind == "pydantic":
        context["put"] = object.__setattr__
        pairs = ", ".join(f"{name!r}: v{n}" for n, name in enumerate(names))
        return ["o = new(cls)", f"put(o, '__dict__', {{{pairs}}})"]
    return ["o = new(cls)", *_attribute_lines(cls, names, context)]


def _nothing(struct: object) -> None:
    """Stands for a ``__post_init__`` that is not to run."""


def _struct_lines(cls: Any, names: list[str], values: str, context: dict[str, Any]) -> list[str]:
    if not hasattr(cls, "__post_init__"):
        if len(cls.__match_args__) == len(names):
            return [f"o = cls({values})"]
        context["names"] = names
        return [f"o = cls(**dict(zip(names, ({values}))))"]
    # A Struct is made by its constructor only, which runs __post_init__; a copy of one is made without. So the first is
    # made as of a class whose __post_init__ does nothing, and turned into one of `cls`.
    options = cls.__struct_config__
    blank_class: Any = msgspec.defstruct(
        cls.__name__,
        [],
        bases=(cls,),
        namespace={"__post_init__": _nothing},
        module=__name__,
        gc=options.gc,
        weakref=options.weakref,
        dict=options.dict,
    )
    blank = blank_class(**dict.fromkeys(names))
    try:
        _force(blank, "__class__", cls)
    except TypeError as error:
        raise Unfit(f"{cls.__name__} has a __post_init__, which a copy would run again") from error
    context.update(blank=blank, copy=copy.copy, force=_force)
    return ["o = copy(blank)", *(f"force(o, {name!r}, v{n})" for n, name in enumerate(names))]


def _attribute_lines(cls: type, names: list[str], context: dict[str, Any]) -> list[str]:
    # An object takes less memory as long as no code reads its `__dict__`, so attributes are set one by one.
    context["put"] = object.__setattr__
    lines: list[str] = []
    for n, name in enumerate(names):
        found = _class_attribute(cls, name)
        if _is_slot(cls, name):
            context[f"put{n}"] = found.__set__
            lines.append(f"put{n}(o, v{n})")
        elif hasattr(type(found), "__set__"):
            raise Unfit(
                f"{cls.__name__}.{name} is a descriptor, which keeps its value in a place of its own"
            )
        else:
            lines.append(f"put(o, {name!r}, v{n})")
    if _HASH_CACHE in getattr(getattr(cls.__hash__, "__code__", None), "co_names", ()):
        lines.append(f"put(o, {_HASH_CACHE!r}, None)")  # which __init__ does, and __hash__ expects
    return lines


def reading(cls: type, names: list[str]) -> list[str]:
    """Lines of Python that read the fields of the object ``o`` into ``v0``, ``v1``, ..."""
    kind = kind_of(cls)
    if kind == "tuple":
        return [f"{''.join(f'v{n}, ' for n in range(len(names)))} = o"] if names else []
    if kind == "pydantic":
        return ["d = o.__dict__", *(f"v{n} = d[{name!r}]" for n, name in enumerate(names))]
    return [
        f"v{n} = o.{name}"
        if name.isidentifier() and not keyword.iskeyword(name)
        else f"v{n} = getattr(o, {name!r})"
        for n, name in enumerate(names)
    ]
