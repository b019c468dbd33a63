"""Rows arrive as they left: classes that a generator builds, and rows of them, through the codec and through nodes."""

from __future__ import annotations

from typing import Any

from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from imperfect_dollop.codecs import EntityCodec
from imperfect_dollop.errors import ConfigurationError
from tests.unit.classes import entity_classes, state_of


@settings(max_examples=400, deadline=None, suppress_health_check=list(HealthCheck))
@given(st.data())
def test_codec_generated_class_copies_are_exact_or_class_is_refused(data: st.DataObject) -> None:
    entity, rows = data.draw(entity_classes())
    try:
        codec: EntityCodec[Any] = EntityCodec(entity)
    except ConfigurationError as error:
        event(f"refused: {str(error)[:40]}")
        return
    row = data.draw(rows)
    before = state_of(row)
    content = codec.verify(row)
    copy = codec.decode(content)
    assert state_of(copy) == before
    assert state_of(row) == before
    assert codec.encode(copy) == content
    assert [state_of(one) for one in codec.decode_all([content])] == [before]
