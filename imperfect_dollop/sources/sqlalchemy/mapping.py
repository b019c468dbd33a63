"""From a mapped class or a table, and an entity's class, to columns, keys and arguments.

Everything that can be wrong with them is a `ConfigurationError` here, when the source is built.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterable, Mapping
from typing import Any, Final, TypeAlias, cast

import msgspec
from sqlalchemy import Column, Integer, Table, inspect
from sqlalchemy.engine import Dialect
from sqlalchemy.orm import InstrumentedAttribute, Mapper

from ...errors import ConfigurationError
from .column_types import annotation_of

__all__ = [
    "Attribute",
    "Columns",
    "arguments_of",
    "check_fields",
    "fills_in",
    "mapped",
    "struct_of",
    "version_of",
]

Attribute: TypeAlias = "str | Column[Any] | InstrumentedAttribute[Any]"
Columns: TypeAlias = "dict[str, Column[Any]]"

_NO_IDENTIFIER: Final = re.compile(r"\W")


def mapped(model_or_table: type[Any] | Table) -> tuple[Table, Columns, tuple[str, ...]]:
    """The table, its columns by attribute, and the attributes of its primary key."""
    table: Any = model_or_table
    columns: dict[str, Any]
    primary_key: Iterable[Any]
    if isinstance(model_or_table, Table):
        columns = _by_identifier(table)
        primary_key = table.primary_key
    else:
        mapper = cast("Mapper[Any] | None", inspect(model_or_table, raiseerr=False))
        if not isinstance(mapper, Mapper):
            raise ConfigurationError(f"{model_or_table!r} is neither a mapped class nor a Table")
        table, primary_key = mapper.local_table, mapper.primary_key
        if mapper.inherits is not None or not isinstance(table, Table):
            raise ConfigurationError(
                f"{model_or_table!r} has no table of its own; pass the Table, and where= for the "
                "rows that are meant"
            )
        columns = {attribute.key: attribute.columns[0] for attribute in mapper.column_attrs}
        columns = {name: column for name, column in columns.items() if isinstance(column, Column)}
    names = {column: name for name, column in columns.items()}
    keys = tuple(names[column] for column in primary_key)
    if not keys:
        raise ConfigurationError(
            f"the table {table.name!r} has no primary key, by which to tell rows apart; declare one"
        )
    return cast("Table", table), columns, keys


def version_of(version: Attribute | None, columns: Columns, keys: tuple[str, ...]) -> str | None:
    """The attribute of the version column."""
    if version is None:
        return None
    name = version if isinstance(version, str) else version.key
    by_key = {column.key: column for column in columns.values() if not column.key.isidentifier()}
    column = version if isinstance(version, Column) else columns.get(name, by_key.get(name))
    attribute = next((name for name, mapped in columns.items() if mapped is column), None)
    if column is None or attribute is None:
        raise ConfigurationError(
            f"version_column={name!r} is not one of the columns: {', '.join(columns)}"
        )
    if not isinstance(column.type, Integer) or column.nullable or attribute in keys:
        raise ConfigurationError(
            f"version_column={name!r} must be an integer, NOT NULL and outside of the primary key: "
            "it is counted up"
        )
    return attribute


def check_fields(
    entity: type[Any], fields: Iterable[str], columns: Columns, needed: set[Any]
) -> None:
    """Raises unless every field has a column, and every column in `needed` a field."""
    if missing := needed.difference(fields):
        raise ConfigurationError(
            f"entity={entity.__name__} lacks {', '.join(sorted(missing))} (the key or version of "
            "the table); add the field, or leave out entity= to have a class made"
        )
    if unknown := set(fields).difference(columns):
        raise ConfigurationError(
            f"entity={entity.__name__} has fields without a column: {', '.join(sorted(unknown))}; "
            f"the columns are {', '.join(columns)}"
        )


def arguments_of(entity: type[Any]) -> Mapping[str, str]:
    """The entity's attributes, each with the argument of the constructor that sets it."""
    if issubclass(entity, msgspec.Struct):
        return {name: name for name in entity.__struct_fields__}
    fields: Mapping[str, Any] | None = getattr(entity, "__pydantic_fields__", None)
    if (
        fields is not None
    ):  # a model, or a dataclass of pydantic's, whose arguments have aliases too
        settings = getattr(entity, "model_config", None) or getattr(
            entity, "__pydantic_config__", {}
        )
        by_name = (
            settings.get("validate_by_name")
            or settings.get("populate_by_name")
            or (settings.get("validate_by_alias") is False)
        )
        return {
            name: name if by_name else _alias_of(entity, name, field.validation_alias)
            for name, field in fields.items()
            if field.init is not False
        }
    if dataclasses.is_dataclass(entity):
        return {field.name: field.name for field in dataclasses.fields(entity) if field.init}
    if (attributes := getattr(entity, "__attrs_attrs__", None)) is not None:
        return {field.name: field.alias for field in attributes if field.init}
    raise ConfigurationError(
        f"entity={entity!r} is no dataclass, attrs class, msgspec.Struct or pydantic model"
    )


def _alias_of(entity: type[Any], name: str, alias: Any) -> str:
    """The argument that sets a field of a pydantic class which does not take fields by their names."""
    if alias is None or isinstance(alias, str):
        return name if alias is None else alias
    for choice in getattr(alias, "choices", [alias]):  # of an AliasChoices, or an AliasPath alone
        path = getattr(choice, "path", [choice])
        if len(path) == 1 and isinstance(path[0], str):
            return path[0]
    raise ConfigurationError(
        f"no single argument of entity={entity.__name__} sets its field {name!r}, whose validation_alias is "
        f"{alias!r}; set validate_by_name=True in the class's model_config"
    )


def struct_of(
    name: str, columns: Columns, version: str | None, dialect: Dialect
) -> type[msgspec.Struct]:
    """A frozen Struct with a field for every column."""
    fields: list[tuple[str, Any] | tuple[str, Any, Any]] = []
    for attribute, column in columns.items():
        kind = annotation_of(attribute, column, dialect)
        if column.nullable or column.computed is not None or fills_in(column):
            fields.append((attribute, kind | None, None))
        else:
            fields.append((attribute, kind, 0) if attribute == version else (attribute, kind))
    return msgspec.defstruct(name, fields, frozen=True, kw_only=True, module=__name__)


def _by_identifier(table: Table) -> Columns:
    """The columns of a table by attribute: the column's name, or the nearest one that Python can read.

    Characters that no attribute may have become ``_``, and so does the place before a leading digit.
    """
    columns: Columns = {}
    for column in table.columns:
        name = str(column.key)  # a column's key may be SQLAlchemy's own kind of string
        if not name.isidentifier():
            name = _NO_IDENTIFIER.sub("_", name)
            name = name if name.isidentifier() else f"_{name}"
            taken = {*columns, *table.columns.keys()}
            while name in taken:
                name += "_"
        columns[name] = column
    return columns


def fills_in(column: Column[Any]) -> bool:
    """Whether leaving the column out of an INSERT stores something where NULL could not be."""
    default = column.default or column.server_default or column.identity
    return column is column.table.autoincrement_column or (
        default is not None and not column.nullable
    )
