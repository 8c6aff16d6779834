"""What stands in the operator's folders, without opening any of it: the names, and what each one's change shows in."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable
from pathlib import Path
from typing import TypeAlias

from mtlsd.identity import is_client_name
from mtlsd.registry.folder import signature_of

AUTHORIZED = "authorized"
REVOKED = "revoked"
PENDING = "pending"

#: What a folder's own change shows in: device, inode, both times in nanoseconds; ``None`` while it is missing.
Mark: TypeAlias = tuple[int, int, int, int] | None
#: Stands for a symlink, or for what cannot be stat'ed, in a listing.  No file has it, so such a name is looked at
#: every time: a link can come to lead elsewhere without a change of its target.
UNKNOWN = b"?"


def marks(folder: Path) -> tuple[Mark, Mark]:
    """Return what shows whether ``authorized/`` and ``revoked/`` have changed.  Costs two calls of stat."""
    return _mark_at(folder / AUTHORIZED), _mark_at(folder / REVOKED)


def listed(folder: int) -> dict[str, bytes]:
    """Return each name in an open folder (a descriptor), but hidden ones, with its signature.  Raises OSError."""
    listing: dict[str, bytes] = {}
    with os.scandir(folder) as entries:
        for entry in entries:
            name = entry.name
            if name.startswith("."):
                continue
            try:
                listing[name] = UNKNOWN if entry.is_symlink() else signature_of(entry.stat(follow_symlinks=False))
            except FileNotFoundError:
                # It went away between the two: not there.
                continue
    return listing


def looked_up(folder: int, stems: Iterable[str]) -> dict[str, bytes]:
    """Return the same as :func:`listed`, for the two files of each client in *stems* only.  Raises OSError."""
    listing: dict[str, bytes] = {}
    for stem in stems:
        for name in (stem + ".pem", stem + ".toml"):
            try:
                status = os.stat(name, dir_fd=folder, follow_symlinks=False)
            except FileNotFoundError:
                continue
            listing[name] = UNKNOWN if stat.S_ISLNK(status.st_mode) else signature_of(status)
    return listing


def clients_of(names: Iterable[str]) -> frozenset[str] | None:
    """Return the clients that these files of ``authorized/`` belong to; ``None`` where one is no client's."""
    stems = set()
    for name in names:
        stem, _, suffix = name.rpartition(".")
        if suffix in ("pem", "toml") and is_client_name(stem):
            stems.add(stem)
        elif not name.startswith("."):
            return None
    return frozenset(stems)


def files_of(name: str) -> frozenset[str]:
    """Return the names of a client's files in ``authorized/``."""
    return frozenset({f"{name}.pem", f"{name}.toml"})


def _mark_at(path: Path) -> Mark:
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns
