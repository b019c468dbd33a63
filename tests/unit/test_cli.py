"""The command line: what it understands, what it refuses, and what it needs."""

from __future__ import annotations

import runpy
import subprocess
import sys
from typing import Any

import pytest

from imperfect_dollop import __version__, cli, demo
from imperfect_dollop.demo.options import Options


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Options]:
    """What the demo was asked for, instead of a demo."""
    options: list[Options] = []

    def note(given: Options) -> int:
        options.append(given)
        return 0

    monkeypatch.setattr(demo, "main", note)
    return options


def test_the_demo_with_nothing_said(asked: list[Options]) -> None:
    assert cli.main(["demo"]) == 0
    assert asked == [Options()]


def test_the_demo_with_everything_said(asked: list[Options]) -> None:
    words = "demo --rows 500 --nodes 3 --creates 1 --updates 2 --deletes 3 --seed 4 --patience 5"
    assert cli.main([*words.split(), "--broker", "memory://x", "--plain", "--log", "INFO"]) == 0
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
            plain=True,
            log="INFO",
        )
    ]


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
        ("demo --broker carrier-pigeon://loft", "the demo knows memory://"),
        ("demo --broker nonsense", "the demo knows memory://"),
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
    assert complaint in capsys.readouterr().err
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
    assert f"needs {module}," in message
    assert "pip install 'imperfect-dollop[cli]'" in message


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
