"""The programs in the documentation run, and print what they say they print."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
GUIDE = DOCS / "step-by-step.md"
PROGRAMS = re.findall(r"## (.*?)\n.*?```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)

# Those of the web page make an application: what others show is a part of one.
APPLICATIONS = re.findall(
    r"```python\n(from dataclasses .*?)```", (DOCS / "web.md").read_text(), flags=re.DOTALL
)


def run(program: str) -> str:
    """What it prints."""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_guide_has_its_programs() -> None:
    assert len(PROGRAMS) == 5


@pytest.mark.parametrize("program", [pytest.param(text, id=title) for title, text in PROGRAMS])
def test_a_program_prints_what_its_comments_say(program: str) -> None:
    output = run(program)
    expected = [
        comment.split(":")[0] if text.endswith(("get(3))", "print(loads)")) else comment
        for text, comment in re.findall(r"^ *(print\(.*\))  # (.*)$", program, flags=re.MULTILINE)
    ]
    printed = iter(output.splitlines())
    for line in expected:
        assert line in printed, f"{line!r} was not printed; this was:\n{output}"


ASK_FASTAPI = """
import asyncio
import httpx

async def ask() -> None:
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://x") as client:
            for path in ("/students/1", "/ready"):
                print((await client.get(path)).text)

asyncio.run(ask())
"""

ASK_AIOHTTP = """
import asyncio
from aiohttp.test_utils import TestClient, TestServer

async def ask() -> None:
    async with TestClient(TestServer(app)) as client:
        for path in ("/students/1", "/ready"):
            print(await (await client.get(path)).text())

asyncio.run(ask())
"""


@pytest.mark.parametrize(
    ("application", "ask"),
    [
        pytest.param(APPLICATIONS[0], ASK_FASTAPI, id="fastapi"),
        pytest.param(APPLICATIONS[1], ASK_AIOHTTP, id="aiohttp"),
    ],
)
def test_an_application_answers(application: str, ask: str) -> None:
    student, ready = run(application + ask).splitlines()
    assert json.loads(student) == {"id": 1, "name": "Ada"}
    assert json.loads(ready)["ready"] is True
