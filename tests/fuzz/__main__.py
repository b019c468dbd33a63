"""Search for inputs that a decoder fails on, led by the lines that each input has reached (atheris, libFuzzer).

    python -m tests.fuzz --seconds 60             # a minute for each target
    python -m tests.fuzz --seconds 600 joiner     # ten for one of them
    python -m tests.fuzz --input FILE joiner      # what was found, once more

An input that fails is left in the folder that is named at the end, which also keeps the inputs worth going on from.
"""

from __future__ import annotations

import argparse
import importlib.util
import subprocess
import sys
import tempfile
from pathlib import Path

LONGEST_INPUT = 1 << 14
"""Bytes: longer than a seed, and short enough to run many."""

SLOWEST_INPUT = 5
"""Seconds after which an input counts as one that fails."""

MOST_MEMORY = 1_024
"""MiB, of which the process without any input takes about 150."""


def main() -> int:
    from .targets import TARGETS

    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("targets", nargs="*", metavar="TARGET", help=f"of {', '.join(TARGETS)}")
    parser.add_argument("--seconds", type=int, default=60, help="for each target")
    parser.add_argument("--folder", type=Path, help="where to go on, and to leave what is found")
    parser.add_argument("--input", type=Path, help="run one target with the bytes of this file")
    given = parser.parse_args()
    unknown = sorted(set(given.targets) - set(TARGETS))
    if unknown:
        parser.error(f"no target is named {', '.join(unknown)}; there are {', '.join(TARGETS)}")
    if given.input is not None:
        if len(given.targets) != 1:
            parser.error("--input is for one target")
        TARGETS[given.targets[0]].run(given.input.read_bytes())
        return 0
    if importlib.util.find_spec("atheris") is None:
        print("skipped: atheris is not installed, or not to be had for this Python and platform")
        return 0
    folder: Path = given.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    failed: list[str] = []
    for name in given.targets or TARGETS:
        corpus = folder / name
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(TARGETS[name].seeds):
            (corpus / f"seed-{number}").write_bytes(seed)
        done = subprocess.run(
            [
                *(sys.executable, "-m", "tests.fuzz.search", name),
                f"-max_total_time={given.seconds}",
                f"-max_len={LONGEST_INPUT}",
                f"-timeout={SLOWEST_INPUT}",
                f"-rss_limit_mb={MOST_MEMORY}",
                f"-artifact_prefix={folder / name}-",
                "-print_final_stats=1",
                "-verbosity=0",
                str(corpus),
            ],
            check=False,
            capture_output=True,
            text=True,
        )
        lines = done.stderr.splitlines()
        runs = [line.split()[-1] for line in lines if "number_of_executed_units" in line]
        print(f"{name}: {runs[0] if runs else '?'} inputs, exit {done.returncode}", flush=True)
        if done.returncode:
            failed.append(name)
            print(done.stdout, done.stderr, sep="\n", flush=True)
    print(f"what was found is in {folder}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
