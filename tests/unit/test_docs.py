"""The programs in the documentation run, and print what they say they print."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

GUIDE = Path(__file__).parents[2] / "docs" / "step-by-step.md"
PROGRAMS = re.findall(r"## (.*?)\n.*?```python\n(.*?)```", GUIDE.read_text(), flags=re.DOTALL)


def test_the_guide_has_its_programs() -> None:
    assert len(PROGRAMS) == 5


@pytest.mark.parametrize("program", [pytest.param(text, id=title) for title, text in PROGRAMS])
def test_a_program_prints_what_its_comments_say(program: str) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        check=False,
        capture_output=True,
        text=True,
        timeout=30,
    )
    assert run.returncode == 0, run.stderr
    expected = [
        comment.split(":")[0] if text.endswith(("get(3))", "print(loads)")) else comment
        for text, comment in re.findall(r"^ *(print\(.*\))  # (.*)$", program, flags=re.MULTILINE)
    ]
    printed = iter(run.stdout.splitlines())
    for line in expected:
        assert line in printed, f"{line!r} was not printed; this was:\n{run.stdout}"
