"""A Dockerfile's steps, carried out in folders instead of images: as far as that goes without Docker.

Each stage is a folder that stands for the root of its file system. Paths that begin with ``/`` in commands, in
``ENV`` and in ``CMD`` are led into it; ``COPY`` copies what .dockerignore lets through; the base image's ``python``
is the one that runs the tests. Users, file modes and the base image itself are not looked at.
"""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final, NamedTuple

from docker.utils.build import exclude_paths

WITHOUT_EFFECT: Final = {"ARG", "LABEL", "EXPOSE"}

TIMEOUT: Final = 240.0
"""Seconds for one command: pip downloads."""


class Step(NamedTuple):
    keyword: str
    flags: dict[str, str]
    value: str


def steps(text: str) -> Iterator[Step]:
    """The instructions, each on one line."""
    lines = (line for line in text.splitlines() if not line.lstrip().startswith("#"))
    for line in re.sub(r"\\\n\s*", "", "\n".join(lines)).splitlines():
        if line.strip():
            keyword, rest = line.split(maxsplit=1)
            flags = {}
            while (flag := re.match(r"--([\w-]+)=(\S+)\s+", rest)) is not None:
                flags[flag[1]] = flag[2]
                rest = rest[flag.end() :]
            yield Step(keyword, flags, rest)


@dataclasses.dataclass
class Stage:
    """What a stage has come to."""

    root: Path
    base: str
    name: str | None
    directory: str = "/"
    environment: dict[str, str] = dataclasses.field(default_factory=dict[str, str])
    user: str = "root"
    stop_signal: str = ""
    health: list[str] = dataclasses.field(default_factory=list[str])
    command: list[str] = dataclasses.field(default_factory=list[str])

    def inside(self, text: str) -> str:
        """With its absolute paths led into the root."""
        return re.sub(r"(?<![\w./*-])/(?=\w)", f"{self.root}/", text)

    def path(self, text: str) -> Path:
        return Path(f"{self.root}{text}" if text.startswith("/") else self.folder / text)

    @property
    def folder(self) -> Path:
        return Path(f"{self.root}{self.directory}")

    def arguments(self, words: list[str]) -> list[str]:
        """A command in exec form: only what begins with ``/`` and exists in it is a path of its file system."""
        paths = [self.path(word) for word in words]
        return [
            str(path) if word.startswith("/") and path.exists() else word
            for word, path in zip(words, paths, strict=True)
        ]


class Replay:
    """The steps of a Dockerfile, carried out in `folder`; `final` is its last stage."""

    def __init__(self, dockerfile: Path, context: Path, folder: Path) -> None:
        self._context = context
        self._folder = folder
        self._programs = folder / "base"
        self._programs.mkdir()
        # Resolved, since an environment's python makes environments that depend on it.
        (self._programs / "python").symlink_to(Path(sys.executable).resolve())
        ignored = context.joinpath(".dockerignore").read_text().splitlines()
        patterns = [line for line in ignored if line and not line.startswith("#")]
        self.sent: Final[frozenset[str]] = frozenset(exclude_paths(str(context), patterns))
        """What .dockerignore lets through, from the root of the context."""
        self.steps: Final = list(steps(dockerfile.read_text()))
        self.stages: Final[list[Stage]] = []
        for step in self.steps:
            if step.keyword not in WITHOUT_EFFECT:
                getattr(self, f"_{step.keyword.lower()}")(step)

    @property
    def final(self) -> Stage:
        return self.stages[-1]

    def forget_other_stages(self) -> None:
        """Remove all that is not in the image."""
        for stage in self.stages[:-1]:
            shutil.rmtree(stage.root)

    def _from(self, step: Step) -> None:
        base, *name = step.value.split(" AS ")
        stage = Stage(self._folder / f"stage-{len(self.stages)}", base, name[0] if name else None)
        stage.root.mkdir()
        stage.environment["PATH"] = f"{self._programs}:/usr/bin:/bin"
        self.stages.append(stage)

    def _env(self, step: Step) -> None:
        stage = self.final
        for word in shlex.split(step.value):
            name, value = word.split("=", 1)
            value = stage.inside(value)
            stage.environment[name] = re.sub(
                r"\$(\w+)", lambda found: stage.environment[found[1]], value
            )

    def _workdir(self, step: Step) -> None:
        self.final.directory = step.value
        self.final.folder.mkdir(parents=True, exist_ok=True)

    def _copy(self, step: Step) -> None:
        *origins, target = step.value.split()
        for origin in origins:
            to = self.final.path(target)
            if (name := step.flags.get("from")) is not None:
                (other,) = (stage for stage in self.stages if stage.name == name)
                shutil.copytree(other.path(origin), to, symlinks=True)
                continue
            files = [f for f in self.sent if f == origin or f.startswith(f"{origin}/")]
            assert files, f".dockerignore lets nothing of {origin} through"
            if target.endswith("/"):
                to = to / Path(origin).name
            for file in files:
                if (self._context / file).is_file():
                    copy = to / Path(file).relative_to(origin)
                    copy.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(self._context / file, copy)

    def _run(self, step: Step) -> None:
        stage = self.final
        inherited = {
            name: value
            for name, value in os.environ.items()
            if name not in ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV")
        }
        run = subprocess.run(
            ["/bin/sh", "-c", stage.inside(step.value)],
            check=False,
            cwd=stage.folder,
            env=inherited | stage.environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
        )
        assert run.returncode == 0, f"{step.value}\n{run.stdout}\n{run.stderr}"

    def _user(self, step: Step) -> None:
        self.final.user = step.value

    def _stopsignal(self, step: Step) -> None:
        self.final.stop_signal = step.value

    def _healthcheck(self, step: Step) -> None:
        self.final.health = json.loads(step.value.removeprefix("CMD "))

    def _cmd(self, step: Step) -> None:
        self.final.command = json.loads(step.value)
