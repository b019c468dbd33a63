"""A process that writes and one that receives, on both sides with a node and with a bare driver.

The source of the writer answers at once and stores nothing. The receiver has none: it is to copy the writer's rows, and
to miss nothing.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any, Final

import msgspec

from imperfect_dollop import FunctionSource, Node, Repository
from imperfect_dollop.replica.messages import Events
from imperfect_dollop.session import Session

from .rows import Row, row

__all__ = ["ROWS", "Source", "after", "before", "receiving", "writing"]

ROWS: Final = 1_000


def after(write: int) -> Row:
    """The row that the write with this number leaves, counted from 0; each writes the next row."""
    return row(write % ROWS, write // ROWS + 1)


def before(write: int) -> Row:
    """What the application hands over: the new row with the version that it has read."""
    written = after(write)
    return msgspec.structs.replace(written, version=written.version - 1)


class Source:
    """Answers at once and stores nothing; counts what it was asked."""

    def __init__(self) -> None:
        self.loads = 0
        self.updates = 0

    def functions(self) -> FunctionSource[int, Row]:
        """As a repository takes it."""
        return FunctionSource(
            load_all=self._load_all, create=_never, update=self._update, delete=_never
        )

    async def _load_all(self) -> list[Row]:
        self.loads += 1
        return list(_rows())

    async def _update(self, entity: Row) -> Row:
        self.updates += 1
        return msgspec.structs.replace(entity, version=entity.version + 1)


class Observed(Repository[int, Row]):
    """Says after each message with events that they were applied: no polling, and nothing in between."""

    applied: Callable[[Events], None]

    def attach(self, *arguments: Any, **named: Any) -> Session[int, Row]:
        """See `Repository.attach`."""
        session = super().attach(*arguments, **named)
        receive = session.receive

        def observed(events: Events) -> None:
            receive(events)
            self.applied(events)

        session.receive = observed  # type: ignore[method-assign]
        return session


@asynccontextmanager
async def writing(url: str, namespace: str, source: Source) -> AsyncIterator[Repository[int, Row]]:
    """The writer's node, with all rows."""
    repository: Repository[int, Row] = Repository(
        Row, source=source.functions(), version="version", ttl=None
    )
    async with Node(url, repository, namespace=namespace, startup="wait"):
        yield repository


@asynccontextmanager
async def receiving(
    url: str, namespace: str, applied: Callable[[Events], None]
) -> AsyncIterator[Repository[int, Row]]:
    """The receiver's node, with all rows; `applied` is called after each message with events."""
    repository = Observed(
        Row,
        source=FunctionSource(load_all=_no_source),
        version="version",
        ttl=None,
        bootstrap=("sibling",),
        read_only=True,
    )
    repository.applied = applied
    async with Node(url, repository, namespace=namespace, startup="wait"):
        yield repository


def _rows() -> Iterator[Row]:
    return (row(number, 0) for number in range(ROWS))


async def _never(given: object) -> None:
    raise AssertionError(f"nothing is created or deleted here, and {given!r} was")


async def _no_source() -> list[Row]:
    raise RuntimeError("this process has no source: it is to copy its sibling and to miss nothing")
