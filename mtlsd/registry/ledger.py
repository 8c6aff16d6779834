"""``ledger.jsonl``: what the command and enrolment changed, one event a line, in the form of the audit log."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import BinaryIO

from mtlsd.audit.events import Event
from mtlsd.errors import FolderError
from mtlsd.registry.atomic import Folder
from mtlsd.registry.lock import missing
from mtlsd.text import printable

LEDGER = "ledger.jsonl"
#: Bytes of a line that can be an event: one is some 600, and a subject at its longest a few thousand.
MOST_LINE = 65_536


def append(root: Folder, events: Sequence[Event]) -> None:
    """Append *events* and wait for the disk.  Only for the holder of the lock.  Raises :exc:`OSError`."""
    append_lines(root, "".join(event.as_json() + "\n" for event in events))


def append_lines(root: Folder, text: str) -> None:
    """Append whole lines of ASCII, as :func:`append` does."""
    # O_NONBLOCK: a FIFO in its place must not hold the command; O_NOFOLLOW: a link must not lead it elsewhere.
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = root.system.open(LEDGER, flags, 0o600, root.descriptor)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", LEDGER)
        if status.st_size == 0:
            root.own(descriptor)
        elif os.pread(descriptor, 1, status.st_size - 1) != b"\n":
            # The line before was torn by a full disk or a kill: this one still gets a line of its own.
            text = "\n" + text
        data = text.encode("ascii")
        written = 0
        while written < len(data):
            written += root.system.write(descriptor, data[written:])
        root.system.fsync(descriptor)
    finally:
        os.close(descriptor)


def holds(root: Folder, line: bytes, within: int = MOST_LINE) -> bool:
    """Tell whether *line* is among the last *within* bytes of the ledger.  Raises :exc:`OSError`."""
    try:
        descriptor = os.open(
            LEDGER, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC, dir_fd=root.descriptor
        )
    except FileNotFoundError:
        return False
    try:
        size = os.fstat(descriptor).st_size
        return line in os.pread(descriptor, within, max(0, size - within))
    finally:
        os.close(descriptor)


@dataclass(frozen=True, slots=True)
class Entry:
    """One event as it stands in the ledger: when (aware, UTC), what, and the whole of its JSON object.

    Nothing in it is fit for a terminal before it has gone through :func:`mtlsd.text.printable`.
    """

    time: datetime
    event: str
    told: Mapping[str, object]

    def text(self, key: str) -> str | None:
        """Return the text under *key*, or ``None`` where there is none."""
        value = self.told.get(key)
        return value if isinstance(value, str) else None


class History:
    """Reads the ledger of a folder from its beginning, a line at a time, however long it is.

    Iterate over it once; what cannot be read as an event is passed over and counted: ``damaged`` lines, the first of
    them number ``first_damaged``.  A ledger that is not there is empty.  Raises :exc:`~mtlsd.errors.FolderError`.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / LEDGER
        self.damaged = 0
        self.first_damaged = 0
        self._folder = folder

    def __iter__(self) -> Iterator[Entry]:
        try:
            with _opened(self.path) as file:
                for number, line in enumerate(_lines(file), 1):
                    entry = _entry(line)
                    if entry is not None:
                        yield entry
                    elif not line.isspace():
                        self.damaged += 1
                        self.first_damaged = self.first_damaged or number
        except FileNotFoundError:
            if not self._folder.is_dir():
                raise missing(self._folder) from None
        except OSError as error:
            raise FolderError(printable(f"{self.path}: cannot be read: {error.strerror}")) from error


def _opened(path: Path) -> BinaryIO:
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    file = os.fdopen(descriptor, "rb", buffering=1 << 18)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is not a regular file")
    return file


def _lines(file: BinaryIO) -> Iterator[bytes]:
    """Give each line; of one that is longer than any event, only a piece that is none."""
    while line := file.readline(MOST_LINE):
        if len(line) == MOST_LINE and not line.endswith(b"\n"):
            while (rest := file.readline(MOST_LINE)) and not rest.endswith(b"\n"):
                pass
            line = b"\0"
        yield line


def _entry(line: bytes) -> Entry | None:
    with suppress(ValueError, RecursionError, OverflowError):
        told = json.loads(line)
        if isinstance(told, dict) and isinstance(told.get("event"), str) and isinstance(told.get("time"), str):
            time = datetime.fromisoformat(told["time"])
            if time.tzinfo is not None:
                return Entry(time.astimezone(UTC), told["event"], told)
    return None
