"""Every check of this project, each in an environment of its own.

A machine with Python and pip needs no more than this::

    python3 -m pip install nox
    python3 -m nox                                    # tests, lint, types
    python3 -m nox -s tests                           # with the Python that runs nox
    python3 -m nox -s tests -- tests/unit -k stamp    # what follows -- goes to pytest
    python3 -m nox -s tests -- --cov                  # with the coverage of branches, in twice the time
    python3 -m nox -s tests-3.13                      # with another Python; see nox --list
    python3 -m nox -s integration                     # PostgreSQL, MariaDB, Redis, RabbitMQ
    python3 -m nox -s simulate -- --seeds 20000       # counter-examples to the promises, looked for
    python3 -m nox -s demo -- --broker redis://127.0.0.1  # the demo, with a broker of choice
    python3 -m nox -s sample                          # five instances of examples/students, to use
    python3 -m nox -s sample -- --check               # the same, with everything taken away in turn
    python3 -m nox -s fuzz -- --seconds 600           # search every decoder for inputs that it fails on
    python3 -m nox -s bench -- hits                   # a benchmark, see benchmarks/README.md; without a name all
    python3 -m nox -s ratios                          # those of hits, stampede and memory, against bounds
    python3 -m nox -s soak -- --minutes 10 --broker rabbitmq  # ten processes, random faults, and a judge
    python3 -m nox -s lock -- --upgrade               # what docker/Dockerfile installs

With ``-r`` environments are kept and used again, which is quicker and may be out of date.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from pathlib import Path

import nox

nox.needs_version = ">=2025.5.1"
nox.options.default_venv_backend = "uv|virtualenv"  # uv where there is one, else what nox brings
nox.options.error_on_external_run = True
nox.options.sessions = ["tests", "lint", "types"]

ROOT = Path(__file__).parent
PYPROJECT = nox.project.load_toml(ROOT / "pyproject.toml")

PYTHONS = ("3.11", "3.12", "3.13")

PYTHON = None if sys.version_info >= (3, 11) else ">=3.11"
"""The Python that runs nox where it is new enough, else the first on this machine that is."""


EXTRAS = {"redis": "redis", "rediss": "redis", "amqp": "rabbitmq", "amqps": "rabbitmq"}
"""What a broker's URL takes of our extras, as in demo/urls.py, which cannot be imported yet."""

DRIVERS = {"postgresql": "asyncpg", "postgres": "asyncpg", "mysql": "asyncmy", "mariadb": "asyncmy"}
"""What a database's URL takes, as in demo/urls.py; the versions are those of the integration tests."""

DEMO_URLS = {"--broker": "DOLLOP_DEMO_BROKER", "--database": "DOLLOP_DEMO_DATABASE"}
"""The variables in which the demo looks for its URLs, too."""

SAMPLE_URLS = {"--broker": "STUDENTS_BROKER", "--database": "STUDENTS_DATABASE"}
"""The same for the five instances. What is no URL names a kind, like rabbitmq."""

SOAK_URLS = {"--broker": "SOAK_BROKER", "--database": "SOAK_DATABASE"}
"""The same for the soak."""

SAMPLE_EXTRAS = ("fastapi", "prometheus", "rabbitmq", "redis", "sqlalchemy")
"""What examples/students takes of our extras, here and in docker/Dockerfile."""

FAREWELL_SECONDS = 30
"""For the demo, the five instances and the soak to end what they have begun, after Ctrl-C."""


def group(*names: str) -> tuple[str, ...]:
    """The requirements in these dependency groups of pyproject.toml, whatever the age of pip."""
    return nox.project.dependency_groups(PYPROJECT, *names)


def urls_apart(session: nox.Session, variables: dict[str, str]) -> tuple[dict[str, str], list[str]]:
    """The options that name a URL, as variables, and what else a session was given.

    nox shows the command that it runs, and that it has failed: URLs, with their passwords, go by the environment.
    """
    parser = argparse.ArgumentParser(prog=f"nox -s {session.name} --", add_help=False)
    for option, variable in variables.items():
        parser.add_argument(
            option, dest=variable, metavar="URL", default=os.environ.get(variable, "")
        )
    found, words = parser.parse_known_args(session.posargs)
    if any("://" in word for word in words):
        session.error(f"a URL belongs to {' or '.join(variables)}")
    urls: dict[str, str] = vars(found)
    return urls, words


def scheme_of(url: str) -> str:
    """What is before ``://`` and any ``+driver``; the whole of what is no URL."""
    return url.partition("://")[0].partition("+")[0].lower()


def requirements(drivers: set[str]) -> list[str]:
    """What to install for these drivers of databases."""
    return [need for need in group("integration") if need.startswith(tuple(drivers))]


def run_tests(session: nox.Session) -> None:
    """Run the unit and contract tests; takes pytest's arguments."""
    session.install("-e", ".[all]", *group("test"))
    session.run("pytest", *session.posargs)


@nox.session(python=PYTHON)
def tests(session: nox.Session) -> None:
    """Run the unit and contract tests; takes pytest's arguments, as in ``-- --cov`` for the coverage of branches.

    Which takes twice as long.
    """
    run_tests(session)


for version in PYTHONS:
    nox.session(name=f"tests-{version}", python=version)(run_tests)


