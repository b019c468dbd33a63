"""What this library is tested with, for those who test their own: it needs pytest.

- `SourceContract`: the tests that every source passes, as a base class.
"""

from __future__ import annotations

import pytest

# Before the modules are imported: so that their assertions tell what they compared.
pytest.register_assert_rewrite("imperfect_dollop.testing.sources")

from .sources import Record, SourceContract  # noqa: E402

__all__ = ["Record", "SourceContract"]
