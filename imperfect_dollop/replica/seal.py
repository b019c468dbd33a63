"""Proof that a message is a member's, of this namespace, and no recording: an envelope around the bytes of any message.

=========  ==================  =====================================================================
bytes      what                of a message, and of a frame of a transfer (which ends after the code)
=========  ==================  =====================================================================
1          ``SEALED``          no message of msgpack begins with it
1          ``FORM``            of the envelope
8          name of the key     so that of several the right one is found at once
32         code                HMAC-SHA256 (RFC 2104) over a context and all that follows
8          time                microseconds since the epoch at the sender, which grow from message to message
1, and n   origin              length and bytes of the sender's id
rest       the message
=========  ==================  =====================================================================

The context of a message is the namespace; that of a frame is the namespace, the address of its transfer (a nonce of
whoever asked) and its place in it. So nothing that was recorded passes for anything else.

**Fresh** is a message that is later than the last of its origin. One of an origin that was not heard before must be no
more than `MAX_DRIFT` older than *what was read before it*. Not than this host's clock: a node that has stood still, or
was cut off and goes on where it was (Redis), reads old messages in their order, and they count as they would have then.
A recording that is played comes after later ones, whenever it is read. (Nor may it be more than that ahead of this
host's clock, or it could be played until then.)
"""

from __future__ import annotations

import hmac
import struct
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Final

from ..errors import ConfigurationError, ProtocolError
from .messages import MAX_MESSAGE, MAX_ORIGINS, SEALED
from .stamp import MAX_DRIFT, MICROSECONDS

if TYPE_CHECKING:
    from hmac import HMAC

__all__ = ["Frames", "Seal", "Secrets"]

SHORTEST_SECRET: Final = 16
"""Bytes: 128 bits, if they are random. Whoever has recorded a message can try secrets as fast as a machine computes."""

DIGEST: Final = "sha256"

FORM: Final = b"\x01"
NAME_BYTES: Final = 8
CODE: Final = slice(2 + NAME_BYTES, 2 + NAME_BYTES + 32)

_HEAD: Final = struct.Struct(">QB")

MOST_AROUND: Final = CODE.stop + _HEAD.size + 255
"""Bytes that an envelope adds, at most."""


class Secrets:
    """One secret, or several: the first seals, all of them open. Shows itself to nobody.

    Raises `ConfigurationError`, which does not quote them either.
    """

    __slots__ = ("keys",)

    def __init__(self, given: str | bytes | Sequence[str | bytes]) -> None:
        some = (given,) if isinstance(given, (str, bytes)) else given
        # A set has no first; whatever it is may be a secret all the same, and is not quoted.
        if not isinstance(some, Sequence) or isinstance(some, (bytearray, memoryview)):
            raise ConfigurationError(
                f"secret= is text, bytes, or a list of these, not of type {type(some).__qualname__}"
            )
        self.keys: tuple[bytes, ...] = tuple(map(_checked, some))
        if not self.keys:
            raise ConfigurationError(
                "secret=[] has no secret in it: leave it out to trust whoever can reach the broker"
            )

    def __repr__(self) -> str:
        return f"<{len(self.keys)} secrets>"


def _checked(secret: object) -> bytes:
    if not isinstance(secret, (str, bytes)):
        raise ConfigurationError(
            f"a secret is text or bytes, not of type {type(secret).__qualname__}"
        )
    try:
        key = secret.encode() if isinstance(secret, str) else secret
    except UnicodeEncodeError:
        raise ConfigurationError("a secret that cannot be encoded as UTF-8") from None
    if len(key) < SHORTEST_SECRET:
        raise ConfigurationError(
            f"a secret of {len(key)} bytes can be guessed, {SHORTEST_SECRET} are the least: make one with"
            ' python -c "import secrets; print(secrets.token_urlsafe(32))"'
        )
    return key


class _Codes:
    """The codes of one context, with every key."""

    __slots__ = ("_name", "_prepared")

    def __init__(self, secrets: Secrets, *context: str) -> None:
        # Lengths, or the parts of two contexts could run into each other.
        parts = [part.encode() for part in context]
        text = b"".join(struct.pack(">I", len(part)) + part for part in parts)
        self._prepared: dict[bytes, HMAC] = {}
        for key in reversed(secrets.keys):
            self._name = hmac.digest(key, b"dollop: the name of a key", DIGEST)[:NAME_BYTES]
            self._prepared[self._name] = hmac.new(key, text, DIGEST)

    def sealed(self, *parts: bytes, hidden: bytes = b"") -> bytes:
        """An envelope of the first key. What is `hidden` is covered by the code and not in it."""
        code = self._prepared[self._name].copy()
        code.update(hidden)
        for part in parts:
            code.update(part)
        return b"".join((SEALED, FORM, self._name, code.digest(), *parts))

    def opened(self, payload: bytes, *, hidden: bytes = b"") -> memoryview:
        """What is behind the code. Raises `ProtocolError` unless a member has sealed it in this context."""
        if len(payload) > MAX_MESSAGE + MOST_AROUND:
            raise ProtocolError(
                f"{len(payload)} bytes in one message; the limit is {MAX_MESSAGE}",
                reason="oversized",
            )
        if not payload.startswith(SEALED):
            raise ProtocolError("a message without a signature", reason="unsigned")
        if len(payload) < CODE.stop or not payload.startswith(FORM, 1):
            raise ProtocolError("an envelope that cannot be read")
        prepared = self._prepared.get(payload[2 : CODE.start])
        if prepared is None:
            raise ProtocolError(
                "signed with a secret that this node does not have", reason="forged"
            )
        content = memoryview(payload)[CODE.stop :]
        code = prepared.copy()
        code.update(hidden)
        code.update(content)
        if not hmac.compare_digest(code.digest(), payload[CODE]):
            raise ProtocolError("a signature that is not of this message", reason="forged")
        return content


