from __future__ import annotations

from typing import Final

import pytest

from .services import MARIADB, POSTGRES, Service, Services

FIXTURES: Final[dict[str, Service]] = {"postgres_url": POSTGRES, "mariadb_url": MARIADB}

SERVICES: Final = pytest.StashKey[Services]()


def pytest_configure(config: pytest.Config) -> None:
    config.stash[SERVICES] = Services()


def pytest_collection_finish(session: pytest.Session) -> None:
    """Start what the chosen tests need, here, where no test's timeout runs: images take a while."""
    if session.config.option.collectonly:
        return
    needed = {name for item in session.items for name in getattr(item, "fixturenames", ())}
    for name, service in FIXTURES.items():
        if name in needed:
            session.config.stash[SERVICES].find(service)


def pytest_unconfigure(config: pytest.Config) -> None:
    config.stash[SERVICES].close()


@pytest.fixture
def postgres_url(pytestconfig: pytest.Config) -> str:
    return pytestconfig.stash[SERVICES].url(POSTGRES)


@pytest.fixture
def mariadb_url(pytestconfig: pytest.Config) -> str:
    return pytestconfig.stash[SERVICES].url(MARIADB)
