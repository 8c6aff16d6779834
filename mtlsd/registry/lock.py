"""The lock that every writer of the operator's folder holds."""

from __future__ import annotations

import errno
import fcntl
import os
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mtlsd.errors import FolderError
from mtlsd.registry.atomic import Folder, System
from mtlsd.text import printable

LOCK = ".lock"


def missing(folder: Path, part: str = "") -> FolderError:
    """Return the error for a folder that is not there."""
    where = "" if str(folder) == "certs" else f" --certs {shlex.quote(str(folder))}"
    return FolderError(printable(f"no such folder {folder / part}: run mtlsd init{where}"))


def likely_server(folder: Path) -> int:
    """Return the user that the server most likely runs as: the owner of *folder*, or ours where that is root."""
    try:
        owner = os.stat(folder).st_uid
    except OSError as error:
        raise _unusable(folder, error) from error
    return owner or os.geteuid()


@contextmanager
def locked(folder: Path, system: System) -> Iterator[Folder]:
    """Hold the folder's lock, waiting for whoever has it, and give the open folder.

    Raises :exc:`~mtlsd.errors.FolderError` where the folder or its lock cannot be used.
    """
    with unlocked(folder, system) as root:
        owner, user = os.fstat(root.descriptor).st_uid, system.user()
        if user not in (0, owner) and owner != 0:
            # The server would refuse what we make: it trusts root's files and its own user's.
            raise FolderError(printable(f"{folder}: the folder belongs to user {owner}: run this as that user, or with sudo"))
        descriptor = _lock(folder, root)
        try:
            yield root
        finally:
            # Closing gives the lock back; a kill does too.
            os.close(descriptor)


@contextmanager
def unlocked(folder: Path, system: System) -> Iterator[Folder]:
    """Give the open folder, without its lock: for who only looks.  Raises :exc:`~mtlsd.errors.FolderError`."""
    try:
        root = Folder(str(folder), system)
    except OSError as error:
        raise _unusable(folder, error) from error
    try:
        yield root
    finally:
        root.close()


def _unusable(folder: Path, error: OSError) -> FolderError:
    if isinstance(error, FileNotFoundError):
        return missing(folder)
    return FolderError(printable(f"{folder}: the folder cannot be used: {error.strerror}"))


def _lock(folder: Path, root: Folder) -> int:
    try:
        return _acquired(root)
    except OSError as error:
        raise FolderError(printable(f"{folder / LOCK}: cannot be locked: {error.strerror}; nothing was changed")) from error


def _acquired(root: Folder) -> int:
    # O_NOFOLLOW and the look at what it is: a link or a FIFO in its place must neither lead out nor hold us.
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    while True:
        descriptor = root.system.open(LOCK, flags, 0o600, root.descriptor)
        try:
            status = os.fstat(descriptor)
            if not stat.S_ISREG(status.st_mode):
                raise OSError(errno.EINVAL, "it is not a regular file")
            root.own(descriptor)
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            if root.identity(LOCK) == (status.st_dev, status.st_ino):
                return descriptor
        except BaseException:
            os.close(descriptor)
            raise
        # Somebody removed the lock's file while we waited: what we hold keeps nobody out.
        os.close(descriptor)
