"""What is the same in every broker's transfers: the credit of a sender, and the words for how a transfer fails."""

from __future__ import annotations

from .broker import TRANSFER_WINDOW
from .errors import BrokerUnavailableError

__all__ = ["Credit", "checked", "cut", "nobody", "silent_receiver", "silent_sender"]


class Credit:
    """How many chunks a sender has sent, and how many of them were read."""

    __slots__ = ("read", "sent")

    def __init__(self) -> None:
        self.sent: int = 0
        self.read: int = 0

    @property
    def spent(self) -> bool:
        """Whether the sender has to wait for its reader."""
        return self.sent - self.read >= TRANSFER_WINDOW

    def note(self, told: bytes) -> None:
        """The other end has told how many it has read. Raises `ValueError` for what cannot be."""
        read = int(told)
        if not self.read <= read <= self.sent:
            raise ValueError(f"{read} read of {self.sent} sent, {self.read} before")
        self.read = read


def checked(chunk: bytes) -> bytes:
    """A chunk that may be sent. Raises `ValueError` for an empty one."""
    if not chunk:
        raise ValueError("a chunk must not be empty")
    return bytes(chunk)


def cut(address: str, why: str) -> BrokerUnavailableError:
    """The other end has gone, or the link has."""
    return BrokerUnavailableError(f"the transfer {address!r} was cut: {why}")


def nobody(address: str) -> BrokerUnavailableError:
    """The address was not opened."""
    return BrokerUnavailableError(f"nobody waits for the transfer {address!r}")


def silent_sender(address: str, timeout: float) -> BrokerUnavailableError:
    """No chunk has come for `timeout` seconds."""
    return BrokerUnavailableError(f"the sender of {address!r} sent nothing for {timeout:g} s")


def silent_receiver(address: str, timeout: float) -> BrokerUnavailableError:
    """No credit has come for `timeout` seconds."""
    return BrokerUnavailableError(f"the receiver of {address!r} read nothing for {timeout:g} s")
