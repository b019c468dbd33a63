"""What the check has seen, a line for each thing as it is seen."""

from __future__ import annotations

import sys
import time

__all__ = ["Report"]


class Report:
    """Prints as it goes."""

    def __init__(self) -> None:
        self.held = True
        """Whether everything that was looked at was as it should be."""
        self._began = self._lap = time.perf_counter()
        encoding = sys.stdout.encoding or "ascii"
        self._marks = (
            ("ok", "FAILED") if _ascii_only(encoding) else ("\N{CHECK MARK}", "\N{BALLOT X}")
        )

    def say(self, text: str = "") -> None:
        """A line that is no check."""
        print(text, flush=True)
        self._lap = time.perf_counter()

    def check(self, held: bool, seen: str) -> None:
        """What was seen since the line before, and whether it is as it should be."""
        now = time.perf_counter()
        took, self._lap = now - self._lap, now
        self.held = self.held and held
        print(f"  {self._marks[not held]} {seen} ({_time(took)})", flush=True)

    def conclude(self) -> None:
        """The last line."""
        verdict = "Every check held" if self.held else "NOT every check held"
        print(f"{verdict}, {time.perf_counter() - self._began:.1f} s in all.", flush=True)


def _ascii_only(encoding: str) -> bool:
    try:
        "\N{CHECK MARK}\N{BALLOT X}".encode(encoding)
    except (UnicodeEncodeError, LookupError):
        return True
    return False


def _time(seconds: float) -> str:
    return f"{seconds:.2f} s" if seconds >= 1 else f"{seconds * 1000:.0f} ms"
