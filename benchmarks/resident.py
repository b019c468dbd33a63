"""How much memory a process has, as its kernel counts it (Linux)."""

from __future__ import annotations

import gc
import re
from pathlib import Path
from typing import Final

__all__ = ["forget_peak", "peak", "resident"]

STATUS: Final = Path("/proc/self/status")
CLEAR: Final = Path("/proc/self/clear_refs")


def _kilobytes(name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", STATUS.read_text(), re.MULTILINE)
    assert found is not None, f"this kernel does not tell {name}"
    return int(found[1])


def resident() -> int:
    """Bytes in memory now, once the garbage is gone."""
    gc.collect()
    return 1_024 * _kilobytes("VmRSS")


def peak() -> int:
    """The most bytes since `forget_peak`, or since the process began."""
    return 1_024 * _kilobytes("VmHWM")


def forget_peak() -> None:
    """From now on `peak` counts anew."""
    CLEAR.write_text("5")
