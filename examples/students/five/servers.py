"""Brokers that are private to one run: processes on a free port, without data from before, that may be killed."""

from __future__ import annotations

import os
import secrets
import shutil
from abc import ABC, abstractmethod
from pathlib import Path
from typing import ClassVar

from .processes import LOOPBACK, Port, Process

__all__ = ["PrivateServer", "RabbitMQ", "Redis", "rabbitmq_environment"]


class PrivateServer(ABC):
    """A server of whoever makes this. It forgets everything when it ends."""

    program: ClassVar[str]

    def __init__(self, folder: Path) -> None:
        self.port = Port()
        self._data = folder / self.program
        self.process = Process(
            self.program,
            self._command(),
            self._environment(),
            log=folder / f"{self.program}.log",
            folder=folder,
        )

    @classmethod
    def path(cls) -> str | None:
        """Where the program is, if it is on this machine."""
        return shutil.which(cls.program)

    @property
    @abstractmethod
    def url(self) -> str:
        """Where it listens."""

    async def start(self) -> None:
        """Start it, empty; it answers some time later."""
        shutil.rmtree(self._data, ignore_errors=True)
        self._prepare()
        await self.process.start()

    async def stop(self) -> None:
        """End it for good. There is nothing that it would have to save."""
        await self.process.kill()
        self.port.close()

    @abstractmethod
    def _command(self) -> list[str]: ...

    def _environment(self) -> dict[str, str]:
        return dict(os.environ)

    def _prepare(self) -> None:
        """Make what it needs in its folder."""
        self._data.mkdir()


class Redis(PrivateServer):
    """Without anything on disk."""

    program = "redis-server"

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"redis://{LOOPBACK}:{self.port.number}"

    def _command(self) -> list[str]:
        command = [self.path() or self.program, "--bind", LOOPBACK, "--port", str(self.port.number)]
        return [*command, "--save", "", "--appendonly", "no", "--dir", str(self._data)]


class RabbitMQ(PrivateServer):
    """A node without plugins, of which no epmd hears: others on this machine are not disturbed."""

    program = "rabbitmq-server"

    def __init__(self, folder: Path) -> None:
        self._distribution, self._no_epmd = Port(), Port()
        super().__init__(folder)

    @classmethod
    def path(cls) -> str | None:
        """Where the program is; that in /usr/sbin of Debian and Red Hat is for root only, and changes the user."""
        return shutil.which(f"/usr/lib/rabbitmq/bin/{cls.program}") or shutil.which(cls.program)

    @property
    def url(self) -> str:
        """Where it listens, with the user that a new node has."""
        return f"amqp://guest:guest@{LOOPBACK}:{self.port.number}"

    async def stop(self) -> None:
        """End it for good."""
        await super().stop()
        self._distribution.close()
        self._no_epmd.close()

    def _command(self) -> list[str]:
        return [self.path() or self.program]

    def _prepare(self) -> None:
        super()._prepare()
        config = (
            f"listeners.tcp.1 = {LOOPBACK}:{self.port.number}",
            "log.console = true",
            "log.file = false",
            "",
        )
        (self._data / "rabbitmq.conf").write_text("\n".join(config))
        (self._data / "enabled_plugins").write_text("[].\n")
        (self._data / "conf.d").mkdir()
        cookie = self._data / ".erlang.cookie"
        cookie.write_text(secrets.token_hex(20))
        cookie.chmod(0o400)

    def _environment(self) -> dict[str, str]:
        return rabbitmq_environment(
            f"students{self.port.number}@localhost",
            self._data,
            distribution=self._distribution.number,
            no_epmd=self._no_epmd.number,
        )


def rabbitmq_environment(
    node: str, data: Path, *, distribution: int, no_epmd: int
) -> dict[str, str]:
    """For a node with its files in `data` and without an epmd: `distribution` is its port, on `no_epmd` is nobody."""
    others = ("RABBITMQ_", "ERL_")
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(others)}
    return inherited | {
        "HOME": str(data),  # where the cookie is
        "RABBITMQ_NODENAME": node,
        "RABBITMQ_DIST_PORT": str(distribution),
        "RABBITMQ_CONF_ENV_FILE": str(data / "rabbitmq-env.conf"),
        "RABBITMQ_CONFIG_FILE": str(data / "rabbitmq.conf"),
        "RABBITMQ_CONFIG_FILES": str(data / "conf.d"),
        "RABBITMQ_ADVANCED_CONFIG_FILE": str(data / "advanced.config"),
        "RABBITMQ_ENABLED_PLUGINS_FILE": str(data / "enabled_plugins"),
        "RABBITMQ_MNESIA_BASE": str(data / "mnesia"),
        "RABBITMQ_LOG_BASE": str(data / "logs"),
        "RABBITMQ_PID_FILE": str(data / "pid"),
        # Makes the script exec the server, so that the process that is killed is the server.
        "RABBITMQ_ALLOW_INPUT": "1",
        "RABBITMQ_SERVER_START_ARGS": "-noinput +B i",
        # Erlang is told the one port there is, and to look for a daemon where none is; a name from the start keeps
        # RabbitMQ from starting one.
        "ERL_EPMD_PORT": str(no_epmd),
        "ERL_FLAGS": f"-start_epmd false -erl_epmd_port {distribution}"
        " -kernel inet_dist_use_interface {127,0,0,1}",
        "RABBITMQ_SERVER_ADDITIONAL_ERL_ARGS": f"-sname {node}",
        "ERL_CRASH_DUMP_SECONDS": "0",
    }
