"""From a declared type to a plan: how its values become what msgpack has, and values again.

A value whose type is exactly the declared one travels in the *declared form*, which says nothing of types: a class is
an array of the values of its fields, a date is text. Every other value *escapes*: it travels in a form that names its
type. So a derived class in a field of its base, an int in a field of floats, a decimal below ``Any`` arrive as they
left. A value that has neither form is refused.

Forms are canonical: sets, and dicts by their keys, are put in an order of their own.
"""

from __future__ import annotations

import collections
import collections.abc
import enum
import inspect
import types
import typing
from collections.abc import Callable, Iterable
from typing import Any, Final

import msgspec
import xxhash

from .classes import (
    Field,
    alias_value,
    extras_of,
    fields_of,
    kind_of,
    reading,
    rebuilding,
    slots_of,
)
from .scalars import (
    ABSTRACT,
    LARGE_INT,
    SCALARS,
    Scalar,
    Unfit,
    foreign_class,
    foreign_scalar,
    name_of,
)

__all__ = ["Plan", "Planner", "Shape", "encoded"]

Shape: typing.TypeAlias = Any
"""Lists, strings, numbers and ``None``: what JSON has. Two types of one shape have the same forms."""

Step: typing.TypeAlias = Callable[[Any], Any]

Ext: Final = msgspec.msgpack.Ext

_NATIVE: Final = frozenset({type(None), bool, int, float, str, bytes})
"""Types whose values msgpack has, so that they are their own form."""

# What an escaped value is, by the code of its extension type in msgpack.
_VALUE, _TUPLE, _SET, _FROZENSET, _DICT, _SCALAR, _OBJECT, _MEMBER, _FOREIGN = range(9)
_ORDERED_DICT, _COUNTER, _DEQUE = range(9, 12)

_TEXT: Final = frozenset({str})

_BASES: Final[dict[type, Step]] = {
    int: int.__pos__,
    float: float.__pos__,
    str: str.__str__,
    bytes: lambda value: bytes.__getitem__(value, slice(None)),
}
"""The built-in types that a class of the application may derive from, each with a function from a value of the derived
class to an equal value of the built-in type."""

_encoder: Final = msgspec.msgpack.Encoder(order="deterministic").encode
_decode: Final = msgspec.msgpack.Decoder().decode


def encoded(form: Any) -> bytes:
    """The bytes of a form."""
    try:
        return _encoder(form)
    except OverflowError:
        return _encoder(_widened(form))


class Plan:
    """How the values of one declared type travel.

    Values of a type in `plain` are their own form, in both directions; `dump` and `load` are for all others.
    """

    __slots__ = ("dump", "load", "native", "plain", "shape")

    def __init__(
        self,
        shape: Shape,
        dump: Step,
        load: Step,
        plain: frozenset[type] = frozenset(),
        *,
        native: bool = False,
    ) -> None:
        self.shape: Shape = shape
        self.native: bool = native  # values of no other types are declared
        self.dump: Step = dump
        self.load: Step = load
        self.plain: frozenset[type] = plain

    def dump_all(self, values: Iterable[Any]) -> list[Any]:
        """The forms of several values."""
        plain, dump = self.plain, self.dump
        return [value if type(value) in plain else dump(value) for value in values]

    def load_all(self, forms: Iterable[Any]) -> list[Any]:
        """The values of several forms."""
        plain, load = self.plain, self.load
        return [form if type(form) in plain else load(form) for form in forms]

    def dump_one(self, value: Any) -> Any:
        """The form of any value."""
        return value if type(value) in self.plain else self.dump(value)

    def load_one(self, form: Any) -> Any:
        """The value of any form."""
        return form if type(form) in self.plain else self.load(form)


class _ClassPlan(Plan):
    """Of a class; made before its fields are known, for a class may refer to itself."""

    __slots__ = ("cls",)

    def __init__(self, cls: type) -> None:
        super().__init__(None, self._not_yet, self._not_yet)
        self.cls = cls

    @staticmethod
    def _not_yet(value: Any) -> Any:
        raise AssertionError("the plan of a class was used before it was complete")


