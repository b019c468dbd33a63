"""An entity of each kind, with fields of all types that there are."""

from __future__ import annotations

import dataclasses
import datetime as dt
import decimal
import enum
import uuid
from typing import Any, Final

import attrs
import msgspec
import pydantic

from imperfect_dollop.codecs import EntityCodec


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


@dataclasses.dataclass(frozen=True)
class Plain:
    id: int
    version: int = 1
    text: str = ""
    amount: decimal.Decimal = decimal.Decimal(0)
    born: dt.date | None = None
    since: dt.datetime | None = None
    lasts: dt.timedelta | None = None
    token: uuid.UUID | None = None
    colour: Colour = Colour.BLUE
    data: bytes = b""
    tags: frozenset[str] = frozenset()
    scores: dict[int, float] = dataclasses.field(default_factory=dict)
    rest: Any = None
    inner: Plain | None = None


class Structured(msgspec.Struct, frozen=True, kw_only=True):
    id: tuple[int, str]
    at: dt.time | None = None
    nested: list[Structured] = []


@attrs.frozen
class Attributed:
    id: str
    ratio: float = 0.0
    pair: tuple[int, bool] = (0, False)


class Modelled(pydantic.BaseModel):
    id: int
    mail: str = pydantic.Field(default="", max_length=10)
    tags: set[int] = set()
    rest: dict[str, Any] = {}

    @pydantic.field_validator("mail")
    @classmethod
    def _of_its_own(cls, mail: str) -> str:
        if "!" in mail:
            raise KeyError(mail)
        return mail


CODECS: Final[tuple[EntityCodec[Any], ...]] = tuple(
    EntityCodec(each) for each in (Plain, Structured, Attributed, Modelled)
)

SAMPLES: Final[tuple[Any, ...]] = (
    Plain(
        7,
        3,
        "Ada",
        decimal.Decimal("12.50"),
        dt.date(1815, 12, 10),
        dt.datetime(2024, 2, 29, 12, tzinfo=dt.UTC),
        dt.timedelta(days=3, microseconds=1),
        uuid.UUID(int=5),
        Colour.RED,
        b"\x00\xff",
        frozenset({"a", "b"}),
        {1: 1.5, -3: 0.0},
        {"any": [1, None, "x"]},
        Plain(8),
    ),
    Structured(id=(1, "x"), at=dt.time(1, 2, 3), nested=[Structured(id=(2, "y"))]),
    Attributed("key", 0.25, (3, True)),
    Modelled(id=1, mail="a@b", tags={3, 1, 2}, rest={"x": [1, {"y": None}]}),
)
"""One of each, in the order of `CODECS`."""
