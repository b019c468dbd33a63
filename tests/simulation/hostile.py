"""Messages that no node of ours has sent."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Final

import msgspec

from imperfect_dollop.replica.messages import Heartbeat

__all__ = ["STRANGER", "forged"]

STRANGER: Final = "stranger"
"""The name that they come under."""


def forged(how: str, drawn: float, taken: Sequence[bytes]) -> bytes:
    """Bytes that change nothing, whatever `how` they were made. `taken`: what was sent before."""
    chance = random.Random(drawn)
    if how == "noise" or (not taken and how in ("truncated", "replay")):
        return chance.randbytes(chance.randint(1, 200))
    if how == "truncated":
        whole = chance.choice(taken)
        return whole[: chance.randrange(len(whole))]
    if how == "replay":
        return chance.choice(taken)
    if how == "empty":
        return b""
    if how == "huge-version":
        stamp = [2**63 - 1, 2**63 - 1, "stranger"]
        event = [2, b"\x01", b"\x93\x01\x01\xa1x", stamp, [0, 0, ""]]
        return msgspec.msgpack.encode(["e", "stranger", "rows", "unknown", 1, [event]])
    if how == "poison":
        return msgspec.msgpack.encode(Heartbeat(STRANGER, STRANGER, 1, 2**63 - 1, False, 1.0, []))
    event = [2, b"\x01", b"\x91\x01", [1, 1, "foreign"], [0, 0, ""]]
    return msgspec.msgpack.encode(["e", "foreign", "rows", "another shape", 1, [event]])
