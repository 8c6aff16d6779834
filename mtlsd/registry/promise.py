"""What is about to be written to the ledger: noted before the commit of a join or a renewal, so that a kill does not lose it.

Between the commit and the ledger's line there is a moment at which a kill leaves a client that is let in, and no word of how.
So the line is in a file of its own before that.  Whoever changes the folder next, or the server at its start, finds it there:
where the commit has been, the line goes to the ledger, with a remark.  It is not waited for the disk: what loses power may
lose it.
"""

from __future__ import annotations

import json
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from mtlsd.audit.events import Event
from mtlsd.errors import CertificateError
from mtlsd.identity import fingerprint_of, is_client_name
from mtlsd.registry import ledger
from mtlsd.registry.atomic import Folder
from mtlsd.registry.blocks import salvaged
from mtlsd.registry.room import Room

PROMISE = ".ledger-next"
#: Bytes of the ledger's end in which the line is looked for: others may have written behind it since.
_LATELY = 1 << 20
#: What the detail of a line ends with that is written after a kill.
LATE = "written late"


@contextmanager
def promised(root: Folder, event: Event) -> Iterator[None]:
    """Keep *event* in the open folder, its lock held, while it is made true and written to the ledger.

    Where it became true and could not be written, it is kept: the next change of the folder writes it.
    """
    line = event.as_json().encode("ascii") + b"\n"
    # A disk that has no room for this has none for the change.
    with suppress(OSError):
        _write(root, line)
    try:
        yield
    except Exception:
        _forget(root)
        raise
    with suppress(OSError):
        if ledger.holds(root, line, len(line)):
            _forget(root)


def fulfil(room: Room) -> None:
    """Write what a kill has kept from the ledger, if it came true.  Never raises: the next change tries again."""
    if not room.root.has(PROMISE):
        return
    with suppress(OSError):
        line = _read(room.root)
        told = _told(line)
        if told is not None and _is_true(room, told) and not ledger.holds(room.root, line, _LATELY):
            told["detail"] = "; ".join(filter(None, (told.get("detail"), LATE)))
            ledger.append_lines(room.root, json.dumps(told) + "\n")
        _forget(room.root)


def _write(root: Folder, data: bytes) -> None:
    # With O_EXCL no link leads elsewhere.  What was there has been dealt with: see Store._changing.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    _forget(root)
    descriptor = root.system.open(PROMISE, flags, 0o600, root.descriptor)
    try:
        root.own(descriptor)
        written = 0
        while written < len(data):
            written += root.system.write(descriptor, data[written:])
    finally:
        os.close(descriptor)


def _forget(root: Folder) -> None:
    if root.has(PROMISE):
        with suppress(OSError):
            root.system.unlink(PROMISE, root.descriptor)


def _read(root: Folder) -> bytes:
    """Return the line; nothing where it is none."""
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    descriptor = os.open(PROMISE, flags, dir_fd=root.descriptor)
    try:
        return os.read(descriptor, ledger.MOST_LINE) if stat.S_ISREG(os.fstat(descriptor).st_mode) else b""
    finally:
        os.close(descriptor)


def _told(line: bytes) -> dict[str, str] | None:
    """Return the event; ``None`` for a line that was torn: then the commit, which came after it, never was."""
    with suppress(ValueError, RecursionError):
        told = json.loads(line)
        if line.endswith(b"\n") and isinstance(told, dict) and isinstance(told.get("client"), str):
            return told
    return None


def _is_true(room: Room, told: dict[str, str]) -> bool:
    name = told["client"]
    if not is_client_name(name):
        return False
    with suppress(CertificateError):
        return any(fingerprint_of(der) == told.get("fingerprint") for der in salvaged(room.raw(name))[0])
    return False
