"""One table of a database as a source, through SQLAlchemy's asyncio engine."""

from .source import SQLAlchemySource

__all__ = ["SQLAlchemySource"]
