"""The frames of one answer to `Take`, in their order: a header, chunks, a footer when no bucket is missing any more."""

from __future__ import annotations

from ..errors import ProtocolError
from .identity import is_foreign
from .messages import Footer, Frame, Header, decode_frame

__all__ = ["Frames"]


class Frames:
    """What has come of an answer that was asked to an `address`, for rows of this shape; of no use after an error.

    `identity_tag`: of the source of the node that asks. A donor with another source is refused.
    """

    __slots__ = ("_address", "_fingerprint", "_identity_tag", "footer", "header")

    def __init__(self, address: str, fingerprint: str, identity_tag: str = "") -> None:
        self._address = address
        self._fingerprint = fingerprint
        self._identity_tag = identity_tag
        self.header: Header | None = None
        self.footer: Footer | None = None

    def take(self, payload: bytes, *, missing: int) -> Frame:
        """The next frame; `missing` buckets are still to come before it.

        Raises `ProtocolError` for what is no frame of this answer, or comes out of order.
        """
        frame = decode_frame(payload)
        if self.footer is not None:
            raise ProtocolError("a frame after the footer")
        if isinstance(frame, Header):
            if self.header is not None:
                raise ProtocolError("a second header")
            if frame.address != self._address or frame.fingerprint != self._fingerprint:
                raise ProtocolError("an answer to something else")
            if is_foreign(frame.identity_tag, self._identity_tag):
                raise ProtocolError("rows of another source")
            self.header = frame
        elif self.header is None:
            raise ProtocolError("an answer without a header")
        elif isinstance(frame, Footer):
            if missing:
                raise ProtocolError(f"{missing} buckets are missing")
            self.footer = frame
        return frame
