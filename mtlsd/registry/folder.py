"""Files and folders that decide who gets in: opened without ever blocking, and only read when they can be trusted."""

from __future__ import annotations

import os
import stat
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from mtlsd.errors import FolderError, MtlsdError
from mtlsd.text import printable

#: The largest file that is read, in bytes.
MOST_BYTES = 1 << 20
#: Seconds for which a fresh time stamp tells nothing: a kernel stamps files by its tick (1 to 10 ms), so a second
#: write of the same size within the tick of the first leaves the same signature (what git calls "racily clean").
YOUNG = 0.05

_pack = struct.Struct("=QQqqq").pack
# O_NONBLOCK: opening a FIFO without a writer would wait for ever.
_FLAGS = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_KINDS = {
    stat.S_IFDIR: "a folder",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
}


class Unsafe(MtlsdError):
    """It is there, but it is not to be trusted.  The text is the cause and what to do, without the file."""


@dataclass(frozen=True, slots=True)
class File:
    """The content of a file.  ``signature`` is ``None`` while the file is too young to tell it from a later state."""

    data: bytes
    signature: bytes | None
    group_writable: bool


def signature_of(status: os.stat_result) -> bytes:
    """Return what changes whenever the file does: device, inode, size, and both times in nanoseconds, packed."""
    return _pack(status.st_dev, status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns)


def signature_at(path: Path) -> bytes | None:
    """Return :func:`signature_of` what is at *path*, through links; ``None`` where nothing can be looked at."""
    try:
        return signature_of(os.stat(path))
    except OSError:
        return None


def contents(path: Path) -> bytes:
    """Return what is in a file that somebody has named, 1 MiB of it at most; never waits for a FIFO.

    Raises :exc:`FileNotFoundError`, and :exc:`~mtlsd.errors.FolderError` with one line where it cannot be read.
    """
    try:
        with os.fdopen(os.open(path, _FLAGS), "rb") as file:
            return file.read(MOST_BYTES)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FolderError(printable(f"{path}: cannot be read: {error.strerror}")) from error


def is_young(changed: float, wall: float) -> bool:
    """Tell whether a change could follow that the time stamp does not show.  Both are seconds since 1970."""
    return abs(wall - changed) < YOUNG


@contextmanager
def opened_folder(path: str, inside: int | None = None) -> Iterator[tuple[int, os.stat_result]]:
    """Open a folder; give its descriptor and status.

    Raises :exc:`Unsafe` where others may write to it, and :exc:`OSError` where it is missing or unreadable.
    """
    descriptor = os.open(path, _FLAGS | os.O_DIRECTORY, dir_fd=inside)
    try:
        status = os.fstat(descriptor)
        # With the sticky bit (as in /tmp) others may add to a folder, but not replace what is in it.
        if status.st_mode & stat.S_IWOTH and (inside is not None or not status.st_mode & stat.S_ISVTX):
            raise Unsafe("others may write to the folder; chmod o-w")
        yield descriptor, status
    finally:
        os.close(descriptor)


def folder_warning(status: os.stat_result, server_uid: int) -> str | None:
    """Return what deserves a warning in a folder that is used all the same, or ``None``."""
    if status.st_uid not in (0, server_uid):
        return f"the folder belongs to user {status.st_uid}, neither to root nor to the server's user; chown it"
    if status.st_mode & stat.S_IWGRP:
        return "its group may write to the folder; chmod g-w, unless you mean it"
    return None


def objection(status: os.stat_result, server_uid: int) -> str | None:
    """Return why a file is not to be trusted, and what to do; ``None`` for a file that is."""
    if not stat.S_ISREG(status.st_mode):
        return f"it is {_KINDS.get(stat.S_IFMT(status.st_mode), 'no regular file')}, not a regular file"
    if status.st_size > MOST_BYTES:
        return "it is larger than 1 MiB"
    if status.st_mode & stat.S_IWOTH:
        return "others may write to it; chmod o-w"
    if status.st_uid not in (0, server_uid):
        return f"it belongs to user {status.st_uid}, neither to root nor to the server's user; chown it"
    return None


def read_file(folder: int, name: str, *, server_uid: int, wall: Callable[[], float]) -> File:
    """Read a file in an open folder (a descriptor).

    Raises :exc:`Unsafe` for a symlink that leads out of the folder and for what :func:`objection` refuses, and
    :exc:`OSError` where it is missing or unreadable.  Never blocks on a FIFO, and never opens a device.
    """
    descriptor = _opened_file(folder, name, server_uid)
    try:
        status = os.fstat(descriptor)
        _insist(status, server_uid)
        # Asked before the content is read: what is written from here on has a younger stamp, or makes this one young.
        signature = None if is_young(status.st_ctime, wall()) else signature_of(status)
        data = _content(descriptor, status.st_size)
    finally:
        os.close(descriptor)
    return File(data, signature, bool(status.st_mode & stat.S_IWGRP))


def _opened_file(folder: int, name: str, server_uid: int) -> int:
    status = os.stat(name, dir_fd=folder, follow_symlinks=False)
    if not stat.S_ISLNK(status.st_mode):
        _insist(status, server_uid)
        return os.open(name, _FLAGS | os.O_NOFOLLOW, dir_fd=folder)
    # O_PATH opens nothing but the name: where the link ends is known, and judged, before the file there is touched.
    # The second open goes through the descriptor, so it cannot be another file than the one that was judged.
    place = os.open(name, os.O_PATH | os.O_CLOEXEC, dir_fd=folder)
    try:
        inside = os.readlink(f"/proc/self/fd/{folder}").rstrip("/") + "/"
        if not os.readlink(f"/proc/self/fd/{place}").startswith(inside):
            raise Unsafe("it is a symbolic link that leads out of the folder; put the file itself there")
        _insist(os.fstat(place), server_uid)
        return os.open(f"/proc/self/fd/{place}", _FLAGS)
    finally:
        os.close(place)


def _insist(status: os.stat_result, server_uid: int) -> None:
    why = objection(status, server_uid)
    if why is not None:
        raise Unsafe(why)


def _content(descriptor: int, size: int) -> bytes:
    # Asked for what there is and one byte more, not for the limit: a buffer of 1 MiB costs more than all the rest.
    data = os.read(descriptor, size + 1)
    # That is all, unless it has grown or shrunk since, or a network file system gives less than is there.
    while len(data) != size and len(data) <= MOST_BYTES and (more := os.read(descriptor, 65_536)):
        data += more
    if len(data) > MOST_BYTES:
        raise Unsafe("it is larger than 1 MiB")
    return data
