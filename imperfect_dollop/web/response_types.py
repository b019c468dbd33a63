"""Structs and attrs classes as response models of FastAPI: pydantic schemas whose JSON is that of msgspec.

Pydantic and FastAPI know dataclasses and pydantic models, and neither Structs nor attrs classes. `response_type` gives
such a class the attributes that pydantic looks for in types and values, and enters it in FastAPI's table of encoders.
"""

from __future__ import annotations

import functools
import typing
from collections.abc import Callable, Iterator
from typing import Annotated, Any, Final, TypeVar, get_args, get_origin

import msgspec
from fastapi.encoders import encoders_by_class_tuples, jsonable_encoder
from msgspec import inspect
from pydantic import (
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    PydanticInvalidForJsonSchema,
    PydanticSchemaGenerationError,
    TypeAdapter,
    WithJsonSchema,
)
from pydantic_core import (
    PydanticCustomError,
    PydanticSerializationUnexpectedValue,
    SchemaSerializer,
    core_schema,
    to_jsonable_python,
)

from ..errors import ConfigurationError

__all__ = ["response_type"]

C = TypeVar("C", bound=type[Any])

SOURCE: Final = "imperfect_dollop.response_type"
"""The key in a core schema's metadata that holds the type, with its arguments if the class is generic."""

_encoder: Final = msgspec.json.Encoder(enc_hook=jsonable_encoder)


def response_type(cls: C) -> C:
    """Let routes return instances of a Struct or attrs class, and name it as a response model. Return the class.

    `lifespan` and `repository` do this for the classes of their repositories. ``@response_type`` does it for other
    classes that routes return, such as a page of rows. The classes in its fields are prepared as well. FastAPI knows
    dataclasses and pydantic models: these are left as they are.

    The class gets the attributes ``__get_pydantic_core_schema__``, ``__get_pydantic_json_schema__`` and
    ``__pydantic_serializer__``, unless it has the first one already. Instances are serialised as `msgspec.json.encode`
    does.

    Raises `ConfigurationError` for what is no class.
    """
    if not isinstance(cls, type):
        raise ConfigurationError(f"response_type(cls) takes a class, not {cls!r}")
    for found in _classes(cls, {}):
        if not hasattr(found, "__get_pydantic_core_schema__"):
            found.__get_pydantic_core_schema__ = classmethod(_core_schema)
            found.__get_pydantic_json_schema__ = classmethod(_json_schema)
            found.__pydantic_serializer__ = _serializer_of_any
            encoders_by_class_tuples[_to_json] += (found,)
    return cls


def _classes(of: Any, seen: dict[int, Any]) -> Iterator[Any]:
    """The Structs and attrs classes that a type names: itself, those of its arguments, and those of its fields."""
    if id(of) in seen:
        return
    seen[id(of)] = of  # which keeps the number from being given to another object
    for argument in get_args(of):
        yield from _classes(argument, seen)
    cls = _class_of(of)
    if not isinstance(cls, type):
        return
    if _is_foreign(cls):
        yield cls
    try:
        hints = typing.get_type_hints(cls, include_extras=True)
    except (NameError, TypeError, AttributeError):
        return  # an annotation that cannot be resolved: the route that returns it says so
    for hint in hints.values():
        yield from _classes(hint, seen)


def _is_foreign(cls: type[Any]) -> bool:
    """Whether msgspec knows this class, and pydantic does not."""
    return issubclass(cls, msgspec.Struct) or hasattr(cls, "__attrs_attrs__")


def _class_of(of: Any) -> Any:
    """The class of a type that may have arguments."""
    return get_origin(of) or of


def _to_json(value: Any) -> Any:
    """What a client reads from msgspec's JSON of this value."""
    return msgspec.json.decode(_encoder.encode(value))


# -- values ----------------------------------------------------------------------------------------


def _core_schema(
    cls: type[Any], source: Any, handler: GetCoreSchemaHandler
) -> core_schema.CoreSchema:
    return core_schema.no_info_plain_validator_function(
        _validator(_class_of(source), source),
        ref=_reference(source),
        metadata={SOURCE: source},
        serialization=core_schema.plain_serializer_function_ser_schema(
            _serializer(_class_of(source)), info_arg=True, when_used="json"
        ),
    )


def _validator(cls: type[Any], source: Any) -> Callable[[Any], Any]:
    def validate(value: Any) -> Any:
        """Return the instance itself, or make one from what JSON was read as."""
        if isinstance(value, cls):
            return value
        reason = f"Expected {cls.__name__}, got {type(value).__name__}"
        if isinstance(value, (dict, list)):
            try:
                return msgspec.convert(value, source, str_keys=True)
            except msgspec.ValidationError as error:
                reason = str(error)
            except TypeError as error:
                reason = f"{cls.__name__} cannot be made from JSON: {error}"
        raise PydanticCustomError("response_type", "{reason}", {"reason": reason})

    return validate


