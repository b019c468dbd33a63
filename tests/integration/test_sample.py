"""The sample service, in this process: what it answers, and what it says that it answers."""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import dataclasses
import json
import os
import re
import secrets
import shlex
import sys
from asyncio.subprocess import PIPE, STDOUT
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from fastapi import FastAPI
from sqlalchemy import text

from examples.students import schemas
from examples.students.app import create_app
from examples.students.database import new_engine
from examples.students.model import students_table
from examples.students.settings import Settings, SettingsError, async_url
from examples.students.table import create_table

ADA = {"name": "Ada", "city": "London"}
FIRST = {"id": 1, **ADA}
ROOT = Path(__file__).parents[2]


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    name = f"students_{secrets.token_hex(4)}"
    return Settings(
        broker=f"memory://{name}",
        database=async_url(f"sqlite:///{tmp_path / 'students.sqlite'}"),
        namespace=name,
        table=name,
    )


@pytest.fixture(params=["sqlite", "postgres", "mariadb"])
async def everywhere(request: pytest.FixtureRequest, settings: Settings) -> AsyncIterator[Settings]:
    """Settings for each database in turn; the table is dropped."""
    if request.param != "sqlite":
        url = async_url(request.getfixturevalue(f"{request.param}_url"))
        settings = dataclasses.replace(settings, database=url)
    yield settings
    engine = new_engine(settings.database)
    async with engine.begin() as connection:
        for name in (settings.table, f"{settings.table}_away"):
            await connection.run_sync(students_table(name).drop, checkfirst=True)
    await engine.dispose()


