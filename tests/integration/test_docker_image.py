"""The image of docker/Dockerfile, as far as it can be made and run without Docker: its steps in folders."""

from __future__ import annotations

import asyncio
import os
import re
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import yaml

from examples.students.five.processes import LOOPBACK, Port

from .dockerfile import Replay
from .workers import until

ROOT: Final = Path(__file__).parents[2]

pytestmark = [
    pytest.mark.timeout(600),  # it downloads what the image holds
    pytest.mark.skipif(os.name != "posix", reason="the image is a Linux one"),
]


@pytest.fixture(scope="module")
def replay(tmp_path_factory: pytest.TempPathFactory) -> Replay:
    folder = tmp_path_factory.mktemp("image")
    replay = Replay(ROOT / "docker/Dockerfile", ROOT, folder)
    replay.forget_other_stages()
    return replay


class Container:
    """The process that CMD starts, with nothing in its environment but what the image says."""

    def __init__(self, replay: Replay, log: Path, **environment: str) -> None:
        self.image = replay.final
        self._port = Port()
        self.environment = (
            self.image.environment
            | {"UVICORN_HOST": LOOPBACK, "UVICORN_PORT": str(self._port.number)}
            | environment
        )
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                self.image.arguments(self.image.command),
                cwd=self.image.folder,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def run(self, command: list[str]) -> tuple[int, str]:
        """What `docker exec` would: the command's exit code and output."""
        process = await asyncio.create_subprocess_exec(
            *self.image.arguments(command),
            cwd=self.image.folder,
            env=self.environment,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()

    async def healthy(self, command: list[str]) -> None:
        async def answers() -> bool:
            assert self.process is not None
            assert self.process.poll() is None, self.log.read_text()
            return (await self.run(command))[0] == 0

        await until(answers, self.log.read_text, patience=60)

    async def stop(self) -> int:
        """As Docker does, though without its patience of ten seconds."""
        assert self.process is not None
        self.process.send_signal(signal.Signals[self.image.stop_signal])
        return await asyncio.to_thread(self.process.wait, 30)

    def close(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.wait()
        self._port.close()


@pytest.fixture
async def container(replay: Replay, tmp_path: Path) -> AsyncIterator[Container]:
    container = Container(replay, tmp_path / "log")
    yield container
    container.close()


COMPOSE: Final[dict[str, Any]] = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())


def readiness() -> list[str]:
    """The check of compose.yaml, without the word CMD."""
    word, *command = COMPOSE["services"]["students-1"]["healthcheck"]["test"]
    assert word == "CMD"
    return list(command)


async def test_it_serves_until_it_is_told_to_stop(replay: Replay, container: Container) -> None:
    live = replay.final.health
    assert (await container.run(live))[0] == 1  # nothing listens yet
    container.start()
    await container.healthy(live)
    assert (await container.run(readiness()))[0] == 1  # there is no table
    assert await container.run(COMPOSE["services"]["table"]["command"]) == (0, "")
    await container.healthy(readiness())
    code, answer = await container.run(["python", "/app/probe.py", "/students"])
    assert (code, answer) == (0, "200 []\n")
    code, answer = await container.run(["python", "/app/probe.py", "/nowhere"])
    assert code == 1
    assert answer.startswith("404 ")
    # As the first process of a container it ends with 0: nobody dies there of a signal's default.
    assert await container.stop() in (0, -signal.SIGTERM)
    assert "Application shutdown complete" in container.log.read_text()
    assert (await container.run(live))[0] == 1


async def test_it_says_what_is_wrong_and_ends(replay: Replay, tmp_path: Path) -> None:
    container = Container(replay, tmp_path / "log", STUDENTS_BROKER="nonsense://")
    try:
        container.start()
        assert container.process is not None
        assert await asyncio.to_thread(container.process.wait, 30) not in (0, None)
        assert "nonsense" in container.log.read_text()
    finally:
        container.close()


async def test_every_module_that_an_address_may_need_is_there(container: Container) -> None:
    wanted = (
        "aio_pika, aiosqlite, asyncmy, hiredis, httptools, uvloop, imperfect_dollop.web.fastapi"
    )
    assert await container.run(["python", "-W", "error", "-c", f"import {wanted}"]) == (0, "")


async def test_it_is_the_wheel_that_runs_not_this_folder(container: Container) -> None:
    code, where = await container.run(
        ["python", "-c", "import imperfect_dollop; print(imperfect_dollop.__file__)"]
    )
    assert code == 0
    assert Path(where.strip()).is_relative_to(container.image.path("/venv"))


async def test_one_worker_whatever_the_environment_says(replay: Replay, tmp_path: Path) -> None:
    container = Container(replay, tmp_path / "log", WEB_CONCURRENCY="3")
    try:
        container.start()
        await container.healthy(replay.final.health)
        started = re.findall(r"Started (\w+) process", container.log.read_text())
        assert started == ["server"]
    finally:
        container.close()


def test_what_the_image_says_of_itself(replay: Replay) -> None:
    assert [step.keyword for step in replay.steps].count("FROM") == 2
    (python,) = (step.value for step in replay.steps if step.keyword == "ARG")
    assert re.fullmatch(r"PYTHON=3\.\d+-slim-\w+", python)
    assert {stage.base for stage in replay.stages} == {"python:${PYTHON}"}
    image = replay.final
    assert re.fullmatch(r"[1-9]\d+:[1-9]\d+", image.user)  # a number, and not root's
    assert image.environment["PYTHONUNBUFFERED"] == "1"
    assert image.stop_signal == "SIGTERM"
    assert image.command[image.command.index("--workers") + 1] == "1"
    (port,) = (step.value for step in replay.steps if step.keyword == "EXPOSE")
    assert image.environment["UVICORN_PORT"] == port


def files(folder: Path) -> Iterator[str]:
    for path in folder.rglob("*"):
        if path.is_file():
            yield str(path.relative_to(folder))


def test_only_what_is_needed_reaches_the_builder(replay: Replay) -> None:
    assert {file.split("/")[0] for file in replay.sent} == {
        ".dockerignore",  # for the builder itself
        "LICENSE",
        "README.md",
        "docker",
        "examples",
        "imperfect_dollop",
        "pyproject.toml",
    }
    assert {file for file in replay.sent if file.startswith("docker/")} == {
        "docker/probe.py",
        "docker/requirements-build.txt",
        "docker/requirements.txt",
    }
    examples = {file for file in replay.sent if file.startswith("examples/")}
    assert {"examples/__init__.py", "examples/students/app.py"} <= examples
    for file in examples:
        assert re.fullmatch(r"examples(/__init__\.py|/students(/\w+\.py)?)?", file)


def test_only_what_is_needed_is_in_the_image(replay: Replay) -> None:
    root = replay.final.root
    there = {file.split("/")[0] for file in files(root)} - {"tmp"}  # where it may write
    assert there == {"app", "venv"}
    assert {file.split("/")[0] for file in files(root / "app")} == {"examples", "probe.py"}
    assert not list((root / "venv").glob("lib/python*/site-packages/pip"))
