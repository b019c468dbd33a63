"""What this library is tested with, for those who test their own: it needs pytest.

- `BrokerContract`: the tests that every broker passes, as a base class.
- `SourceContract`: the same for every source.
"""

from __future__ import annotations

import pytest

# Before the modules are imported: so that their assertions tell what they compared.
pytest.register_assert_rewrite(
    "imperfect_dollop.testing.brokers", "imperfect_dollop.testing.sources"
)

from .brokers import BrokerContract  # noqa: E402
from .sources import Record, SourceContract  # noqa: E402

__all__ = ["BrokerContract", "Record", "SourceContract"]
