"""Whether anybody is invited, as the server asks when somebody comes who wants to join.

It looks when it is asked, so an invite is good from the moment at which it is printed; and it asks seldom more of the disk than
whether a file is still there.  What it says only opens the way to the exchange: a join decides on the files, under the lock.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from twisted.logger import Logger

from mtlsd.enrol.invite import INVITES, Invite, digest_of, file_of, files_in, is_dead, opened_invites, safely_read
from mtlsd.errors import MtlsdError
from mtlsd.registry.folder import is_young
from mtlsd.text import printable


class Openings:
    """The invites in a folder that are open now.  All methods belong to the reactor's thread."""

    def __init__(
        self,
        folder: Path,
        now: Callable[[], datetime],
        server_uid: Callable[[], int] = os.geteuid,
        wall: Callable[[], float] = time.time,
    ) -> None:
        """*now* returns an aware time, *wall* the seconds since 1970, as the disk has them.

        *server_uid* is asked at each look, for it changes when the service gives up root.
        """
        self._folder = folder
        self._wall = wall
        self._now = now
        self._server_uid = server_uid
        self._log = Logger()
        # The folder as it was when all of it had been looked at, and what was read of it, by file: such a file never changes.
        self._mark: tuple[int, ...] | None = None
        self._known: dict[str, Invite] = {}
        # What could not be read, and as what it stood there then: a chmod or chown of it does not show in the folder.
        self._unread: dict[str, tuple[int, ...] | None] = {}
        self._good: Invite | None = None

    def any(self) -> bool:
        """Tell whether there is an invite that is good now."""
        if self._good is None or not self._is_good(self._good):
            self._good = self._first_good()
        return self._good is not None

    def has(self, secret: bytes) -> bool:
        """Tell whether there is an invite that could be the one with this secret: if not, there is nothing to decide."""
        return os.path.lexists(self._folder / INVITES / file_of(digest_of(secret)))

    def _is_good(self, invite: Invite) -> bool:
        if self._now() >= invite.expires:
            return False
        return os.path.lexists(self._folder / INVITES / invite.file) and not is_dead(self._folder, invite)

    def _first_good(self) -> Invite | None:
        """Look for one that is good, and no further: of thousands, hardly any has to be read."""
        mark = self._marked()
        if mark is not None and mark == self._mark and all(map(self._is_unchanged, self._unread.items())):
            return next(filter(self._is_good, self._known.values()), None)
        self._mark = None
        self._unread = {}
        try:
            with opened_invites(self._folder, self._server_uid()) as invites:
                files = files_in(invites)
                self._known = {file: self._known[file] for file in files if file in self._known}
                for file in files:
                    status = None if file in self._known else self._marked(file)
                    invite = self._known.get(file) or self._read(invites, file)
                    if invite is None:
                        self._unread[file] = status
                    if invite is not None:
                        self._known[file] = invite
                        if self._is_good(invite):
                            return invite
        except FileNotFoundError:
            self._known = {}
        except MtlsdError as error:
            self._known = {}
            self._log.error("{error}; nobody can join", error=error)
        self._mark = mark
        return None

    def _read(self, invites: int, file: str) -> Invite | None:
        try:
            return safely_read(invites, file, self._server_uid())
        except FileNotFoundError:
            return None
        except (MtlsdError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            self._log.error("{path}: {why}", path=printable(str(self._folder / INVITES / file)), why=why)
            return None

    def _is_unchanged(self, unread: tuple[str, tuple[int, ...] | None]) -> bool:
        file, status = unread
        return status is not None and status == self._marked(file)

    def _marked(self, file: str = "") -> tuple[int, ...] | None:
        """Return what changes whenever the folder does, or a *file* in it; ``None`` while that cannot be told, so that it is looked at again."""
        try:
            found = os.stat(self._folder / INVITES / file, follow_symlinks=False)
        except FileNotFoundError:
            return ()
        except OSError:
            return None
        if is_young(found.st_ctime, self._wall()):
            return None
        return found.st_dev, found.st_ino, found.st_mode, found.st_uid, found.st_mtime_ns, found.st_ctime_ns
