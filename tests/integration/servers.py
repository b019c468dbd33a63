"""Servers of a test's own, from the programs on this machine: a test may kill and freeze them.

Nothing of a server that the machine itself runs is read, used or disturbed: each has its own ports,
folder and settings. A test that needs no more than a server that works takes ``redis_url`` and
``rabbitmq_url`` (``services.py``) instead, which is quicker.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import signal
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar, Final, Self

import httpx

from examples.students.five.processes import LOOPBACK, Port
from examples.students.five.servers import rabbitmq_environment

from .presence import TRIAL, absent, rabbitmq_answers, redis_answers

PATIENCE: Final = 45.0
"""Seconds for a server to come up; RabbitMQ takes five on a machine that does nothing else."""


@dataclass(frozen=True)
class Certificates:
    """Files in PEM: the authority, and what a server at localhost and 127.0.0.1 shows."""

    authority: Path
    certificate: Path
    key: Path


class Server(ABC):
    """One server process; it is bound to no event loop, and always starts without data."""

    program: ClassVar[str]
    host: Final = LOOPBACK

    def __init__(self, *, certificates: Certificates | None = None) -> None:
        self.certificates = certificates
        self._port, self._tls_port = Port(), Port()
        self._ports = [self._port, self._tls_port]
        self.folder = Path(tempfile.mkdtemp(prefix="dollop-"))
        self._process: subprocess.Popen[bytes] | None = None

    @classmethod
    def found(cls) -> str | None:
        """The path of the program, or None if this machine has none."""
        return shutil.which(cls.program)

    @property
    def port(self) -> int:
        return self._port.number

    @property
    @abstractmethod
    def url(self) -> str: ...

    @property
    @abstractmethod
    def tls_url(self) -> str:
        """Where it listens if it was given certificates."""

    @property
    def running(self) -> bool:
        return self._process is not None and self._process.poll() is None

    @property
    def pid(self) -> int:
        assert self._process is not None
        assert self.running, "it has ended"
        return self._process.pid

    async def start(self) -> None:
        """Start it, empty and on the same ports each time, and return once it answers."""
        assert not self.running, "it is running already"
        path = self.found() or absent(f"no {self.program} on this machine")
        await asyncio.to_thread(self._launch, path)
        try:
            until = time.monotonic() + PATIENCE
            while (error := await self._trial()) is not None:
                if not self.running or time.monotonic() > until:
                    log = await asyncio.to_thread(self._log().read_text, errors="replace")
                    raise RuntimeError(f"{self.program} did not start:\n{log[-3000:]}") from error
                await asyncio.sleep(0.05)
        except BaseException:
            await self.kill()
            raise

    async def kill(self) -> None:
        """End it with SIGKILL, frozen or not, and return once it is gone."""
        if self._process is not None:
            self._process.kill()
            await asyncio.to_thread(self._process.wait)

    def freeze(self) -> None:
        """Stop it with SIGSTOP: its ports stay open, the kernel goes on accepting, nobody answers."""
        os.kill(self.pid, signal.SIGSTOP)
        _, status = os.waitpid(self.pid, os.WUNTRACED)  # a signal takes a moment to arrive
        assert os.WIFSTOPPED(status), "it ended instead"

    def thaw(self) -> None:
        """Let it go on; what is not frozen, or dead, stays as it is."""
        if self.running:
            os.kill(self.pid, signal.SIGCONT)

    async def stop(self) -> None:
        """End it for good, and throw its data and its ports away."""
        await self.kill()
        await asyncio.to_thread(shutil.rmtree, self.folder)
        for port in self._ports:
            port.close()

    async def __aenter__(self) -> Self:
        try:
            await self.start()
        except BaseException:
            await self.stop()
            raise
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    @abstractmethod
    async def _answers(self) -> None:
        """Raise if it does not answer."""

    @abstractmethod
    def _command(self, path: str, data: Path) -> list[str]: ...

    def _environment(self, data: Path) -> dict[str, str]:
        del data
        return dict(os.environ)

    def _log(self) -> Path:
        return self.folder / "log"

    async def _trial(self) -> Exception | None:
        try:
            # First without a driver, which would log each attempt.
            _, writer = await asyncio.open_connection(self.host, self.port)
            writer.transport.abort()
            await self._answers()
        except Exception as error:  # drivers have errors of their own
            return error
        return None

    def _launch(self, path: str) -> None:
        data = self.folder / "data"
        with contextlib.suppress(FileNotFoundError):
            shutil.rmtree(data)
        data.mkdir()
        with self._log().open("wb") as log:
            # In a session of its own: Ctrl-C is for the tests, which then end it.
            self._process = subprocess.Popen(
                self._command(path, data),
                env=self._environment(data),
                cwd=data,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )


class RedisServer(Server):
    """A Redis server that keeps nothing on disk.

    `options` are those of its command line, as in ``["--stream-node-max-entries", "10"]`` or
    ``["--user", "worker", "on", ">secret", "~app:*", "+@all"]``.
    """

    program = "redis-server"

    def __init__(
        self, options: Sequence[str] = (), *, certificates: Certificates | None = None
    ) -> None:
        super().__init__(certificates=certificates)
        self.options = tuple(options)

    @property
    def url(self) -> str:
        return f"redis://{self.host}:{self.port}/0"

    @property
    def tls_url(self) -> str:
        return f"rediss://{self.host}:{self._tls_port.number}/0"

    async def _answers(self) -> None:
        await redis_answers(self.url)

    def _command(self, path: str, data: Path) -> list[str]:
        command = [path, "--port", str(self.port), "--bind", self.host, "--dir", str(data)]
        command += ["--save", "", "--appendonly", "no"]
        if (files := self.certificates) is not None:
            command += ["--tls-port", str(self._tls_port.number), "--tls-auth-clients", "no"]
            command += ["--tls-ca-cert-file", str(files.authority)]
            command += ["--tls-cert-file", str(files.certificate)]
            command += ["--tls-key-file", str(files.key)]
        return [*command, *self.options]


class RabbitMQServer(Server):
    """A RabbitMQ node without plugins, a cluster of one that nobody's epmd hears of.

    `config` are lines of rabbitmq.conf. `users` (their passwords by name) may do everything in
    every one of the `virtual_hosts`, and so may guest.
    """

    program = "rabbitmq-server"

    def __init__(
        self,
        config: Sequence[str] = (),
        *,
        users: Mapping[str, str] = MappingProxyType({}),
        virtual_hosts: Sequence[str] = (),
        certificates: Certificates | None = None,
    ) -> None:
        super().__init__(certificates=certificates)
        self.config = tuple(config)
        self.users = {"guest": "guest", **users}
        self.virtual_hosts = ("/", *virtual_hosts)
        self._distribution, self._no_epmd = Port(), Port()
        self._ports += [self._distribution, self._no_epmd]

    @classmethod
    def found(cls) -> str | None:
        # The one in /usr/sbin of Debian and Red Hat is for root only, and changes the user.
        plain = f"/usr/lib/rabbitmq/bin/{cls.program}"
        return shutil.which(plain) or shutil.which(cls.program)

    @property
    def url(self) -> str:
        return f"amqp://guest:guest@{self.host}:{self.port}/"

    @property
    def tls_url(self) -> str:
        return f"amqps://guest:guest@{self.host}:{self._tls_port.number}/"

    async def _answers(self) -> None:
        await rabbitmq_answers(self.url)

    def _command(self, path: str, data: Path) -> list[str]:
        config = [f"listeners.tcp.1 = {self.host}:{self.port}", "log.console = true"]
        config += ["log.file = false", f"load_definitions = {data / 'definitions.json'}"]
        if (files := self.certificates) is not None:
            config += [f"listeners.ssl.1 = {self.host}:{self._tls_port.number}"]
            config += [f"ssl_options.cacertfile = {files.authority}"]
            config += [f"ssl_options.certfile = {files.certificate}"]
            config += [f"ssl_options.keyfile = {files.key}"]
        config += self.config
        data.joinpath("rabbitmq.conf").write_text("\n".join([*config, ""]))
        data.joinpath("definitions.json").write_text(json.dumps(self._definitions()))
        data.joinpath("enabled_plugins").write_text("[].\n")
        data.joinpath("conf.d").mkdir()
        cookie = data / ".erlang.cookie"
        cookie.write_text(os.urandom(20).hex())
        cookie.chmod(0o400)
        return [path]

    def _definitions(self) -> dict[str, list[dict[str, object]]]:
        everything = {"configure": ".*", "write": ".*", "read": ".*"}
        return {
            "users": [
                {"name": name, "password": password, "tags": "administrator"}
                for name, password in self.users.items()
            ],
            "vhosts": [{"name": name} for name in self.virtual_hosts],
            "permissions": [
                {"user": user, "vhost": virtual_host, **everything}
                for user in self.users
                for virtual_host in self.virtual_hosts
            ],
        }

    def _environment(self, data: Path) -> dict[str, str]:
        return rabbitmq_environment(
            f"dollop{self.port}@localhost",
            data,
            distribution=self._distribution.number,
            no_epmd=self._no_epmd.number,
        )


class PrometheusServer(Server):
    """A Prometheus that scrapes `targets`, as in ``127.0.0.1:8000``, five times a second."""

    program = "prometheus"

    def __init__(self, *targets: str) -> None:
        super().__init__()
        self.targets = targets

    @property
    def url(self) -> str:
        return f"http://{self.host}:{self.port}"

    @property
    def tls_url(self) -> str:
        raise NotImplementedError("it is not started with certificates")

    async def ask(self, path: str, **parameters: str) -> Any:
        """The data that its HTTP API answers with."""
        async with httpx.AsyncClient(base_url=self.url, timeout=TRIAL) as client:
            answer = await client.get(f"/api/v1/{path}", params=parameters)
            return answer.raise_for_status().json()["data"]

    async def _answers(self) -> None:
        await self.ask("status/buildinfo")

    def _command(self, path: str, data: Path) -> list[str]:
        config = data / "prometheus.yml"
        scrape = {"job_name": "dollop", "static_configs": [{"targets": list(self.targets)}]}
        every = {"scrape_interval": "200ms", "scrape_timeout": "200ms"}
        # JSON is YAML.
        config.write_text(json.dumps({"global": every, "scrape_configs": [scrape]}))
        listen = f"--web.listen-address={self.host}:{self.port}"
        return [path, f"--config.file={config}", f"--storage.tsdb.path={data / 'tsdb'}", listen]
