"""The servers that benchmarks talk to: those that are named, else private ones, which end with the benchmark."""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from examples.students.five.processes import LOOPBACK, opens
from examples.students.five.servers import PrivateServer, RabbitMQ, Redis

from .figures import Mistake, Skipped

__all__ = ["BROKERS", "add_numbers", "add_server", "server"]

BROKERS: Final = ("redis", "rabbitmq")

START_SECONDS: Final = 60.0
"""For a server to listen; RabbitMQ takes five on a machine that does nothing else."""

ANSWER_SECONDS: Final = 5.0
"""For a server that is named."""

SCHEMES: Final = {"redis": "redis", "rabbitmq": "amqp", "postgresql": "postgresql"}
PORTS: Final = {"redis": 6379, "rabbitmq": 5672, "postgresql": 5432}

SUPERUSER: Final = "postgres"
"""PostgreSQL does not run as root: it is started as this user where we are."""


class PostgreSQL(PrivateServer):
    """Without waiting for the disk: its rows are of no use to anybody afterwards."""

    program = "postgres"

    @classmethod
    def path(cls) -> str | None:
        """Where the program is; Debian has a folder for each version, none of them on the path."""
        folders = sorted(Path("/usr/lib/postgresql").glob("*/bin"), key=_version)
        return shutil.which(cls.program, path=os.pathsep.join(map(str, folders[-1:]))) or (
            shutil.which(cls.program)
        )

    @property
    def url(self) -> str:
        """Where it listens, for SQLAlchemy."""
        return f"postgresql+asyncpg://{SUPERUSER}@{LOOPBACK}:{self.port.number}/postgres"

    async def stop(self) -> None:
        """End it for good, with its own processes and what it has of the kernel."""
        await self.process.stop()
        self.port.close()

    def _command(self) -> list[str]:
        settings = {"fsync": "off", "shared_buffers": "256MB", "unix_socket_directories": ""}
        options = [word for pair in settings.items() for word in ("-c", "=".join(pair))]
        where = ["-D", str(self._data), "-h", LOOPBACK, "-p", str(self.port.number)]
        return [*self._as(), self.path() or self.program, *where, *options]

    def _prepare(self) -> None:
        super()._prepare()
        if os.geteuid() == 0:
            self._data.parent.chmod(0o711)
            shutil.chown(self._data, SUPERUSER)
        initdb = str(Path(self.path() or "").with_name("initdb"))
        options = ["-D", str(self._data), "-U", SUPERUSER, "-A", "trust", "-E", "UTF8", "--no-sync"]
        subprocess.run(
            [*self._as(), initdb, *options], check=True, stdout=subprocess.DEVNULL, cwd="/"
        )

    def _as(self) -> list[str]:
        """Before a command, for another user to run it."""
        if os.geteuid() != 0:
            return []
        return ["setpriv", f"--reuid={SUPERUSER}", f"--regid={SUPERUSER}", "--clear-groups", "--"]


def _version(folder: Path) -> float:
    try:
        return float(folder.parent.name)
    except ValueError:
        return 0.0


PRIVATE: Final[dict[str, tuple[str, type[PrivateServer]]]] = {
    "redis": ("DOLLOP_REDIS_URL", Redis),
    "rabbitmq": ("DOLLOP_RABBITMQ_URL", RabbitMQ),
    "postgresql": ("DOLLOP_POSTGRES_URL", PostgreSQL),
}
"""By kind: the variable that names one, as for the integration tests, and how one is started."""


def add_server(parser: argparse.ArgumentParser, *kinds: str) -> None:
    """The options that name servers."""
    for kind in kinds:
        variable, _ = PRIVATE[kind]
        parser.add_argument(
            f"--{kind}",
            metavar="URL",
            default=os.environ.get(variable) or None,
            help=f"the server (${variable}, else one is started)",
        )


def add_numbers(
    parser: argparse.ArgumentParser, numbers: Mapping[str, tuple[int, str]], **least: int
) -> None:
    """Options that take a number: of each what it is without being given, and what it counts.

    `least`: what some have to be at least, by their names without dashes; the others 1.
    """
    for option, (number, text) in numbers.items():
        parser.add_argument(
            option,
            type=_at_least(least.get(option.lstrip("-").replace("-", "_"), 1)),
            metavar="N",
            default=number,
            help=f"{text} (%(default)s)",
        )


def _at_least(least: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        if (found := int(text)) < least:
            raise argparse.ArgumentTypeError(f"{found:,} are too few: give {least:,} or more")
        return found

    return number


async def _answering(kind: str, url: str) -> str:
    """The URL of a server at which somebody listens, as its driver wants it."""
    parts = urlsplit(url)
    if not parts.hostname or not parts.scheme.startswith(SCHEMES[kind]):
        raise Mistake(f"--{kind} takes a URL like {SCHEMES[kind]}://{LOOPBACK}")
    try:
        port = parts.port or PORTS[kind]
        async with asyncio.timeout(ANSWER_SECONDS):
            _, writer = await asyncio.open_connection(parts.hostname, port)
    except (OSError, ValueError) as error:  # a time-out is one, too
        why = str(error) or f"no answer in {ANSWER_SECONDS:g} s"
        raise Mistake(
            f"{kind}: nobody is at {parts.hostname}: {why}; start it, or leave --{kind} out"
        ) from error
    writer.transport.abort()
    return url if kind != "postgresql" else f"postgresql+asyncpg://{url.partition('://')[2]}"


@asynccontextmanager
async def server(kind: str, arguments: argparse.Namespace) -> AsyncIterator[str]:
    """The URL of the server of this kind.

    Raises `Skipped` if none is named, and none can be started; `Mistake` if the one that is named does not answer.
    """
    named: str | None = getattr(arguments, kind)
    if named is not None:
        yield await _answering(kind, named)
        return
    variable, private = PRIVATE[kind]
    if private.path() is None:
        raise Skipped(f"no {private.program} on this machine, and no --{kind} or ${variable}")
    folder = Path(tempfile.mkdtemp(prefix="dollop-bench-"))
    try:
        started = private(folder)
        try:
            await started.start()
            await started.process.until(lambda: opens(started.port.number), START_SECONDS)
            yield started.url
        finally:
            await started.stop()
    finally:
        await asyncio.to_thread(shutil.rmtree, folder)
