"""Two versions of an entity's class where one cannot read all that the other writes, and where keys differ."""

from __future__ import annotations

import enum
import secrets
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any

from imperfect_dollop import FunctionSource, InvalidEntityError, Node, Repository

from .school import eventually


class OldHue(enum.Enum):
    RED = "red"
    BLUE = "blue"


class NewHue(enum.Enum):
    RED = "red"
    BLUE = "blue"
    GREEN = "green"


@dataclass(frozen=True)
class Old:
    id: int
    hue: OldHue


@dataclass(frozen=True)
class New:
    id: int
    hue: NewHue


@dataclass(frozen=True)
class Renumbered:
    id: str
    hue: NewHue


Table = dict[int, str]


def repository(
    table: Table, entity: type[Any], hue: type[enum.Enum], key: Callable[[Any], Any] = int
) -> Repository[Any, Any]:
    """Over a table that both versions write."""

    def row(number: int) -> Any:
        try:
            return entity(key(number), hue(table[number]))
        except ValueError as error:
            raise InvalidEntityError(f"row {number}: {error}") from error

    async def load(asked: Any) -> Any:
        return row(int(asked)) if int(asked) in table else None

    async def load_all() -> AsyncIterator[list[Any]]:
        yield [row(number) for number in table]

    async def update(entity: Any) -> None:
        table[int(entity.id)] = entity.hue.value

    source = FunctionSource(load=load, load_all=load_all, create=update, update=update, delete=load)
    return Repository(entity, source=source, name="hues", retry_after=0.01)


async def test_a_row_that_the_other_version_cannot_read_keeps_it_from_nothing_else() -> None:
    table: Table = dict.fromkeys(range(5), "red")
    old, new = repository(table, Old, OldHue), repository(table, New, NewHue)
    url = f"memory://{secrets.token_hex(4)}"
    async with Node(url, old, heartbeat=0.05), Node(url, new, heartbeat=0.05):
        await new.update(New(1, NewHue.GREEN))
        await eventually(lambda: old.state == "degraded")
        await new.update(New(2, NewHue.BLUE))
        await eventually(lambda: old[2] == Old(2, OldHue.BLUE))
        assert old[1] == Old(1, OldHue.RED)  # what it was, as far as an old node can tell
        assert (old.stats.full_loads, old.stats.gaps) == (1, 0)
        await eventually(lambda: old.state == "degraded")  # that row is tried again and again
        await new.update(New(1, NewHue.BLUE))
        await eventually(lambda: old[1] == Old(1, OldHue.BLUE) and old.state == "ready")


async def test_keys_of_another_type_are_a_doubt_of_everything() -> None:
    table: Table = dict.fromkeys(range(5), "red")
    old, new = repository(table, Old, OldHue), repository(table, Renumbered, NewHue, str)
    url = f"memory://{secrets.token_hex(4)}"
    async with Node(url, old, heartbeat=0.05), Node(url, new, heartbeat=0.05):
        await new.update(Renumbered("1", NewHue.BLUE))
        await eventually(lambda: old[1] == Old(1, OldHue.BLUE))
        await old.update(Old(2, OldHue.BLUE))
        await eventually(lambda: new["2"] == Renumbered("2", NewHue.BLUE))
        await eventually(lambda: old.state == new.state == "ready")
        assert old.stats.rejections["key"] == new.stats.rejections["key"] == 1
        assert (old.stats.full_loads, new.stats.full_loads) == (2, 2)
        assert (old.stats.gaps, new.stats.gaps) == (0, 0)
