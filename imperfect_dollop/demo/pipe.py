"""What goes over the standard input and output of a member's process.

Frames: four bytes of length, then msgpack. The first one for a process is its `Setup`; after that, requests
there and replies back, in any order. What may be called, and with what, are the methods of `Member`: their
annotations declare the types that arguments and results are decoded into.
"""

from __future__ import annotations

import asyncio
import traceback
import types
import typing
from collections.abc import Callable
from typing import Any, Final

import msgspec

from .. import DollopError, errors
from .member import Member

__all__ = ["CALLS", "Call", "Failure", "MemberFailedError", "Reply", "Request", "receive", "send"]

LENGTH: Final = 4
"""Bytes of a frame's length."""


class Request(msgspec.Struct, array_like=True, frozen=True):
    """A method of the member is to be called."""

    number: int
    method: str
    arguments: msgspec.Raw


class Failure(msgspec.Struct, array_like=True, frozen=True):
    """What a method has raised."""

    kind: str
    """The name of one of our errors, or nothing for what nobody expected."""
    text: str

    @classmethod
    def of(cls, error: Exception) -> Failure:
        """As it goes over the pipe."""
        name = type(error).__name__
        if isinstance(error, DollopError) and name in errors.__all__:
            return cls(name, str(error))
        return cls("", "".join(traceback.format_exception(error)))

    def error(self) -> Exception:
        """As it came out of the pipe."""
        if self.kind in errors.__all__:
            kind: type[DollopError] = getattr(errors, self.kind)
            return kind(self.text)
        return MemberFailedError(self.text)


class Reply(msgspec.Struct, array_like=True, frozen=True):
    """What a call has come to."""

    number: int
    """Of its request."""
    result: msgspec.Raw = msgspec.Raw(b"\xc0")
    failure: Failure | None = None


class MemberFailedError(RuntimeError):
    """A member has raised what nobody expected."""


class Call:
    """A method of `Member`, and how its arguments and its result are read from bytes."""

    def __init__(self, method: Callable[..., Any]) -> None:
        hints = typing.get_type_hints(method)
        result = hints.pop("return")
        self._arguments = msgspec.msgpack.Decoder[Any](
            types.GenericAlias(tuple, tuple(hints.values()))
        )
        self._result = msgspec.msgpack.Decoder[Any](result)

    def arguments(self, request: Request) -> tuple[Any, ...]:
        """What to call it with."""
        arguments: tuple[Any, ...] = self._arguments.decode(request.arguments)
        return arguments

    def result(self, reply: Reply) -> Any:
        """What it has returned. Raises what it has raised."""
        if reply.failure is not None:
            raise reply.failure.error()
        return self._result.decode(reply.result)


CALLS: Final = {
    method.__name__: Call(method)
    for method in (
        Member.start,
        Member.leave,
        Member.write,
        Member.refresh,
        Member.shows,
        Member.differs,
        Member.answers,
        Member.look,
    )
}
"""By their names; nothing else can be called."""


async def receive(reader: asyncio.StreamReader) -> bytes | None:
    """The next frame's content; ``None`` if the other end is gone."""
    try:
        length = int.from_bytes(await reader.readexactly(LENGTH), "big")
        return await reader.readexactly(length)
    except (asyncio.IncompleteReadError, ConnectionError):
        return None


async def send(writer: asyncio.StreamWriter, message: msgspec.Struct) -> None:
    """Write a frame. Raises `ConnectionError` if the other end is gone."""
    content = msgspec.msgpack.encode(message)
    writer.write(len(content).to_bytes(LENGTH, "big") + content)
    await writer.drain()