@contextlib.asynccontextmanager
async def served(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service, which is ready. It finds its table, so as to be ready at once."""
    engine = new_engine(settings.database)
    await create_table(engine, settings.table)
    await engine.dispose()
    async with started(settings) as client:
        assert (await client.get("/ready")).status_code == 200
        yield client


@contextlib.asynccontextmanager
async def started(settings: Settings) -> AsyncIterator[httpx.AsyncClient]:
    """A client of the service, ready or not."""
    app = create_app(settings)
    transport = httpx.ASGITransport(app)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=transport, base_url="http://students") as client,
    ):
        yield client


async def execute(settings: Settings, statement: str) -> None:
    engine = new_engine(settings.database)
    async with engine.begin() as connection:
        await connection.execute(text(statement))
    await engine.dispose()


# -- the five operations ---------------------------------------------------------------------------


async def test_a_student_from_its_creation_to_its_end(everywhere: Settings) -> None:
    async with served(everywhere) as client:
        created = await client.post("/students", json=ADA)
        key = created.json()["id"]
        here = f"/students/{key}"
        assert (created.status_code, created.headers["location"]) == (201, here)
        assert created.json() == {"id": key, **ADA, "version": 0}
        assert (await client.get(here)).json() == created.json()
        replaced = await client.put(here, json={"name": "Zoë 🎓", "city": "Paris"})
        assert replaced.status_code == 200
        assert replaced.json() == {"id": key, "name": "Zoë 🎓", "city": "Paris", "version": 1}
        assert (await client.get("/students")).json() == [replaced.json()]
        assert (await client.get("/students", params={"city": "Paris"})).json() == [replaced.json()]
        assert (await client.get("/students", params={"city": "London"})).json() == []
        gone = await client.delete(here)
        assert (gone.status_code, gone.content) == (204, b"")
        for method, body in (("GET", None), ("PUT", ADA), ("DELETE", None)):
            response = await client.request(method, here, json=body)
            assert (response.status_code, response.json()) == (404, {"detail": f"no student {key}"})
        assert (await client.post("/students", json=ADA)).json()["id"] == key + 1


async def test_keys_that_are_given_among_those_that_are_made(everywhere: Settings) -> None:
    async with served(everywhere) as client:
        for given in (1, 2, 3, 50):
            response = await client.post("/students", json={"id": given, **ADA})
            assert (response.status_code, response.json()["id"]) == (201, given)
        again = await client.post("/students", json={"id": 2, "name": "Eve", "city": "Rome"})
        assert again.status_code == 409
        assert again.json() == {
            "detail": "a student with this id is there already",
            "current": {"id": 2, **ADA, "version": 0},
        }
        made = await asyncio.gather(*(client.post("/students", json=ADA) for _ in range(10)))
        assert [response.status_code for response in made] == [201] * 10
        assert len({response.json()["id"] for response in made} | {1, 2, 3, 50}) == 14


async def test_a_version_that_is_no_more_is_refused(everywhere: Settings) -> None:
    async with served(everywhere) as client:
        await client.post("/students", json=FIRST)
        first = await client.put("/students/1", json={**ADA, "city": "Oslo", "version": 0})
        assert (first.status_code, first.json()["version"]) == (200, 1)
        second = await client.put("/students/1", json={**ADA, "city": "Rome", "version": 0})
        assert second.status_code == 409
        assert second.json() == {
            "detail": "student 1 has another version now, or the table refuses this",
            "current": {"id": 1, "name": "Ada", "city": "Oslo", "version": 1},
        }
        absent = await client.put("/students/9", json={**ADA, "version": 0})
        assert absent.status_code == 404


async def test_a_write_without_version_goes_over_what_this_copy_has_not_heard_of(
    everywhere: Settings,
) -> None:
    async with served(everywhere) as client:
        for key in (1, 2):
            await client.post("/students", json={"id": key, **ADA})
        await execute(everywhere, f"UPDATE {everywhere.table} SET version = 7, city = 'Oslo'")
        refused = await client.put("/students/1", json={**ADA, "version": 0})
        assert (refused.status_code, refused.json()["current"]["version"]) == (409, 7)
        replaced = await client.put("/students/2", json={"name": "Ada", "city": "Rome"})
        assert (replaced.status_code, replaced.json()["version"]) == (200, 8)
        await execute(everywhere, f"UPDATE {everywhere.table} SET version = 20")
        assert (await client.delete("/students/1")).status_code == 204
        await execute(everywhere, f"INSERT INTO {everywhere.table} VALUES (5, 'Eve', 'Bonn', 0)")
        replaced = await client.put("/students/5", json={"name": "Eve", "city": "Rome"})
        assert (replaced.status_code, replaced.json()["version"]) == (200, 1)


# -- bad input -------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["0", "-1", "2147483648", "9" * 5000, "x", "%00", "1.5"])
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
async def test_ids_that_no_row_can_have(settings: Settings, method: str, key: str) -> None:
    async with served(settings) as client:
        body = ADA if method == "PUT" else None
        assert (await client.request(method, f"/students/{key}", json=body)).status_code == 422


@pytest.mark.parametrize(
    "body",
    [
        "null",
        "[]",
        '{"name": "Ada"}',
        '{"name": "", "city": "x"}',
        '{"name": 1, "city": "x"}',
        '{"name": NaN, "city": "x"}',
        '{"name": "\\u0000", "city": "x"}',
        '{"name": "\\ud800", "city": "x"}',
        '{"\\ud800": 1, "name": "Ada", "city": "x"}',
        '{"name": "%s", "city": "x"}' % ("x" * 101),
        '{"name": "Ada", "city": "x", "id": 0}',
        '{"name": "Ada", "city": "x", "id": true}',
        '{"name": "Ada", "city": "x", "id": 1000000}',
        '{"name": "Ada", "city": "x", "id": 99999999999999999999}',
        '{"name": "Ada", "city": "x", "town": "y"}',
        "{",
    ],
)
async def test_bodies_that_are_no_student(settings: Settings, body: str) -> None:
    async with served(settings) as client:
        headers = {"content-type": "application/json"}
        response = await client.post("/students", content=body, headers=headers)
        assert response.status_code == 422
        assert {"type", "loc", "msg"} == response.json()["detail"][0].keys()
        assert (await client.get("/students")).json() == []


async def test_a_version_beyond_the_databases_integers(settings: Settings) -> None:
    async with served(settings) as client:
        await client.post("/students", json=ADA)
        response = await client.put("/students/1", json={**ADA, "version": 2**31})
        assert response.status_code == 422


# -- the database is away --------------------------------------------------------------------------


async def test_reads_go_on_and_writes_say_so(everywhere: Settings) -> None:
    away = f"{everywhere.table}_away"
    async with served(everywhere) as client:
        await client.post("/students", json=FIRST)
        await execute(everywhere, f"ALTER TABLE {everywhere.table} RENAME TO {away}")
        for method, path, body in (
            ("POST", "/students", ADA),
            ("PUT", "/students/1", ADA),
            ("DELETE", "/students/1", None),
            ("PUT", "/students/2", ADA),  # whether there is one cannot be told
        ):
            response = await client.request(method, path, json=body)
            assert (response.status_code, response.headers["retry-after"]) == (503, "1")
            assert everywhere.table not in response.text
        for path in ("/students", "/students/1", "/ready", "/live", "/info", "/metrics"):
            assert (await client.get(path)).status_code == 200
        await execute(everywhere, f"ALTER TABLE {away} RENAME TO {everywhere.table}")
        assert (await client.put("/students/1", json=ADA)).status_code == 200


async def test_an_instance_without_database_and_siblings_is_not_ready(settings: Settings) -> None:
    nowhere = dataclasses.replace(
        settings, database=async_url("sqlite:////nowhere/students.sqlite")
    )
    async with started(nowhere) as client:
        for path in ("/students", "/students/1", "/ready"):
            assert (await client.get(path)).status_code == 503
        response = await client.post("/students", json=ADA)
        assert (response.status_code, response.headers["retry-after"]) == (503, "1")
        assert response.json() == {"detail": "the students are not loaded yet"}
        assert (await client.get("/live")).status_code == 200


async def test_what_becomes_of_an_instance_is_in_its_log(settings: Settings) -> None:
    program = (
        "import asyncio; from examples.students.app import create_app\n"
        "async def main():\n"
        "    app = create_app()\n"
        "    async with app.router.lifespan_context(app): pass\n"
        "asyncio.run(main())"
    )
    environment = {
        **os.environ,
        "STUDENTS_DATABASE": settings.database,
        "STUDENTS_TABLE": "there_is_none",
        "STUDENTS_NODE": "one",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env=environment, cwd=ROOT, stdout=PIPE, stderr=STDOUT
    )
    said, _ = await process.communicate()
    assert process.returncode == 0
    assert "WARNING   imperfect_dollop.session: one: Student is cold: source: " in said.decode()


# -- the table -------------------------------------------------------------------------------------


async def test_the_table_is_made_where_there_is_none(everywhere: Settings) -> None:
    environment = {
        **os.environ,
        "STUDENTS_DATABASE": everywhere.database,
        "STUDENTS_TABLE": everywhere.table,
    }
    for _ in range(2):  # the second time it is there
        making = await asyncio.create_subprocess_exec(
            *(sys.executable, "-W", "error", "-m", "examples.students.table"),
            env=environment,
            cwd=ROOT,
            stdout=PIPE,
            stderr=STDOUT,
        )
        said, _ = await making.communicate()
        assert (making.returncode, said) == (0, b"")
    async with started(everywhere) as client:
        assert (await client.post("/students", json=ADA)).status_code == 201


async def test_an_instance_makes_no_table(settings: Settings) -> None:
    async with started(settings) as client:
        assert (await client.get("/ready")).status_code == 503
        async with served(settings):
            while (await client.get("/ready")).status_code != 200:  # the copy of a sibling
                await asyncio.sleep(0.02)


# -- what is said of it ----------------------------------------------------------------------------


@pytest.fixture
def app(settings: Settings) -> FastAPI:
    return create_app(settings)


def examples(part: Any) -> Iterator[tuple[str, Any]]:
    """The models in a schema, by name, each with its examples."""
    for name, schema in part["components"]["schemas"].items():
        for example in schema.get("examples", ()):
            yield name, example


def test_the_examples_are_what_their_models_take(app: FastAPI) -> None:
    seen = list(examples(app.openapi()))
    assert {name for name, _ in seen} == {
        *("NewStudent", "StudentChange", "StudentOut", "Problem", "Conflict")
    }
    for name, example in seen:
        getattr(schemas, name).model_validate(example)


def test_every_answer_is_described(app: FastAPI) -> None:
    described = {
        f"{method.upper()} {path}": set(operation["responses"])
        for path, operations in app.openapi()["paths"].items()
        for method, operation in operations.items()
    }
    assert described == {
        "GET /students": {"200", "422", "503"},
        "POST /students": {"201", "409", "422", "503"},
        "GET /students/{id}": {"200", "404", "422", "503"},
        "PUT /students/{id}": {"200", "404", "409", "422", "503"},
        "DELETE /students/{id}": {"204", "404", "409", "422", "503"},
        "GET /info": {"200"},
    }
    json.dumps(app.openapi())


async def test_operation_at_a_glance(settings: Settings) -> None:
    named = dataclasses.replace(settings, node="ada's")
    async with served(named) as client:
        await client.post("/students", json=ADA)
        info = (await client.get("/info")).json()
        assert (info["node"], info["repositories"]["Student"]["state"]) == ("ada's", "ready")
        labels = f'{{namespace="{settings.namespace}",repository="Student"}}'
        metrics = (await client.get("/metrics")).text.splitlines()
        assert f"dollop_entities{labels} 1.0" in metrics
        assert f"dollop_writes_total{labels} 1" in metrics


SESSION = ROOT / "examples" / "students" / "README.md"


async def test_the_session_in_the_readme_is_true(settings: Settings) -> None:
    blocks = re.findall(r"```console\n(\$ .*?)```", SESSION.read_text(), flags=re.DOTALL)
    assert len(blocks) == 1
    turns = re.findall(r"^\$ (.*)\n([^$]*)", blocks[0], flags=re.MULTILINE)
    assert len(turns) == 7
    curl = argparse.ArgumentParser()
    curl.add_argument("curl")
    curl.add_argument("-X", dest="method")
    curl.add_argument("--json", dest="body")
    curl.add_argument("url")
    async with served(settings) as client:
        for command, printed in turns:
            said = curl.parse_args(shlex.split(command))
            method = said.method or ("POST" if said.body else "GET")
            headers = {"content-type": "application/json"} if said.body else {}
            response = await client.request(method, said.url, content=said.body, headers=headers)
            assert response.text == printed.rstrip("\n"), command


# -- settings --------------------------------------------------------------------------------------


def test_settings_from_the_environment(tmp_path: Path) -> None:
    assert Settings.from_environment({"STUDENTS_TTL": "", "STUDENTS_PORT": "tcp://x"}) == Settings()
    secret = tmp_path / "database"
    secret.write_text("postgresql://ada:secret@db/school\n")
    given = Settings.from_environment(
        {
            "STUDENTS_BROKER": "redis://:secret@cache",
            "STUDENTS_DATABASE_FILE": str(secret),
            "STUDENTS_TTL": "5",
            "STUDENTS_NODE": "one",
        }
    )
    assert given.database == "postgresql+asyncpg://ada:secret@db/school"
    assert (given.broker, given.ttl, given.node) == ("redis://:secret@cache", 5.0, "one")
    assert "secret" not in repr(given)


@pytest.mark.parametrize(
    ("environment", "said"),
    [
        ({"STUDENTS_TTL": "soon"}, "STUDENTS_TTL='soon' must be seconds above 0"),
        ({"STUDENTS_TTL": "nan"}, "must be seconds above 0"),
        ({"STUDENTS_TABLE": "a; DROP"}, "letters, digits and _"),
        ({"STUDENTS_DATABASE": "oracle://a:secret@b"}, "oracle:// names no database"),
        ({"STUDENTS_DATABASE": "postgresql://a:sec:ret@b:x/y"}, "is no URL like"),
        ({"STUDENTS_DATABASE": "secret"}, "is no URL like"),
        ({"STUDENTS_DATABASE_FILE": "/nowhere"}, "cannot be read"),
        ({"STUDENTS_DATABASE_FILE": "/dev/null"}, "is empty"),
        ({"STUDENTS_BROKER": "secret", "STUDENTS_BROKER_FILE": "x"}, "both set; leave out one"),
    ],
)
def test_settings_that_cannot_work(environment: dict[str, str], said: str) -> None:
    with pytest.raises(SettingsError, match=said) as raised:
        Settings.from_environment(environment)
    assert "sec" not in str(raised.value).replace("seconds", "")


def test_the_process_ends_with_a_message(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STUDENTS_BROKER", "redsi://:secret@cache")
    with pytest.raises(SystemExit, match="students: redsi:// names no broker") as raised:
        create_app()
    assert "secret" not in str(raised.value)
