"""The application: ``uvicorn examples.students.app:create_app --factory``."""

from __future__ import annotations

import contextlib
import logging
import sys
from collections.abc import AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI

from imperfect_dollop import ConfigurationError, Node, Repository
from imperfect_dollop.metrics.prometheus import endpoint, register, unregister
from imperfect_dollop.sources.sqlalchemy import SQLAlchemySource
from imperfect_dollop.web.fastapi import current_node, health, lifespan

from .database import new_engine
from .errors import add_handlers
from .model import Student, students_table
from .routes import router
from .settings import Settings, SettingsError

__all__ = ["create_app"]


def create_app(settings: Settings | None = None) -> FastAPI:
    """The service, by default as the environment says; ends the process if that cannot work."""
    # uvicorn sets up its own loggers only, and nobody would hear what becomes of the node.
    logging.basicConfig(level=logging.INFO, format="%(levelname)-9s %(name)s: %(message)s")
    logging.getLogger("aiormq").setLevel(
        logging.CRITICAL
    )  # the library says it, without a traceback
    try:
        return _create_app(settings or Settings.from_environment())
    except (SettingsError, ConfigurationError) as error:
        sys.exit(f"students: {error}")
    except ModuleNotFoundError as error:
        sys.exit(f"students: the database's driver is missing: pip install {error.name}")


def _create_app(settings: Settings) -> FastAPI:
    engine = new_engine(settings.database)
    source = SQLAlchemySource(engine, students_table(settings.table), version_column="version")
    students: Repository[int, Student] = Repository(
        Student, source=source, version="version", ttl=settings.ttl
    )
    node = Node(settings.broker, students, namespace=settings.namespace, name=settings.node)

    @contextlib.asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[Any]:
        register(node)
        try:
            async with lifespan(node)(app) as state:
                yield state
        finally:
            unregister(node)
            await engine.dispose()

    app = FastAPI(
        title="Students",
        summary="Reads from memory, writes through to the database, all instances in step.",
        version="1",
        lifespan=life,
    )
    add_handlers(app)
    app.include_router(router)
    app.include_router(health(node))
    app.add_route("/metrics", endpoint())
    app.add_api_route("/info", info, tags=["operation"])
    return app


async def info(node: Annotated[Node, Depends(current_node)]) -> dict[str, Any]:
    """The cluster as seen from this instance."""
    return node.status()