class Planner:
    """The plans of one entity class, and of all that its rows may contain."""

    def __init__(self) -> None:
        self._plans: dict[type, Plan] = {}  # of classes and enums
        self._roots: list[type] = []  # declared classes, whose derived classes are known as well
        self._enums: dict[str, type[enum.Enum]] = {}
        self._named: dict[str, type] = {}  # classes that were found by their names
        self._open: list[type] = []  # classes whose fields are being looked at
        self._aliases: list[Any] = []  # aliases whose values are being looked at
        self._any = Plan("any", self._dump_any, self._load_any, _NATIVE)
        self._loaders: dict[int, Step] = {
            _VALUE: self._load_any,
            _TUPLE: lambda form: tuple(self._any.load_all(_list(form))),
            _SET: lambda form: set(self._any.load_all(_list(form))),
            _FROZENSET: lambda form: frozenset(self._any.load_all(_list(form))),
            _DICT: self._load_pairs,
            _SCALAR: _load_scalar,
            _OBJECT: self._load_object,
            _MEMBER: self._load_member,
            _FOREIGN: _load_foreign,
            _ORDERED_DICT: lambda form: collections.OrderedDict(self._load_pairs(form)),
            _COUNTER: self._load_counter,
            _DEQUE: self._load_deque,
        }

    # -- from a type to a plan ---------------------------------------------------------------------

    def plan(self, annotation: Any, place: str) -> Plan:
        """The plan of a declared type. Raises `Unfit`, with the `place`, for one whose values cannot be rebuilt."""
        annotation = _plain_annotation(annotation)
        if hasattr(annotation, "__value__"):  # `type X = ...`
            return self._alias(annotation, place)
        if isinstance(annotation, (str, list, typing.ForwardRef)):
            raise Unfit(f"{place} is declared as {annotation!r}, which cannot be resolved")
        origin, arguments = typing.get_origin(annotation), typing.get_args(annotation)
        if annotation in (Any, object) or isinstance(annotation, typing.TypeVar):
            return self._any
        if annotation is type or annotation is collections.abc.Callable:
            raise Unfit(f"{place} is a {annotation}, which cannot be rebuilt: {_REMEDY}")
        if annotation is None or annotation in _NATIVE:
            return self._native(types.NoneType if annotation is None else annotation)
        if origin in (typing.Union, types.UnionType):
            return self._union([self.plan(one, place) for one in arguments])
        if origin is typing.Literal:
            for value in arguments:
                if isinstance(value, enum.Enum):
                    self.plan(type(value), place)
            return self._marked("literal", sorted(repr(value) for value in arguments))
        if origin is not None:
            return self._generic(origin, arguments, place)
        if isinstance(annotation, type):
            return self._class(annotation, place)
        raise Unfit(f"{place} is declared as {annotation!r}, of which no value can be rebuilt")

    def _alias(self, alias: Any, place: str) -> Plan:
        """The plan of an alias. Where an alias names itself, as `pydantic.JsonValue` does, values name their types."""
        if alias in self._aliases:
            return self._any
        self._aliases.append(alias)
        try:
            return self.plan(alias_value(alias), place)
        finally:
            self._aliases.pop()

    def _native(self, kind: type) -> Plan:
        return Plan(kind.__name__, self._escape, self._unescape, frozenset({kind}), native=True)

    def _marked(self, *shape: Shape) -> Plan:
        """Of values that name their own types."""
        return Plan(list(shape), self._dump_any, self._load_any, _NATIVE)

    def _union(self, plans: list[Plan]) -> Plan:
        shape = ["union", sorted((plan.shape for plan in plans), key=msgspec.json.encode)]
        others = [plan for plan in plans if not plan.plain or plan is self._any]
        natives = frozenset[type]().union(*(plan.plain for plan in plans))
        if not others:
            native = all(plan.native for plan in plans)
            return Plan(shape, self._escape, self._unescape, natives, native=native)
        if len(others) == 1 and natives == {types.NoneType}:
            return Plan(shape, others[0].dump, others[0].load, natives)
        return Plan(shape, self._dump_any, self._load_any, _NATIVE)

    def _generic(self, origin: Any, arguments: tuple[Any, ...], place: str) -> Plan:
        if origin is tuple and not (len(arguments) == 2 and arguments[1] is Ellipsis):
            return self._tuple([self.plan(one, place) for one in arguments])
        if origin in (collections.abc.Callable, type):
            raise Unfit(f"{place} is a {origin.__name__}, which cannot be rebuilt: {_REMEDY}")
        plans = [self.plan(one, place) for one in arguments if one is not Ellipsis]
        if origin is dict and len(plans) == 2:
            return self._dict(*plans)
        if origin in (list, tuple, set, frozenset) and plans:
            return self._collection(origin, plans[0])
        if isinstance(origin, type) and kind_of(origin) is not None:
            plan = self._class(origin, place)
            # The arguments belong to the shape: a field may be declared by a type variable.
            return Plan([plan.shape, *(one.shape for one in plans)], plan.dump, plan.load)
        if _is_abstract(origin) or origin in _COLLECTIONS:
            return self._marked(origin.__name__, *(plan.shape for plan in plans))
        raise Unfit(f"{place} is a {origin!r}, which cannot be rebuilt: {_REMEDY}")

    def _class(self, cls: type, place: str) -> Plan:
        known = self._plans.get(cls)
        if known is not None:
            if cls in self._open:  # a class that refers to itself
                return Plan(["again", self._open.index(cls)], known.dump_one, known.load_one)
            return known
        scalar = SCALARS.get(cls)
        if scalar is not None:
            return self._scalar(cls, scalar)
        if cls in (list, tuple, set, frozenset):
            return self._collection(cls, self._any)
        if cls is dict:
            return self._dict(self._any, self._any)
        if issubclass(cls, dict) and hasattr(cls, "__required_keys__"):  # of typing_extensions too
            return self._typed_dict(cls, place)
        if issubclass(cls, enum.Enum):
            return self._enum(cls)
        if kind_of(cls) is not None:
            return self._record(cls, place)
        return self._other_class(cls, place)

    def _other_class(self, cls: type, place: str) -> Plan:
        for ours in (
            "pydantic.types:Secret",
            "pydantic.types:SecretStr",
            "pydantic.types:SecretBytes",
        ):
            if any(name_of(base) == ours for base in cls.__mro__):
                raise Unfit(
                    f"{place} is a {cls.__name__}, a secret that siblings would be sent: use str or bytes, or leave the"
                    " field out"
                )
        foreign = foreign_scalar(cls)
        if foreign is not None:
            return self._scalar(cls, foreign)
        if cls in ABSTRACT or cls in _COLLECTIONS or cls in (int, float, str, bytes):
            return self._marked(cls.__name__)
        base = next((base for base in _BASES if issubclass(cls, base)), None)
        if base is not None:
            self._roots.append(cls)
            return self._derived_scalar(cls, base)
        if _is_abstract(cls):
            self._roots.append(cls)  # its values are of classes that derive from it
            return self._marked("abstract", cls.__name__)
        if cls.__module__.partition(".")[0] == "pydantic":
            # The class stands for a type of other values, as PastDate stands for date.
            return self._marked(cls.__name__)
        raise Unfit(f"{place} is a {cls.__name__}, which cannot be rebuilt: {_REMEDY}")

    # -- values without parts ----------------------------------------------------------------------

    def _scalar(self, cls: type, scalar: Scalar) -> Plan:
        to_form, to_value = scalar.dump, scalar.load
        escape, unescape = self._escape, self._unescape

        def dump(value: Any) -> Any:
            return to_form(value) if type(value) is cls else escape(value)

        def load(form: Any) -> Any:
            return unescape(form) if type(form) is Ext else to_value(form)

        return Plan(scalar.name, dump, load)

    def _derived_scalar(self, cls: type, base: Any) -> Plan:
        to_base = _BASES[base]
        slots = slots_of(cls)

        def dump(value: Any) -> Any:
            if type(value) is not cls:
                return self._escape(value)
            if getattr(value, "__dict__", None) or any(hasattr(value, slot) for slot in slots):
                raise Unfit(f"{value!r} has attributes beside its {base.__name__}")
            return to_base(value)

        def load(form: Any) -> Any:
            if type(form) is Ext:
                if form.code != _SCALAR:
                    return self._unescape(form)
                form = self._unescape(form)  # an int beyond 64 bits
            if type(form) is not base:
                raise ValueError(f"{type(form).__name__} where {base.__name__} is due")
            return base.__new__(cls, form)

        plan = self._plans[cls] = Plan([base.__name__, cls.__name__], dump, load)
        return plan

    def _enum(self, cls: Any) -> Plan:
        """By name, of flags by number: values need not be unique, nor have a form."""
        self._enums[name_of(cls)] = cls
        members = sorted(
            [name, type(member.value).__name__, repr(member.value)]
            for name, member in cls.__members__.items()
        )
        shape = ["enum", cls.__name__, members]
        to_form: Step
        to_value: Step
        if issubclass(cls, enum.Flag):
            to_form, to_value = _number_of_flag, _flag_of(cls)
        else:
            by_name = dict(cls.__members__)

            def name_of_member(member: Any) -> Any:
                name: str | None = member.name
                if name is None or by_name.get(name) is not member:
                    raise Unfit(f"{member!r} is no declared member of {cls.__name__}")
                return name

            to_form, to_value = name_of_member, by_name.__getitem__
        plan = self._plans[cls] = self._scalar(cls, Scalar("", to_form, to_value))
        plan.shape = shape
        return plan

    # -- collections -------------------------------------------------------------------------------

    def _collection(self, kind: Any, item: Plan) -> Plan:
        plain = item.plain
        in_order = kind in (list, tuple)

        def dump(value: Any) -> Any:
            if type(value) is not kind:
                return self._escape(value)
            if in_order:
                return value if plain.issuperset(map(type, value)) else item.dump_all(value)
            return sorted(item.dump_all(value), key=encoded)

        def load(form: Any) -> Any:
            if type(form) is not list:
                return self._unescape(form)
            if not plain.issuperset(map(type, form)):
                form = item.load_all(form)
            return form if kind is list else kind(form)

        return Plan([kind.__name__, item.shape], dump, load)

    def _tuple(self, items: list[Plan]) -> Plan:
        def dump(value: Any) -> Any:
            if type(value) is not tuple or len(value) != len(items):
                return self._escape(value)
            return [plan.dump_one(item) for plan, item in zip(items, value, strict=True)]

        def load(form: Any) -> Any:
            if type(form) is not list:
                return self._unescape(form)
            return tuple(plan.load_one(item) for plan, item in zip(items, form, strict=True))

        return Plan(["tuple", "of", *(item.shape for item in items)], dump, load)

    def _dict(self, key: Plan, value: Plan) -> Plan:
        shape = ["dict", key.shape, value.shape]
        plain = value.plain
        if key.plain != {str} or key is self._any:
            return Plan(
                shape,
                lambda held: (
                    self._dump_pairs(held, key, value) if type(held) is dict else self._escape(held)
                ),
                lambda form: (
                    self._load_pairs(form, key, value)
                    if type(form) is list
                    else self._unescape(form)
                ),
            )
        dump_item, load_item = value.dump, value.load

        def dump(held: Any) -> Any:
            if type(held) is not dict or not _TEXT.issuperset(map(type, held)):
                return self._escape(held)
            if plain.issuperset(map(type, held.values())):
                return held
            return {
                name: item if type(item) in plain else dump_item(item)
                for name, item in held.items()
            }

        def load(form: Any) -> Any:
            if type(form) is not dict:
                return self._unescape(form)
            if not _TEXT.issuperset(map(type, form)):
                raise ValueError("a key that is no text")
            if plain.issuperset(map(type, form.values())):
                return form
            return {
                name: item if type(item) in plain else load_item(item)
                for name, item in form.items()
            }

        return Plan(shape, dump, load)

    def _typed_dict(self, cls: Any, place: str) -> Plan:
        try:
            hints = typing.get_type_hints(cls, include_extras=True)
        except (NameError, TypeError) as error:
            raise Unfit(f"the annotations of {cls.__name__} cannot be resolved: {error}") from error
        plans = {name: self.plan(one, f"{place}[{name!r}]") for name, one in hints.items()}
        shape = [
            "typed dict",
            cls.__name__,
            sorted([name, one.shape] for name, one in plans.items()),
        ]

        def dump(held: Any) -> Any:
            if type(held) is not dict or not _TEXT.issuperset(map(type, held)):
                return self._escape(held)
            return {name: plans.get(name, self._any).dump_one(item) for name, item in held.items()}

        def load(form: Any) -> Any:
            if type(form) is not dict:
                return self._unescape(form)
            return {name: plans.get(name, self._any).load_one(item) for name, item in form.items()}

        return Plan(shape, dump, load)

    def _dump_pairs(self, held: Any, key: Plan | None = None, value: Plan | None = None) -> Any:
        """Of a dict: pairs, in the order of the bytes of their keys."""
        keys = (key or self._any).dump_all(held)
        values = (value or self._any).dump_all(held.values())
        return sorted(map(list, zip(keys, values, strict=True)), key=lambda pair: encoded(pair[0]))

    def _load_pairs(self, form: Any, key: Plan | None = None, value: Plan | None = None) -> Any:
        key, value = key or self._any, value or self._any
        return {key.load_one(one): value.load_one(other) for one, other in _list(form)}

    def _load_counter(self, form: Any) -> Any:
        counter: collections.Counter[Any] = collections.Counter(self._load_pairs(form))
        return counter

    def _load_deque(self, form: Any) -> Any:
        most, items = form
        return collections.deque(self._any.load_all(_list(items)), most)

    # -- records -----------------------------------------------------------------------------------

    def _record(self, cls: type, place: str) -> Plan:
        plan = _ClassPlan(cls)
        self._plans[cls] = plan
        self._roots.append(cls)
        self._open.append(cls)
        try:
            fields = fields_of(cls)
            inherited = [
                argument
                for base in getattr(cls, "__orig_bases__", ())
                for argument in typing.get_args(base)
                if not isinstance(argument, typing.TypeVar)
            ]
            for argument in inherited:  # what type variables in the fields stand for
                self.plan(argument, place)
            names = [field.name for field in fields]
            plans = [self.plan(field.annotation, f"{place}.{field.name}") for field in fields]
            context: dict[str, Any] = {}
            build = rebuilding(cls, names, context)
        except BaseException:
            del self._plans[cls]
            raise
        finally:
            self._open.pop()
        plan.shape = [
            kind_of(cls),
            cls.__name__,
            [[name, one.shape] for name, one in zip(names, plans, strict=True)],
        ]
        context |= {"Ext": Ext, "escape": self._escape, "unescape": self._unescape}
        for n, one in enumerate(plans):
            context |= {f"plain{n}": one.plain, f"dump{n}": one.dump, f"load{n}": one.load}
        values = "".join(f"v{n}, " for n in range(len(names)))
        rest, put_rest = self._rest_of(cls, fields, values, context)
        plan.dump = _function(
            "dump(o)",
            [
                "if type(o) is not cls: return escape(o)",
                *reading(cls, names),
                *(line for n, one in enumerate(plans) for line in _checked(n, one, "dump")),
                *rest,
                f"return ({values})",
            ],
            context,
        )
        plan.load = _function(
            "load(form)",
            [
                "if type(form) is not list: return unescape(form)",
                "rest = None",
                *([f"if len(form) == {len(names) + 1}: rest = form.pop()"] if rest else []),
                *([f"{values} = form"] if names else ["if form: raise ValueError('no fields')"]),
                *(line for n, one in enumerate(plans) for line in _checked(n, one, "load")),
                *build,
                *put_rest,
                "return o",
            ],
            context,
        )
        return plan

    def _rest_of(
        self, cls: Any, fields: list[Field], values: str, context: dict[str, Any]
    ) -> tuple[list[str], list[str]]:
        """Lines for the state of an object that is in none of its fields: how it is added, and how it is put back."""
        kind = kind_of(cls)
        if kind == "pydantic":
            state = _ModelState(cls, [field.name for field in fields], self._any)
            context |= {"dump_rest": state.dump, "put_rest": state.put}
            dumped = "rest = dump_rest(o)"
            put = ["put_rest(o, rest)"]
        else:
            extras = extras_of(cls, fields)
            if extras is None:
                return [], []
            context |= {"extras": extras, "any_dump": self._dump_any, "any_load": self._load_any}
            dumped = "rest = extras(o)"
            put = ["if rest is not None: o.__dict__.update(any_load(rest))"]
        dump_rest = "rest" if kind == "pydantic" else "any_dump(rest)"
        return [dumped, f"if rest is not None: return ({values}{dump_rest},)"], put

    # -- values that name their types --------------------------------------------------------------

    def _escape(self, value: Any) -> Any:
        """The form of a value that is not of the declared type."""
        form = self._dump_any(value)
        return form if type(form) is Ext else Ext(_VALUE, encoded(form))

    def _unescape(self, form: Any) -> Any:
        if type(form) is not Ext:
            raise ValueError(f"{type(form).__name__} where another type is declared")
        load = self._loaders.get(form.code)
        if load is None:
            raise ValueError(f"an extension type {form.code}")
        return load(_decode(form.data))

    def _dump_any(self, value: Any) -> Any:
        kind = type(value)
        if kind in _NATIVE:
            return value
        dump = self._dump_any
        if kind is list:
            return [item if type(item) in _NATIVE else dump(item) for item in value]
        if kind is dict:
            if _TEXT.issuperset(map(type, value)):
                return {
                    name: item if type(item) in _NATIVE else dump(item)
                    for name, item in value.items()
                }
            return Ext(_DICT, encoded(self._dump_pairs(value)))
        if kind is tuple:
            return Ext(_TUPLE, encoded(self._any.dump_all(value)))
        if kind is set or kind is frozenset:
            items = sorted(self._any.dump_all(value), key=encoded)
            return Ext(_SET if kind is set else _FROZENSET, encoded(items))
        scalar = SCALARS.get(kind)
        if scalar is not None:
            return Ext(_SCALAR, encoded([scalar.name, scalar.dump(value)]))
        return self._dump_named(kind, value)

    def _dump_named(self, kind: type, value: Any) -> Any:
        if kind is collections.OrderedDict:
            pairs = zip(self._any.dump_all(value), self._any.dump_all(value.values()), strict=True)
            return Ext(_ORDERED_DICT, encoded(list(map(list, pairs))))
        if kind is collections.Counter:
            return Ext(_COUNTER, encoded(self._dump_pairs(value)))
        if kind is collections.deque:
            return Ext(_DEQUE, encoded([value.maxlen, self._any.dump_all(value)]))
        if isinstance(value, enum.Enum):
            if self._enums.get(name_of(kind)) is not kind:
                raise Unfit(f"{value!r} is of an enum that no field declares")
            return Ext(_MEMBER, encoded([name_of(kind), self._plans[kind].dump(value)]))
        foreign = foreign_scalar(kind)
        if foreign is not None:
            return Ext(_FOREIGN, encoded([foreign.name, foreign.dump(value)]))
        plan = self._plan_of(kind)
        return Ext(_OBJECT, encoded([name_of(kind), _digest(plan.shape), plan.dump(value)]))

    def _load_any(self, form: Any) -> Any:
        kind = type(form)
        if kind in _NATIVE:
            return form
        load = self._load_any
        if kind is list:
            return [item if type(item) in _NATIVE else load(item) for item in form]
        if kind is dict:
            if not _TEXT.issuperset(map(type, form)):
                raise ValueError("a key that is no text")
            return {
                name: item if type(item) in _NATIVE else load(item) for name, item in form.items()
            }
        return self._unescape(form)

    def _load_member(self, form: Any) -> Any:
        name, member = form
        return self._plans[self._enums[name]].load(member)

    def _load_object(self, form: Any) -> Any:
        name, digest, state = form
        plan = self._plan_of(self._known(name))
        if digest != _digest(plan.shape):
            raise ValueError(f"{name} has other fields here")
        return plan.load(state)

    def _plan_of(self, cls: type) -> Plan:
        """The plan of a declared class, or of one that derives from a declared class. Raises `Unfit`."""
        plan = self._plans.get(cls)
        if plan is not None:
            return plan
        if not any(issubclass(cls, root) for root in self._roots):
            raise Unfit(f"a {cls.__name__}, which no field declares")
        if self._known(name_of(cls)) is not cls:
            raise Unfit(f"a {cls.__name__}, beside another class that is called {name_of(cls)}")
        return self._class(cls, cls.__name__)

    def _known(self, name: str) -> type:
        """The class of this name that is declared, or derives from a declared one; the last of several."""
        found = self._named.get(name)
        if found is not None:
            return found
        left, seen = list(self._roots), set[type]()
        while left:
            cls = left.pop()
            if cls in seen:
                continue
            seen.add(cls)
            left += type.__subclasses__(cls)[::-1]
            if name_of(cls) == name:
                found = cls
        if found is None:
            raise ValueError(f"{name} is no class that is known here")
        self._named[name] = found
        return found


