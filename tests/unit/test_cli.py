"""The command line: what it understands, what it refuses, and what it needs."""

from __future__ import annotations

import runpy
import signal
import subprocess
import sys
from typing import Any

import pytest

from imperfect_dollop import ConfigurationError, __version__, cli, demo
from imperfect_dollop.demo.database import Database
from imperfect_dollop.demo.options import BROKER_VARIABLE, DATABASE_VARIABLE, Options
from imperfect_dollop.demo.urls import masked

UNREADABLE = (
    "ada:secret/er2@127.0.0.1:6379",
    "ada:secret?er2@127.0.0.1",
    "ada:secret#er2@127.0.0.1",
    "ada:12/secret@127.0.0.1",
    "ada:x@secret/y@127.0.0.1",
    "ada:x@secret@127.0.0.1",
    "127.0.0.1/x?password=secret@home",
    "ada:secret",
    "[secret/x",
)
"""What may follow a scheme, and leaves in doubt where a password ends."""


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """What the demo was asked for, instead of a demo."""
    options: list[Options] = []

    def note(given: Options) -> int:
        options.append(given)
        return 0

    monkeypatch.setattr(demo, "main", note)
    for variable in (BROKER_VARIABLE, DATABASE_VARIABLE):
        monkeypatch.delenv(variable, raising=False)
    return options


def test_the_demo_with_nothing_said(asked: list[Options]) -> None:
    assert cli.main(["demo"]) == 0
    assert asked == [Options()]


def test_the_demo_with_everything_said(asked: list[Options]) -> None:
    words = "demo --rows 500 --nodes 3 --creates 1 --updates 2 --deletes 3 --seed 4 --patience 5"
    words += " --broker memory://x --database mariadb://h/test --plain --log INFO"
    assert cli.main(words.split()) == 0
    assert asked == [
        Options(
            rows=500,
            nodes=3,
            creates=1,
            updates=2,
            deletes=3,
            seed=4,
            patience=5.0,
            broker="memory://x",
            database="mariadb://h/test",
            plain=True,
            log="INFO",
        )
    ]


def test_urls_from_the_environment(
    asked: list[Options], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    broker, database = "redis://ada:secret@h", "postgresql://ada:secret@h/x"
    monkeypatch.setenv(BROKER_VARIABLE, broker)
    monkeypatch.setenv(DATABASE_VARIABLE, database)
    cli.main(["demo"])
    cli.main(["demo", "--broker", "amqp://h", "--database", "sqlite"])
    monkeypatch.setenv(BROKER_VARIABLE, "")
    cli.main(["demo"])
    assert [(options.broker, options.database) for options in asked] == [
        (broker, database),
        ("amqp://h", "sqlite"),
        (Options().broker, database),
    ]
    with pytest.raises(SystemExit):
        cli.main(["demo", "--help"])
    text = capsys.readouterr().out
    assert f"${BROKER_VARIABLE}" in text
    assert f"${DATABASE_VARIABLE}" in text
    assert "secret" not in text


@pytest.mark.parametrize("url", ["memory://x", "MEMORY://x"])
def test_without_a_broker_between_processes_there_are_none(url: str) -> None:
    assert not Options(broker=url).apart
    assert Options(broker=url, processes=True).apart
    assert Options(broker="REDIS://h").apart


def test_fewer_rows_are_written_less(asked: list[Options]) -> None:
    assert cli.main(["demo", "--rows", "300"]) == 0
    assert (asked[0].creates, asked[0].updates, asked[0].deletes) == (3, 3, 150)


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        ("demo --nodes 1", "nodes=1"),
        ("demo --rows 10 --deletes 9", "rows=10"),
        ("demo --creates -1", "from 0 on"),
        ("demo --patience 0", "patience=0.0"),
        ("demo --patience nan", "patience=nan"),
        ("demo --broker carrier-pigeon://loft", "known are memory://"),
        ("demo --broker kafka://ada:secret@h", "kafka:// names no broker"),
        ("demo --broker ada:secret@h", "a URL without a scheme names no broker"),
        ("demo --database oracle://ada:secret@h/x", "oracle:// names no database"),
        ("demo --database school.sqlite", "known are sqlite, postgresql://"),
        ("demo --database ada:secret@h/x", "a URL without a scheme names no database"),
        *(
            (f"demo --{option} {scheme}://{rest}", f"a {scheme}:// URL whose host and port")
            for option, scheme in (("broker", "redis"), ("broker", "amqp"), ("database", "mysql"))
            for rest in UNREADABLE
        ),
        ("demo --rows many", "invalid int value"),
        ("demo --log LOUD", "invalid choice"),
        ("dance", "invalid choice"),
        ("", "required: COMMAND"),
    ],
)
def test_what_makes_no_sense_exits_with_2(
    asked: list[Options], capsys: pytest.CaptureFixture[str], words: str, complaint: str
) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(words.split())
    assert end.value.code == 2
    message = capsys.readouterr().err
    assert complaint in message
    assert "secret" not in message
    assert not asked


