"""Records on disk: appended as they are made, read one by one.

A file belongs to one life of one process and to one repository. A process that is killed leaves what it has written
to the system's cache; the line that it was about to write may be cut off, and nothing else.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from ..integration.history import Record


class Recorder:
    """Appends records to a file, without a buffer of its own."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        self._encoder = msgspec.json.Encoder()

    def write(self, records: Iterable[Record]) -> None:
        """In the order in which they are."""
        left = memoryview(self._encoder.encode_lines(records))
        while left:
            left = left[os.write(self._file, left) :]


def records_in(path: Path) -> Iterator[Record]:
    """What a file has, read as it is asked for. Raises `ValueError` for a line that is none, unless it is the last."""
    decode = msgspec.json.Decoder(Record).decode
    with path.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            try:
                record = decode(line)
            except msgspec.DecodeError as error:
                if not line.endswith(b"\n"):
                    return  # killed at that
                raise ValueError(f"{path}, line {number} is no record: {error}") from error
            yield record