@functools.cache
def _serializer(cls: type[Any]) -> Callable[[Any, core_schema.SerializationInfo], Any]:
    names = _json_names(cls)
    defaults = _defaults(cls)
    tag = cls.__struct_config__.tag_field if issubclass(cls, msgspec.Struct) else None

    def serialize(value: Any, info: core_schema.SerializationInfo) -> Any:
        """JSON of the fields that `cls` has: as in other models, what a derived class adds is left out."""
        if not isinstance(value, cls):
            raise PydanticSerializationUnexpectedValue(
                f"expected {cls.__name__}, got {type(value).__name__}"
            )
        made = _to_json(value)
        if not isinstance(made, dict):  # a Struct with array_like=True
            return made
        if type(value) is not cls:
            made = {name: field for name, field in made.items() if name in names or name == tag}
        if info.include is not None or info.exclude is not None:
            chosen: Any = {"include": info.include, "exclude": info.exclude}
            made = to_jsonable_python(made, **chosen)
        if info.exclude_none:
            made = {name: field for name, field in made.items() if field is not None}
        if info.exclude_defaults or info.exclude_unset:  # what was not set has its default
            unchanged = {
                name
                for name, default in defaults.items()
                if getattr(value, names[name]) == default()
            }
            made = {name: field for name, field in made.items() if name not in unchanged}
        if info.by_alias is False:
            made = {names.get(name, name): field for name, field in made.items()}
        return made

    return serialize


def _serialize_as_itself(value: Any, info: core_schema.SerializationInfo) -> Any:
    cls: Any = type(value)
    return _serializer(cls)(value, info)


_serializer_of_any: Final = SchemaSerializer(
    core_schema.any_schema(
        serialization=core_schema.plain_serializer_function_ser_schema(
            _serialize_as_itself, info_arg=True, when_used="json"
        )
    )
)
"""What pydantic uses where it is told no class: in `Any`, or a dict of unknown values."""


def _json_names(cls: type[Any]) -> dict[str, str]:
    """The field for each name in JSON."""
    if issubclass(cls, msgspec.Struct):
        return dict(zip(cls.__struct_encode_fields__, cls.__struct_fields__, strict=True))
    return {field.name: field.name for field in cls.__attrs_attrs__ if field.name[0] != "_"}


def _defaults(cls: type[Any]) -> dict[str, Callable[[], Any]]:
    """What makes the default of each field that has one, by the field's name in JSON."""
    try:
        fields = getattr(inspect.type_info(cls), "fields", ())
    except TypeError:
        return {}
    return {
        field.encode_name: _constant(field.default)
        if field.default_factory is msgspec.NODEFAULT
        else field.default_factory
        for field in fields
        if not (field.default is field.default_factory is msgspec.NODEFAULT)
    }


def _constant(value: Any) -> Callable[[], Any]:
    return lambda: value


# -- JSON schemas ----------------------------------------------------------------------------------