class _ModelState:
    """What a pydantic model has beside its fields: which were set, what it was given on top, private attributes."""

    def __init__(self, cls: Any, names: list[str], anything: Plan) -> None:
        self._names = frozenset(names)
        self._any = anything
        # A model of one value alone, a RootModel, has neither extra values nor private attributes.
        self._has_places = not cls.__pydantic_root_model__
        self._no_extra: dict[str, Any] | None = (
            {} if cls.model_config.get("extra") == "allow" else None
        )

    def dump(self, model: Any) -> Any:
        """``None`` where all fields were set, and there is nothing else."""
        fields_set = model.__pydantic_fields_set__
        extra, private = model.__pydantic_extra__, model.__pydantic_private__
        if fields_set == self._names and private is None and extra == self._no_extra:
            return None
        return [
            None if fields_set == self._names else sorted(fields_set),
            self._any.dump_one(extra),
            self._any.dump_one(private),
        ]

    def put(self, model: Any, rest: Any) -> None:
        """Give a model what `dump` has found."""
        fields_set, extra, private = self._names, self._no_extra, None
        if rest is not None:
            said, extra, private = rest
            extra, private = self._any.load_one(extra), self._any.load_one(private)
            fields_set = self._names if said is None else frozenset(said)
        put = object.__setattr__
        put(model, "__pydantic_fields_set__", set(fields_set))
        if self._has_places:
            put(model, "__pydantic_extra__", None if extra is None else dict(extra))
            put(model, "__pydantic_private__", private)


