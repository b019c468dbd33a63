"""Rows of generated classes arrive over real brokers as they left."""

from __future__ import annotations

import asyncio
import secrets

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from imperfect_dollop.codecs import EntityCodec
from imperfect_dollop.errors import ConfigurationError
from tests.unit.arrivals import arrivals
from tests.unit.classes import entity_classes, state_of


@settings(max_examples=12, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_node_generated_class_sibling_shows_exact_rows(url: str, data: st.DataObject) -> None:
    entity, rows = data.draw(entity_classes())
    row = data.draw(rows)
    try:
        EntityCodec(entity)
    except ConfigurationError:
        return
    shown, reads = asyncio.run(arrivals(url, f"fidelity-{secrets.token_hex(6)}", row))
    assert [state_of(one) for one in shown] == [state_of(row)] * 2
    assert reads == []