def _json_schema(cls: type[Any], schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
    return _describe(schema["metadata"][SOURCE], handler)


def _describe(source: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
    """A reference to msgspec's JSON schema of a type, entered in pydantic's document with all that it refers to."""

    def describe_custom(of: Any) -> dict[str, Any]:
        try:
            return _generate(TypeAdapter(of).core_schema, handler)
        except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
            return {}  # any JSON

    try:
        nodes = {_reference(node.cls): node for node in _nodes(inspect.type_info(source))}
        types = [node.cls for node in nodes.values()]
        references, components = msgspec.json.schema_components(
            types, schema_hook=describe_custom, ref_template="{name}"
        )
    except TypeError:  # what msgspec encodes, and could not decode: two kinds of text in one union
        return _enter(_reference(source), _outline(_class_of(source)), handler)
    by_name = {
        reference["$ref"]: (place, node)
        for reference, (place, node) in zip(references, nodes.items(), strict=True)
    }
    links = {
        name: _generate(core_schema.definition_reference_schema(place), handler)["$ref"]
        for name, (place, _) in by_name.items()
    }
    for name, (place, node) in by_name.items():
        component = components[name]
        _complete(component, node, answer=handler.mode == "serialization")
        _enter(place, _linked(component, links), handler)
    return {"$ref": links[references[0]["$ref"]]}


def _enter(place: str, component: dict[str, Any], handler: GetJsonSchemaHandler) -> dict[str, Any]:
    """Make a component of pydantic's document. Return a reference to it."""
    schema: Any = TypeAdapter(Annotated[Any, WithJsonSchema(component)]).core_schema
    return _generate({**schema, "ref": place}, handler)


def _generate(schema: Any, handler: GetJsonSchemaHandler) -> dict[str, Any]:
    """The JSON schema of another core schema. A handler makes components only of what is inside its own schema."""
    items: dict[str, Any] = handler(core_schema.list_schema(schema))["items"]
    return items


def _reference(source: Any) -> str:
    """Pydantic's reference of a class: module, name and number, and those of the arguments of a generic one."""
    cls = _class_of(source)
    arguments = ",".join(
        _reference(each) if hasattr(each, "__qualname__") else f"{each!r}:{id(each)}"
        for each in get_args(source)
    )
    return f"{cls.__module__}.{cls.__qualname__}:{id(cls)}" + (arguments and f"[{arguments}]")


def _outline(cls: type[Any]) -> dict[str, Any]:
    """The JSON schema of a class of whose fields no more is known than their names."""
    return {
        "title": cls.__name__,
        "type": "object",
        "properties": {name: {} for name in _json_names(cls)},
    }


def _complete(component: dict[str, Any], node: Any, *, answer: bool) -> None:
    """Add what msgspec leaves out: formats of times without a zone, and the fields that an answer always has."""
    properties = component.get("properties")
    if not properties:
        return
    cls = _class_of(node.cls)
    required = set(component.get("required", ()))
    always = answer and not isinstance(node, inspect.TypedDictType)
    if issubclass(cls, msgspec.Struct):
        always = always and not cls.__struct_config__.omit_defaults
    for field in node.fields:
        if hasattr(cls, "__attrs_attrs__") and field.name.startswith("_"):
            properties.pop(field.encode_name)  # msgspec does not encode it
            required.discard(field.encode_name)
            continue
        _add_format(properties[field.encode_name], field.type)
        defaults = {id(field.default), id(field.default_factory)}
        if always and defaults != {id(msgspec.NODEFAULT)}:  # else its default is UNSET
            required.add(field.encode_name)
    component["required"] = [name for name in properties if name in required]


def _add_format(schema: dict[str, Any], node: Any) -> None:
    """Name the format of a datetime or time that may lack a zone, at any depth."""
    if isinstance(node, (inspect.DateTimeType, inspect.TimeType)):
        _strings(schema).setdefault(
            "format", "date-time" if isinstance(node, inspect.DateTimeType) else "time"
        )
    elif isinstance(node, inspect.Metadata):
        _add_format(schema, node.type)
    elif isinstance(node, inspect.UnionType):  # which has at most one kind of text
        for each in node.types:
            if isinstance(each, (inspect.DateTimeType, inspect.TimeType, inspect.Metadata)):
                _add_format(schema, each)
    elif isinstance(node, inspect.DictType):
        _add_format(schema.get("additionalProperties", {}), node.value_type)
    elif hasattr(node, "item_type"):
        _add_format(schema.get("items", {}), node.item_type)


def _strings(schema: dict[str, Any]) -> dict[str, Any]:
    """The part of a schema that is about text."""
    choices: list[dict[str, Any]] = schema.get("anyOf", [])
    for choice in choices:
        if choice.get("type") == "string":
            return choice
    return schema


def _linked(schema: Any, links: dict[str, str]) -> Any:
    """The schema with references of pydantic's document in place of names of components."""
    if isinstance(schema, list):
        return [_linked(each, links) for each in schema]
    if not isinstance(schema, dict):
        return schema
    if "$ref" in schema and schema["$ref"] in links:
        return {**schema, "$ref": links[schema["$ref"]]}
    if "discriminator" in schema and "anyOf" in schema:
        discriminator = schema["discriminator"]
        mapping = {tag: links.get(to, to) for tag, to in discriminator["mapping"].items()}
        schema = {**schema, "discriminator": {**discriminator, "mapping": mapping}}
    return {key: _linked(each, links) for key, each in schema.items()}


def _nodes(root: Any) -> Iterator[Any]:
    """The types with a name of their own that msgspec's description of a type has, itself first."""
    waiting, seen = [root], set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if hasattr(node, "cls") and not isinstance(node, inspect.CustomType):
            yield node
        waiting.extend(field.type for field in getattr(node, "fields", ()))
        waiting.extend(getattr(node, "types", getattr(node, "item_types", ())))
        inner = ("type", "item_type", "key_type", "value_type")
        waiting.extend(getattr(node, name) for name in inner if hasattr(node, name))
