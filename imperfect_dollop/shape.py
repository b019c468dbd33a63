"""What the bytes of an entity mean, as plain data: what a fingerprint is made of.

Two classes of one shape read each other's bytes, and mean the same by them. So it has all that bytes rely on without
saying it: the names of fields that are told by their place alone, the names of an enum's members, the order of
fields, what stands for a field that was left out. Where it is not sure that a difference matters, it makes one: the
price is a row read from the source, and that of the opposite a wrong row.

What code does to a value - a validator, a serializer, a property - is not part of it.
"""

from __future__ import annotations

import dataclasses
import enum
import types
import typing
from collections.abc import Callable
from typing import Any, Final

import msgspec
from msgspec import inspect

__all__ = ["shape_of_annotation", "shape_of_schema", "shape_of_type"]

Shape: typing.TypeAlias = Any
"""Lists, strings, numbers and ``None``: what JSON has."""

_PROSE: Final = frozenset({"title", "description", "default", "examples"})

_FACTORIES: Final = (list, dict, set, frozenset, tuple, bytearray)
"""Default factories that msgspec takes for what a field has when it is left out."""


def shape_of_type(
    node: inspect.Type, canonical: Callable[[object], bytes], seen: tuple[type, ...] = ()
) -> Shape:
    """The shape of a type that msgspec encodes; `canonical` makes bytes of defaults.

    Raises `TypeError` for a default that has no bytes, where a class leaves out what is as it is by default.
    """
    if isinstance(node, inspect.EnumType):
        return _enum(node.cls)
    if isinstance(node, inspect.LiteralType):
        return ["literal", _unordered([[type(one).__name__, one] for one in node.values])]
    if isinstance(node, inspect.UnionType):
        return ["union", _unordered([shape_of_type(one, canonical, seen) for one in node.types])]
    if isinstance(node, inspect.Metadata):
        return shape_of_type(node.type, canonical, seen)
    cls = getattr(node, "cls", None)
    if cls is not None and cls in seen:  # a class that refers to itself
        return ["again", seen.index(cls)]
    if cls is not None:
        seen = (*seen, cls)
    config = getattr(cls, "__struct_config__", None)
    omits = config is not None and config.omit_defaults

    def part(value: object) -> Shape:
        if isinstance(value, inspect.Type):
            return shape_of_type(value, canonical, seen)
        if isinstance(value, inspect.Field):
            default = _default(value, canonical) if omits else None
            # Without a default, and yet not required: what is left out is UNSET.
            given = value.required or value.default is not msgspec.NODEFAULT or _makes(value)
            return [value.name, value.encode_name, value.required, given, part(value.type), default]
        if isinstance(value, tuple):
            return [part(one) for one in value]
        if isinstance(value, type) or typing.get_origin(value) is not None:
            return getattr(
                value, "__name__", ""
            )  # of a generic class the arguments are in the types of its fields
        return value

    names = node.__struct_fields__
    return [type(node).__name__, omits, *([name, part(getattr(node, name))] for name in names)]


def _makes(field: inspect.Field) -> bool:
    return field.default_factory is not msgspec.NODEFAULT


def _default(field: inspect.Field, canonical: Callable[[object], bytes]) -> Shape:
    if _makes(field):
        factory = field.default_factory
        return f"{factory.__name__}()" if factory in _FACTORIES else None  # None: never left out
    if field.default is msgspec.NODEFAULT:
        return None
    return canonical(field.default).hex()


def shape_of_schema(schema: object, *, names: bool = False) -> Shape:
    """A JSON schema less its prose; `names`: its keys are names of fields.

    Alternatives are put in order, and defaults left out: both may come from a set.
    """
    if isinstance(schema, dict):
        return {
            name: [shape_of_schema(item) for item in value]
            if name == "prefixItems" and not names  # the places of a tuple
            else shape_of_schema(value, names=not names and name in {"properties", "$defs"})
            for name, value in schema.items()
            if names or name not in _PROSE
        }
    if isinstance(schema, list):
        return _unordered([shape_of_schema(item) for item in schema])
    return schema


def shape_of_annotation(annotation: Any, seen: tuple[type, ...] = ()) -> Shape:
    """What a JSON schema does not say of a type: names and their order, and the types of a dict's keys.

    Raises `TypeError` for a field that a model does not give away.
    """
    annotation = getattr(annotation, "__value__", annotation)  # `type X = ...`
    if typing.get_origin(annotation) is typing.Annotated:
        return shape_of_annotation(typing.get_args(annotation)[0], seen)
    arguments = typing.get_args(annotation)
    if typing.get_origin(annotation) is typing.Literal:
        return "literal"  # a schema says it all
    if arguments:
        origin = typing.get_origin(annotation)
        name = (
            "Union"
            if origin in (typing.Union, types.UnionType)
            else getattr(origin, "__name__", "")
        )
        return [name, *(shape_of_annotation(one, seen) for one in arguments)]
    if isinstance(annotation, list):  # the arguments of a callable
        return [shape_of_annotation(one, seen) for one in annotation]
    if not isinstance(annotation, type):
        return getattr(annotation, "__name__", type(annotation).__name__)
    if issubclass(annotation, enum.Enum):
        return _enum(annotation)
    if annotation in seen:
        return ["again", seen.index(annotation)]
    seen = (*seen, annotation)
    return [
        annotation.__name__,
        *([name, shape_of_annotation(one, seen)] for name, one in _fields(annotation)),
    ]


def _fields(cls: type) -> list[tuple[str, Any]]:
    """The fields of a model, dataclass, named tuple or typed dict with their types, in order; none of other classes."""
    model = getattr(cls, "__pydantic_fields__", None)
    if isinstance(model, dict):
        for name, field in model.items():
            if getattr(field, "exclude", None):
                raise TypeError(f"{cls.__name__}.{name} is excluded: siblings would not get it")
            if getattr(field, "exclude_if", None):
                raise TypeError(f"{cls.__name__}.{name} may be excluded: siblings would not get it")
        return [(name, field.annotation) for name, field in model.items()]
    named = issubclass(cls, tuple) and hasattr(cls, "_fields")
    if not (named or dataclasses.is_dataclass(cls) or typing.is_typeddict(cls)):
        return []
    try:
        return list(typing.get_type_hints(cls).items())
    except (NameError, TypeError):  # forward references to what is not importable
        return list(getattr(cls, "__annotations__", {}).items())


def _enum(cls: type[enum.Enum]) -> Shape:
    """Members by name: where two have swapped their values, the values alone are the same."""
    members = [[name, _scalar(one.value)] for name, one in cls.__members__.items()]
    return ["enum", cls.__name__, _unordered(members)]


def _scalar(value: object) -> Shape:
    plain = value is None or isinstance(value, (str, int, float))
    return [type(value).__name__, value if plain else None]


def _unordered(shapes: list[Shape]) -> list[Shape]:
    return sorted(shapes, key=msgspec.json.encode)
