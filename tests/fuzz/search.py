"""One target under atheris: ``python -m tests.fuzz.search TARGET``, and libFuzzer's arguments. See `__main__`."""

from __future__ import annotations

import sys

import atheris

# Before anything else brings it in: only what is imported in here is watched.
with atheris.instrument_imports(include=["imperfect_dollop", "msgspec"]):
    from .targets import TARGETS


def main() -> None:
    name, *arguments = sys.argv[1:]
    atheris.Setup([sys.argv[0], *arguments], TARGETS[name].run)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
