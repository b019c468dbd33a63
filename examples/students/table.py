"""When the table is created: once nobody has the students, neither the database nor a sibling.

Not simply when it is missing. It may be missing because somebody is at work on the database, while the siblings go on
answering from memory; an empty table that an instance makes then would be taken for the students by all.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator
from typing import Final

from sqlalchemy import Table
from sqlalchemy.ext.asyncio import AsyncEngine

from imperfect_dollop import Node, Repository, State

from .database import create_table
from .model import Student

__all__ = ["created_if_nobody_has_it"]

logger: Final = logging.getLogger(__name__)

PAUSE_SECONDS: Final = 1.0
"""Between two attempts while the database does not answer."""


@contextlib.asynccontextmanager
async def created_if_nobody_has_it(
    node: Node, students: Repository[int, Student], engine: AsyncEngine, table: Table
) -> AsyncIterator[None]:
    """See to it in the background, from the moment that an open node has failed to be filled until it is."""
    task = asyncio.create_task(
        _see_to_it(node, students, engine, table), name=f"table {table.name}"
    )
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _see_to_it(
    node: Node, students: Repository[int, Student], engine: AsyncEngine, table: Table
) -> None:
    said = ""
    while students.state in (State.COLD, State.LOADING):
        try:
            if _nobody_has_them(node, students):
                await create_table(engine, table)  # the library reads it in a moment
        except Exception as error:  # drivers have errors of their own
            if repr(error) != said:
                said = repr(error)
                logger.warning("the table %s cannot be created yet: %s", table.name, said)
        await asyncio.sleep(PAUSE_SECONDS)


def _nobody_has_them(node: Node, students: Repository[int, Student]) -> bool:
    """As far as can be told, which it cannot without a broker."""
    status = node.status()
    return status["broker"]["up"] and not any(
        member["repositories"].get(students.name, {}).get("phase") in ("ready", "refreshing")
        for member in status["members"]
    )
