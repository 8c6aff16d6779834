"""``pending/``: who has knocked and was not known.  Nothing in here decides anything."""

from __future__ import annotations

import os
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from mtlsd.errors import FolderError, MtlsdError
from mtlsd.registry.atomic import Folder, System
from mtlsd.registry.folder import read_file
from mtlsd.registry.knock import Knock, file_of, fingerprint_in, read_knock
from mtlsd.registry.listing import PENDING
from mtlsd.text import printable


@dataclass(frozen=True, slots=True)
class Waiting:
    """What stands in ``pending/``, the longest silent first; ``problems`` tell of files that are passed over."""

    knocks: tuple[Knock, ...] = ()
    problems: tuple[str, ...] = ()


@contextmanager
def opened(root: Folder) -> Iterator[Folder]:
    """Open ``pending/`` below the operator's folder.

    Raises :exc:`OSError`; a symbolic link in its place is one, and so is a folder in which others may write.
    """
    pending = Folder(PENDING, root.system, root)
    try:
        if os.fstat(pending.descriptor).st_mode & stat.S_IWOTH:
            raise PermissionError(0, "others may write to it; chmod o-w", PENDING)
        yield pending
    finally:
        pending.close()


def fingerprints(pending: Folder) -> list[str]:
    """Return the fingerprints that files in the open folder are named after."""
    return sorted(filter(None, map(fingerprint_in, os.listdir(pending.descriptor))))


def read_one(pending: Folder, fingerprint: str) -> Knock:
    """Read one file.  Raises :exc:`~mtlsd.errors.MtlsdError`, with the cause but not the file, and :exc:`OSError`."""
    # Whoever the folder belongs to has written it: the server's user, also where the rest is root's.
    owner = os.fstat(pending.descriptor).st_uid
    return read_knock(fingerprint, read_file(pending.descriptor, file_of(fingerprint), server_uid=owner, wall=time.time).data)


def read_all(pending: Folder, shown: str) -> Waiting:
    """Read every file; *shown* is the folder's name for messages."""
    knocks, problems = [], []
    for fingerprint in fingerprints(pending):
        try:
            knocks.append(read_one(pending, fingerprint))
        except FileNotFoundError:
            # It was approved, or its place was taken, in between.
            continue
        except (MtlsdError, OSError) as error:
            problems.append(printable(f"{shown}/{file_of(fingerprint)}: passed over: {why_not(error)}"))
    return Waiting(tuple(sorted(knocks, key=lambda knock: knock.last)), tuple(problems))


def waiting(folder: Path) -> Waiting:
    """Return what stands in ``pending/`` of the operator's *folder*; nothing where there is none.

    Raises :exc:`~mtlsd.errors.FolderError` where it cannot be read.
    """
    try:
        root = Folder(str(folder), System())
        try:
            with opened(root) as pending:
                return read_all(pending, str(folder / PENDING))
        finally:
            root.close()
    except FileNotFoundError:
        return Waiting()
    except OSError as error:
        raise unusable(folder, error) from error


def is_waiting(folder: Path, fingerprint: str) -> bool:
    """Tell whether a certificate can be approved, as far as ``pending/`` has a say in it."""
    with suppress(MtlsdError, OSError):
        root = Folder(str(folder), System())
        try:
            with opened(root) as pending:
                return read_one(pending, fingerprint) is not None
        finally:
            root.close()
    return False


def unusable(folder: Path, error: OSError) -> FolderError:
    """Return the error for a ``pending/`` that cannot be used."""
    return FolderError(printable(f"{folder / PENDING}: the folder cannot be used: {error.strerror}"))


def why_not(error: MtlsdError | OSError) -> str:
    """Return why a file in ``pending/`` is not read."""
    return printable(str(error.strerror if isinstance(error, OSError) else error))