_COLLECTIONS: Final = (collections.deque, collections.OrderedDict, collections.Counter)

_REMEDY: Final = "use a built-in type, a dataclass, an attrs class, a Struct or a pydantic model"

_SCALARS_BY_NAME: Final = {scalar.name: scalar for scalar in (*SCALARS.values(), LARGE_INT)}


def _widened(form: Any) -> Any:
    """A form in which every int beyond 64 bits, which msgpack does not have, escapes."""
    if isinstance(form, int) and not -(2**63) <= form < 2**64:
        return Ext(_SCALAR, encoded([LARGE_INT.name, LARGE_INT.dump(form)]))
    if isinstance(form, (list, tuple)):
        return [_widened(item) for item in form]
    if isinstance(form, dict):
        return {name: _widened(item) for name, item in form.items()}
    return form


def _number_of_flag(flag: Any) -> str:
    return str(flag.value)


def _flag_of(cls: Any) -> Step:
    def flag(number: Any) -> Any:
        return cls(int(number))

    return flag


def _load_scalar(form: Any) -> Any:
    name, state = form
    return _SCALARS_BY_NAME[name].load(state)


def _load_foreign(form: Any) -> Any:
    name, state = form
    scalar = foreign_scalar(foreign_class(name))
    assert scalar is not None
    return scalar.load(state)