def test_the_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        cli.main(["--version"])
    assert end.value.code == 0
    assert capsys.readouterr().out == f"dollop {__version__}\n"


@pytest.mark.parametrize("module", ["rich", "sqlalchemy", "aiosqlite"])
def test_without_the_extra_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], module: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["demo"]) == 2
    message = capsys.readouterr().err
    assert f"needs {module}:" in message
    assert "pip install 'imperfect-dollop[cli]'" in message


@pytest.mark.parametrize(
    ("option", "module", "install"),
    [
        ("--database=postgresql://h/x", "asyncpg", "asyncpg"),
        ("--database=postgres://h/x", "asyncpg", "asyncpg"),
        ("--database=mysql://h/x", "asyncmy", "asyncmy"),
        ("--database=mariadb+asyncmy://h/x", "asyncmy", "asyncmy"),
        ("--broker=redis://h", "redis", "'imperfect-dollop[redis]'"),
        ("--broker=rediss://h", "redis", "'imperfect-dollop[redis]'"),
        ("--broker=amqp://h", "aio_pika", "'imperfect-dollop[rabbitmq]'"),
        ("--broker=amqps://h", "aio_pika", "'imperfect-dollop[rabbitmq]'"),
    ],
)
def test_without_a_driver_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    option: str,
    module: str,
    install: str,
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    assert cli.main(["demo", option]) == 2
    assert capsys.readouterr().err == f"the demo needs {module}: pip install {install}\n"


def test_a_database_that_does_not_let_the_demo_begin(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    async def refuse(self: Database, students: object) -> None:
        raise PermissionError("not here")

    monkeypatch.setattr(Database, "fill", refuse)
    assert cli.main(["demo", "--plain"]) == 2
    message = capsys.readouterr().err
    assert message == "no table can be made in sqlite: PermissionError('not here')\n"


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("sqlite", "sqlite"),
        ("memory://demo", "memory://demo"),
        ("redis://h:6379/0", "redis://h:6379/0"),
        ("redis://:secret@h", "redis://h"),
        ("AMQP://ada:sec%40ret@Host/v", "amqp://Host/v"),
        ("postgresql://ada@[::1]:5432/x?password=secret", "postgresql://[::1]:5432/x"),
    ],
)
def test_passwords_are_not_shown(url: str, shown: str) -> None:
    assert masked(url) == shown


@pytest.mark.parametrize("rest", UNREADABLE)
def test_what_cannot_be_read_is_not_shown(rest: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        masked(f"redis://{rest}")
    assert "secret" not in repr(refused.value)


@pytest.mark.parametrize("given", [signal.SIGINT, signal.SIGTERM])
def test_interrupted(given: signal.Signals) -> None:
    command = [sys.executable, "-m", "imperfect_dollop.demo", "--plain"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        assert "5 nodes" in run.stdout.readline()
        assert "All start at once" in run.stdout.readline()
        run.send_signal(given)
        assert "Every check held" not in run.stdout.read()
    assert run.returncode == 130


@pytest.mark.parametrize("scheme", ["redis", "amqp"])
def test_a_broker_that_is_away_takes_one_line(scheme: str, unused_tcp_port: int) -> None:
    command = [sys.executable, "-m", "imperfect_dollop.demo", "--plain", "--broker"]
    url = f"{scheme}://ada:secret@127.0.0.1:{unused_tcp_port}"
    run = subprocess.run([*command, url], capture_output=True, text=True, check=False)
    assert run.returncode == 2
    (line,) = run.stderr.splitlines()
    assert line.startswith(f"no node can connect: {scheme}://127.0.0.1:{unused_tcp_port}: ")
    (line,) = run.stdout.splitlines()
    assert f"on {scheme}://127.0.0.1:{unused_tcp_port}, 10,000 rows in SQLite" in line


def test_the_command_line_needs_no_driver() -> None:
    program = (
        "import sys\n"
        "sys.modules.update(dict.fromkeys(('rich', 'sqlalchemy', 'aiosqlite', 'greenlet')))\n"
        "from imperfect_dollop.cli import main\n"
        "sys.exit(main(['demo', '--help']))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert "--deletes" in run.stdout


def test_python_m(asked: list[Options], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["demo", "--rows", "100"])
    run_as_main: Any = runpy.run_module
    with pytest.raises(SystemExit) as end:
        run_as_main("imperfect_dollop.demo", run_name="__main__")
    assert end.value.code == 0
    assert asked[0].rows == 100
