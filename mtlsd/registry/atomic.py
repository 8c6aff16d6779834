"""How a file of the operator's folder changes: whole, or not at all.

A change is made of steps that can each be taken back: what is new is written to a temporary file, what is removed is
renamed out of the way.  Whoever reads the folder skips names that begin with a dot.  A writer that is killed leaves
such names behind; the next writer, under the same lock, sweeps them up.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Self

from mtlsd.errors import FolderError
from mtlsd.text import printable

TEMPORARY = ".mtlsd-"

#: A directory is opened, not followed: a link in the place of `authorized` would carry the change elsewhere.
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC | os.O_NONBLOCK


class System:
    """The system calls that change a folder, and who makes them: a test makes each of them fail."""

    def user(self) -> int:
        return os.geteuid()

    def open(self, name: str, flags: int, mode: int, folder: int) -> int:
        return os.open(name, flags, mode, dir_fd=folder)

    def write(self, descriptor: int, data: bytes) -> int:
        return os.write(descriptor, data)

    def fchmod(self, descriptor: int, mode: int) -> None:
        os.fchmod(descriptor, mode)

    def fchown(self, descriptor: int, user: int, group: int) -> None:
        os.fchown(descriptor, user, group)

    def fsync(self, descriptor: int) -> None:
        os.fsync(descriptor)

    def rename(self, old: str, new: str, folder: int) -> None:
        os.rename(old, new, src_dir_fd=folder, dst_dir_fd=folder)

    def symlink(self, target: str, name: str, folder: int) -> None:
        os.symlink(target, name, dir_fd=folder)

    def unlink(self, name: str, folder: int) -> None:
        os.unlink(name, dir_fd=folder)

    def mkdir(self, name: str, mode: int, folder: int) -> None:
        os.mkdir(name, mode, dir_fd=folder)

    def rmdir(self, name: str, folder: int) -> None:
        os.rmdir(name, dir_fd=folder)


class Folder:
    """An open folder.  What is made in it belongs to the owner of *root* where we may give it away."""

    def __init__(self, path: str, system: System, inside: Folder | None = None) -> None:
        """Open *path*, below *inside* where that is given.  Raises :exc:`OSError`; a symbolic link below it is one."""
        flags = _FOLDER_FLAGS | (os.O_NOFOLLOW if inside else 0)
        self.descriptor: int = os.open(path, flags, dir_fd=inside.descriptor if inside else None)
        self.system = system
        self.root: Folder = inside.root if inside else self

    def close(self) -> None:
        os.close(self.descriptor)

    def has(self, name: str) -> bool:
        """Tell whether there is anything of this name, a dangling link included."""
        return self.identity(name) is not None

    def identity(self, name: str) -> tuple[int, int] | None:
        """Return device and inode of what has this name (a link itself, not where it leads), or ``None``."""
        try:
            status = os.stat(name, dir_fd=self.descriptor, follow_symlinks=False)
        except FileNotFoundError:
            return None
        return status.st_dev, status.st_ino

    def mark(self) -> tuple[int, int, int, int]:
        """Return what shows whether names have come or gone: device, inode, both times in nanoseconds."""
        status = os.fstat(self.descriptor)
        return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns

    def own(self, descriptor: int) -> None:
        """Give an open file to the owner of the folder: otherwise the server could not read what root made."""
        status = os.fstat(self.root.descriptor)
        if self.system.user() == 0:
            self.system.fchown(descriptor, status.st_uid, status.st_gid)

    def sync(self) -> None:
        self.system.fsync(self.descriptor)

    def sweep(self) -> None:
        """Remove what a killed writer has left.  Only for the holder of the lock."""
        for name in os.listdir(self.descriptor):
            if name.startswith(TEMPORARY):
                with suppress(OSError):
                    self._remove(name)

    def _remove(self, name: str) -> None:
        """Remove a file, or a folder of files."""
        if not stat.S_ISDIR(os.stat(name, dir_fd=self.descriptor, follow_symlinks=False).st_mode):
            self.system.unlink(name, self.descriptor)
            return
        inner = Folder(name, self.system, self)
        try:
            for inside in os.listdir(inner.descriptor):
                self.system.unlink(inside, inner.descriptor)
        finally:
            inner.close()
        self.system.rmdir(name, self.descriptor)


class Transaction:
    """Several steps, taken back in reverse order when one of them, or anything else in the ``with`` block, fails."""

    def __init__(self) -> None:
        self._undo: list[Callable[[], None]] = []
        self._litter: list[tuple[Folder, str]] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        if error is not None:
            for undo in reversed(self._undo):
                # One step that cannot be taken back is no reason to leave the others.
                with suppress(OSError):
                    undo()
        for folder, name in self._litter:
            with suppress(OSError):
                folder.system.unlink(name, folder.descriptor)

    def stage(self, folder: Folder, data: bytes, mode: int) -> str:
        """Write *data* to a temporary file, safely on the disk, and return its name."""
        system, name = folder.system, TEMPORARY + secrets.token_hex(8)
        self._litter.append((folder, name))
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        # 0600 until it is complete: the wanted mode does not depend on the umask.
        descriptor = system.open(name, flags, 0o600, folder.descriptor)
        try:
            written = 0
            while written < len(data):
                written += system.write(descriptor, data[written:])
            folder.own(descriptor)
            system.fchmod(descriptor, mode)
            system.fsync(descriptor)
        finally:
            os.close(descriptor)
        return name

    def place(self, folder: Folder, staged: str, name: str, *, sync: bool = True) -> None:
        """Give a staged file its *name*, which must be free.

        Of many in one folder, only the last has to *sync* it: until then the disk may know some and not others.
        """
        if folder.has(name):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        self._undo.append(lambda: folder.system.unlink(name, folder.descriptor))
        self._rename(folder, staged, name, sync)

    def replace(self, folder: Folder, staged: str, name: str, before: str, *, sync: bool = True) -> None:
        """Put a staged file in the place of *name*; *before* is a staged copy of what that holds now."""
        self._undo.append(lambda: folder.system.rename(before, name, folder.descriptor))
        self._rename(folder, staged, name, sync)

    def remove(self, folder: Folder, name: str) -> None:
        """Take *name* away.  It needs no room on the disk, and neither does putting it back."""
        aside = TEMPORARY + secrets.token_hex(8)
        folder.system.rename(name, aside, folder.descriptor)
        self._undo.append(lambda: folder.system.rename(aside, name, folder.descriptor))
        self._litter.append((folder, aside))
        folder.sync()

    def make_folder(self, inside: Folder, name: str, mode: int) -> None:
        """Make a folder, which must not be there."""
        system = inside.system
        system.mkdir(name, mode, inside.descriptor)
        self._undo.append(lambda: system.rmdir(name, inside.descriptor))
        made = Folder(name, system, inside)
        try:
            system.fchmod(made.descriptor, mode)
            made.own(made.descriptor)
            made.sync()
        finally:
            made.close()
        inside.sync()

    def _rename(self, folder: Folder, staged: str, name: str, sync: bool) -> None:
        try:
            folder.system.rename(staged, name, folder.descriptor)
        except OSError:
            self._undo.pop()
            raise
        if sync:
            folder.sync()


@contextmanager
def failing_whole(path: Path, hint: str = "") -> Iterator[None]:
    """Turn an :exc:`OSError` of a transaction, which has taken everything back, into a line for a person."""
    try:
        yield
    except OSError as error:
        raise FolderError(printable(f"{path}: cannot be written: {error.strerror}; nothing was changed{hint}")) from error