class Frames:
    """The frames of one transfer, in their order."""

    __slots__ = ("_codes", "_place")

    def __init__(self, codes: _Codes) -> None:
        self._codes = codes
        self._place = 0

    def close(self, frame: bytes) -> bytes:
        """Seal the next one."""
        return self._codes.sealed(frame, hidden=self._next())

    def open(self, payload: bytes) -> bytes:
        """The next one. Raises `ProtocolError` for any other."""
        return bytes(self._codes.opened(payload, hidden=self._next()))

    def _next(self) -> bytes:
        self._place += 1
        return struct.pack(">Q", self._place)


class Seal:
    """What one run of a node, `origin`, seals and opens in a namespace. `now` is the wall clock in seconds."""

    __slots__ = (
        "_codes",
        "_forgotten",
        "_last",
        "_namespace",
        "_origin",
        "_read",
        "_secrets",
        "_time",
    )

    def __init__(self, secrets: Secrets, namespace: str, origin: str, now: float) -> None:
        self._secrets = secrets
        self._namespace = namespace
        self._origin = origin.encode()
        self._codes = _Codes(secrets, "dollop message", namespace)
        self._time = 0  # of the last message that was sealed here
        self._last: OrderedDict[bytes, int] = OrderedDict()  # by origin, longest silent first
        self._forgotten = 0  # the latest time that is no longer in there
        self._read = _microseconds(now)  # the latest time that was read

    def begin(self, now: float) -> None:
        """What is read from here on was sent about now: nothing goes on where something else has ended."""
        self._read = _microseconds(now)

    def close(self, body: bytes, now: float) -> bytes:
        """Seal a message; to be sent before the next one is."""
        self._time = max(self._time + 1, _microseconds(now))
        head = _HEAD.pack(self._time, len(self._origin)) + self._origin
        return self._codes.sealed(head, body)

    def open(self, payload: bytes, now: float) -> bytes:
        """The message of a member, or an echo. Raises `ProtocolError`; that it was opened is noted only if it is fresh.

        The error's reason is ``unsigned``, ``forged``, ``stale``, ``oversized`` or ``malformed``.
        """
        content = self._codes.opened(payload)
        try:
            time, length = _HEAD.unpack_from(content)
        except struct.error as error:
            raise ProtocolError(f"an envelope that cannot be read: {error}") from error
        body = _HEAD.size + length
        self._note(bytes(content[_HEAD.size : body]), time, _microseconds(now))
        return bytes(content[body:])

    def frames(self, address: str) -> Frames:
        """The frames of the transfer to an address that is used once."""
        return Frames(_Codes(self._secrets, "dollop frame", self._namespace, address))

    def _note(self, origin: bytes, time: int, now: int) -> None:
        last = self._last.get(origin)
        if last is None:
            drift = int(MAX_DRIFT * MICROSECONDS)
            if time <= max(self._forgotten, self._read - drift) or time > now + drift:
                off = (time - self._read) / MICROSECONDS
                raise ProtocolError(
                    f"its sender {_shown(origin)} was not heard before, and is {abs(off):.0f} s"
                    f" {'ahead' if off > 0 else 'behind'}",
                    reason="stale",
                )
        elif time <= last:
            raise ProtocolError(
                f"not later than the last one of its sender {_shown(origin)}", reason="stale"
            )
        self._last[origin] = time
        self._last.move_to_end(origin)
        if len(self._last) > MAX_ORIGINS:
            self._forgotten = max(self._forgotten, self._last.popitem(last=False)[1])
        # By this clock it cannot be later than now: not if a sender's is ahead, nor if this one was set back.
        self._read = min(max(self._read, time), now)


def _shown(origin: bytes) -> str:
    return ascii(origin.decode(errors="replace"))


def _microseconds(seconds: float) -> int:
    return max(0, int(seconds * MICROSECONDS))
