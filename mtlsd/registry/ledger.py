"""``ledger.jsonl``: what the command changed, one event a line, in the form of the audit log."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Sequence

from mtlsd.audit.events import Event
from mtlsd.registry.atomic import Folder

LEDGER = "ledger.jsonl"


def append(root: Folder, events: Sequence[Event]) -> None:
    """Append *events* and wait for the disk.  Only for the holder of the lock.  Raises :exc:`OSError`."""
    # O_NONBLOCK: a FIFO in its place must not hold the command; O_NOFOLLOW: a link must not lead it elsewhere.
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    descriptor = root.system.open(LEDGER, flags, 0o600, root.descriptor)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", LEDGER)
        text = "".join(event.as_json() + "\n" for event in events)
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
