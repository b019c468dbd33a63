"""Create the table unless it is there: ``python -m examples.students.table``, once, before the first instance.

That is no business of the instances. One that starts while the table is elsewhere for a moment would make an empty one,
which all others would take for the students.
"""

from __future__ import annotations

import asyncio
import sys

from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncEngine

from .database import new_engine
from .model import students_table
from .settings import Settings, SettingsError

__all__ = ["create_table"]


async def create_table(engine: AsyncEngine, name: str) -> None:
    """Create a table of this name unless there is one."""
    async with engine.begin() as connection:
        await connection.run_sync(students_table(name).create, checkfirst=True)


async def _create(settings: Settings) -> None:
    engine = new_engine(settings.database)
    try:
        await create_table(engine, settings.table)
    finally:
        await engine.dispose()


if __name__ == "__main__":
    try:
        asyncio.run(_create(Settings.from_environment()))
    except SettingsError as error:
        sys.exit(f"students: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"students: the database's driver is missing: pip install {error.name}")
    except (OSError, SQLAlchemyError) as error:
        sys.exit(f"students: the table cannot be made: {getattr(error, 'orig', None) or error}")