@nox.session(python=PYTHON)
def integration(session: nox.Session) -> None:
    """Run the tests against real servers; takes pytest's arguments.

    DOLLOP_..._URL names a server, DOLLOP_REQUIRE_SERVICES=1 makes an absent one a failure.
    """
    session.install("-e", ".[all]", *group("integration"))
    session.run("pytest", *(session.posargs or ["tests/integration"]))


@nox.session(python=PYTHON)
def fuzz(session: nox.Session) -> None:
    """Search the decoders for inputs that they fail on; takes arguments as in ``-- --seconds 600 joiner``."""
    session.install("-e", ".[all]", *group("test"))
    # Atheris has no wheels for every Python and platform; the search says so, and that it was skipped.
    session.install("--only-binary=:all:", *group("fuzz"), success_codes=[0, 1], silent=True)
    session.run("python", "-m", "tests.fuzz", *session.posargs)


@nox.session(python=PYTHON)
def soak(session: nox.Session) -> None:
    """Run ten processes on a broker and a database under random faults, and judge what they served; see --help."""
    urls, words = urls_apart(session, SOAK_URLS)
    session.install("-e", ".[all]", *group("integration"))
    session.run(
        *("python", "-m", "tests.soak", *words),
        env=urls,
        interrupt_timeout=FAREWELL_SECONDS,
        terminate_timeout=FAREWELL_SECONDS,
    )


@nox.session(python=PYTHON)
def simulate(session: nox.Session) -> None:
    """Look for counter-examples to the promises; takes the simulator's arguments, --help tells them.

    Without any: the simulator's own tests, every safeguard switched off in turn, the first 2,000 seeds of the default
    range, and 500 seeds that were never tried.
    """
    session.install("-e", ".", *group("test"))
    if session.posargs:
        session.run("python", "-m", "tests.simulation", *session.posargs)
        return
    session.run("pytest", "tests/simulation")
    session.run("python", "-m", "tests.simulation", "--seeds=2000")
    session.run("python", "-m", "tests.simulation", "--seeds=500", f"--seed={int(time.time())}")


@nox.session(python=PYTHON)
def lint(session: nox.Session) -> None:
    """Check style, format and who imports whom."""
    session.install(*group("lint"))
    session.run("ruff", "check")
    session.run("ruff", "format", "--check")
    session.run("lint-imports")


@nox.session(python=PYTHON)
def types(session: nox.Session) -> None:
    """Check the types with mypy and pyright, and that every public name has one."""
    session.install("-e", ".[all]", *group("types"))
    session.run("mypy")
    session.run("pyright")
    session.run("pyright", "--verifytypes", "imperfect_dollop", "--ignoreexternal")


@nox.session(python=PYTHON)
def demo(session: nox.Session) -> None:
    """Show the library at work; takes the demo's arguments, and installs what their URLs need."""
    urls, words = urls_apart(session, DEMO_URLS)
    schemes = {scheme_of(url) for url in urls.values()}
    extras = {"cli", *(EXTRAS[scheme] for scheme in schemes if scheme in EXTRAS)}
    drivers = {DRIVERS[scheme] for scheme in schemes if scheme in DRIVERS}
    session.install(f".[{','.join(sorted(extras))}]", *requirements(drivers))
    session.run(
        *("python", "-m", "imperfect_dollop.demo", *words),
        env=urls,
        interrupt_timeout=FAREWELL_SECONDS,  # there may be processes to end and a table to drop
        terminate_timeout=FAREWELL_SECONDS,
    )


@nox.session(python=PYTHON)
def sample(session: nox.Session) -> None:
    """Run five instances of examples/students on the best broker and database there are; --help tells more."""
    urls, words = urls_apart(session, SAMPLE_URLS)
    session.install(f".[{','.join(SAMPLE_EXTRAS)}]", *group("sample"))
    session.run(
        *("python", "-m", "examples.students.five", *words),
        env=urls,
        interrupt_timeout=FAREWELL_SECONDS,
        terminate_timeout=FAREWELL_SECONDS,
    )


@nox.session(python=PYTHON)
def bench(session: nox.Session) -> None:
    """Run all benchmarks, or one: ``-- NAME``, and its arguments; ``-- --help`` names them."""
    session.install(".[all]", *group("bench"))
    session.run("python", "-m", "benchmarks", *(session.posargs or ["all", "--json"]))


@nox.session(python=PYTHON)
def ratios(session: nox.Session) -> None:
    """Check that hits, stampedes and memory cost about what they did beside their floors."""
    session.install(".[all]")
    session.run("python", "-m", "benchmarks", "check")


@nox.session(python=PYTHON)
def lock(session: nox.Session) -> None:
    """Pin with hashes what docker/Dockerfile installs; takes uv's arguments, as in ``-- --upgrade``.

    Without any, what is pinned already stays as long as pyproject.toml allows it.
    """
    session.install(*group("lock"))
    pins = ("--python-version", "3.11", "--generate-hashes")
    extras = [f"--extra={extra}" for extra in SAMPLE_EXTRAS]
    for arguments, output in (
        (("pyproject.toml", *extras, "--group=image"), "docker/requirements.txt"),
        (("--group=image-build",), "docker/requirements-build.txt"),
    ):
        session.run(
            *("uv", "pip", "compile", "--universal", *pins, *arguments),
            *("--output-file", output, *session.posargs),
            env={"UV_CUSTOM_COMPILE_COMMAND": "python3 -m nox -s lock"},
            silent=True,
        )