def _list(form: Any) -> list[Any]:
    if type(form) is not list:
        raise ValueError(f"{type(form).__name__} where a list is due")
    return form


def _digest(shape: Shape) -> str:
    return xxhash.xxh3_64_hexdigest(msgspec.json.encode(shape))


def _function(head: str, lines: list[str], context: dict[str, Any]) -> Step:
    source = "\n    ".join([f"def {head}:", *lines])
    exec(source, context)
    function: Step = context[head.partition("(")[0]]
    return function


def _checked(number: int, plan: Plan, step: str) -> list[str]:
    """Lines that replace ``v0`` by its form, or by its value; where it is its own form they only look at its type."""
    line = f"v{number} = {step}{number}(v{number})"
    if len(plan.plain) == 1 and plan.plain != {types.NoneType}:
        (only,) = plan.plain
        return [f"if type(v{number}) is not {only.__name__}: {line}"]
    if plan.plain == {types.NoneType}:
        return [f"if v{number} is not None: {line}"]
    if plan.plain:
        return [f"if type(v{number}) not in plain{number}: {line}"]
    return [line]


def _plain_annotation(annotation: Any) -> Any:
    """A type without what only says more of it: names and metadata."""
    while True:
        origin = typing.get_origin(annotation)
        if origin is typing.Annotated or getattr(origin, "__name__", "") in (
            "Required",
            "NotRequired",
            "ReadOnly",
            "Final",
            "ClassVar",
        ):
            annotation = typing.get_args(annotation)[0]
        elif hasattr(annotation, "__supertype__"):  # NewType
            annotation = annotation.__supertype__
        else:
            return annotation


def _is_abstract(cls: Any) -> bool:
    return (
        inspect.isabstract(cls)
        or bool(getattr(cls, "_is_protocol", False))
        or (getattr(cls, "__module__", "") in ("collections.abc", "typing", "numbers", "os"))
    )
