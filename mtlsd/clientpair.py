"""A client's pair, made where the operator wants it, and authorized: both or neither."""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mtlsd.errors import FolderError, Refused
from mtlsd.identity import is_client_name
from mtlsd.keys import new_client_pair
from mtlsd.registry.room import Change
from mtlsd.registry.store import Store
from mtlsd.text import printable


@dataclass(frozen=True, slots=True)
class ClientPair:
    """Where the pair is, and what was changed in the registry."""

    key: Path
    certificate: Path
    change: Change


def made_and_authorized(store: Store, name: str, out: Path, now: datetime, days: int, *, add: bool = False) -> ClientPair:
    """Make ``NAMEKey.pem`` (0600) and ``NAMECrt.pem`` in *out* (made, 0700, if missing), and authorize the certificate.

    Nothing is ever overwritten.  Raises what :meth:`~mtlsd.registry.store.Store.authorize` raises, and
    :exc:`~mtlsd.errors.FolderError` where *out* cannot be written; then no file is left.
    """
    if not is_client_name(name):
        # The store says so too, but by then the name would have been part of a path.
        raise Refused(f"{printable(name)!r} is no client's name: up to 64 letters, digits and . _ @ -, a letter or digit first")
    pair = new_client_pair(name, now, days)
    key, certificate = out / f"{name}Key.pem", out / f"{name}Crt.pem"
    written: list[Path] = []
    fresh_folder = False
    try:
        try:
            with suppress(FileExistsError):
                os.mkdir(out, 0o700)
                fresh_folder = True
            for path, data, mode in ((key, pair.key_pem, 0o600), (certificate, pair.certificate_pem, 0o644)):
                descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
                written.append(path)
                with os.fdopen(descriptor, "wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(descriptor)
        except FileExistsError as error:
            raise FolderError(printable(f"{error.filename}: it is there already: move it away, or give another --out")) from error
        except OSError as error:
            raise FolderError(printable(f"{error.filename or out}: cannot be written: {error.strerror}")) from error
        change = store.authorize([pair.der], name, add=add)
    except BaseException:
        for path in written:
            with suppress(OSError):
                path.unlink()
        if fresh_folder:
            with suppress(OSError):
                out.rmdir()
        raise
    return ClientPair(key, certificate, change)
