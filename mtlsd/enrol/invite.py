"""An invite as its file has it: ``invites/ID.json`` in the operator's folder, and how it is read safely.

It holds the hash of the secret, never the secret.  It is used up by the name: once ``authorized/NAME.pem`` is there, the
invite is dead, whoever removes its file and when.  So what a kill leaves needs no repair, only a look.  And it stays dead when
that name is revoked, whose file goes then: a tombstone that is younger than the invite says so.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mtlsd.audit.events import rfc3339
from mtlsd.errors import FolderError, MtlsdError, SettingsError
from mtlsd.identity import FINGERPRINT_DIGITS, is_client_name, parse_fingerprint
from mtlsd.registry.folder import Unsafe, read_file
from mtlsd.registry.listing import AUTHORIZED
from mtlsd.registry.lock import likely_server
from mtlsd.registry.records import Tombstone
from mtlsd.registry.terms import GROUP_NAME
from mtlsd.text import printable

INVITES = "invites"

_ID_DIGITS = 16
_SUFFIX = ".json"
# A link in its place must not lead elsewhere.
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK


@dataclass(frozen=True, slots=True)
class Invite:
    """An invite, as its file has it.  ``digest`` is the hex SHA-256 of its secret; times are aware, UTC."""

    digest: str
    name: str
    groups: tuple[str, ...]
    created: datetime
    expires: datetime
    actor: str

    @property
    def id(self) -> str:
        """What it is called, in the name of its file and in the ledger: the first digits of the hash."""
        return self.digest[:_ID_DIGITS]

    @property
    def file(self) -> str:
        return self.id + _SUFFIX

    def as_dict(self) -> dict[str, object]:
        """Return the JSON object of ``mtlsd invites --json``; its keys are a contract."""
        return {
            "id": self.id,
            "name": self.name,
            "groups": list(self.groups),
            "created": rfc3339(self.created),
            "expires": rfc3339(self.expires),
            "actor": self.actor,
        }

    def terms(self) -> bytes | None:
        """Return the text of ``NAME.toml`` that comes with the join, or ``None``.  It tells whose it is: see :meth:`mtlsd.enrol.invites.Invites.join`."""
        return f"# of invite {self.id}\ngroups = {json.dumps(list(self.groups))}\n".encode() if self.groups else None

    def text(self) -> bytes:
        """Return the content of its file."""
        told = {
            "sha256": self.digest,
            "name": self.name,
            "groups": list(self.groups),
            "created": rfc3339(self.created),
            "expires": rfc3339(self.expires),
            "actor": self.actor,
        }
        return json.dumps(told, ensure_ascii=True).encode("ascii") + b"\n"


def digest_of(secret: bytes) -> str:
    """Return what is kept of a secret."""
    return hashlib.sha256(secret).hexdigest()


def file_of(digest: str) -> str:
    """Return the name of the file of the invite whose secret has this hash."""
    return digest[:_ID_DIGITS] + _SUFFIX


def read_invite(file: str, data: bytes) -> Invite:
    """Read the text of an invite's *file*.  Raises :exc:`~mtlsd.errors.SettingsError` for anything that is not exactly one."""
    try:
        told = json.loads(data)
        digest, name, groups, actor = parse_fingerprint(told["sha256"]), told["name"], told["groups"], told["actor"]
        created, expires = (datetime.fromisoformat(told[key]) for key in ("created", "expires"))
        sound = (
            len(digest) == FINGERPRINT_DIGITS
            and file == file_of(digest)
            and is_client_name(name)
            and isinstance(groups, list)
            and all(GROUP_NAME.match(group) for group in groups)
            and isinstance(actor, str)
            and created.tzinfo is not None
            and expires.tzinfo is not None
        )
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise SettingsError("damaged: not an invite") from error
    if not sound:
        raise SettingsError("damaged: not an invite of this name")
    return Invite(digest, name, tuple(groups), created, expires, actor)


def safely_read(invites: int, file: str, server_uid: int) -> Invite:
    """Read an invite in the open folder *invites*.

    Raises :exc:`~mtlsd.errors.MtlsdError` for what is not to be trusted, and :exc:`OSError` where it cannot be read.
    """
    return read_invite(file, read_file(invites, file, server_uid=server_uid, wall=time.time).data)


def insist_on_safety(invites: int, server_uid: int) -> None:
    """Raise :exc:`~mtlsd.registry.folder.Unsafe` where somebody else may write to the open folder: that is to let oneself in."""
    status = os.fstat(invites)
    if status.st_mode & (stat.S_IWOTH | stat.S_IWGRP):
        raise Unsafe("others may write to the folder; chmod go-w")
    if status.st_uid not in (0, server_uid):
        raise Unsafe(f"the folder belongs to user {status.st_uid}, neither to root nor to the server's user; chown it")


def files_in(invites: int) -> list[str]:
    """Return the names of the invites' files in an open folder, in order."""
    return sorted(name for name in os.listdir(invites) if name.endswith(_SUFFIX) and not name.startswith("."))


@contextmanager
def opened_invites(folder: Path, server_uid: int, inside: int | None = None) -> Iterator[int]:
    """Open the folder of the invites in *folder* (in the open one *inside*), and give its descriptor.

    Raises :exc:`FileNotFoundError` where there is none, and :exc:`~mtlsd.errors.FolderError` for one that cannot be used.
    """
    path = folder / INVITES
    try:
        invites = os.open(path if inside is None else INVITES, _FOLDER_FLAGS, dir_fd=inside)
    except FileNotFoundError:
        raise
    except OSError as error:
        raise FolderError(printable(f"{path}: the folder cannot be used: {error.strerror}")) from error
    try:
        insist_on_safety(invites, server_uid)
        yield invites
    except Unsafe as error:
        raise FolderError(printable(f"{path}: {error}")) from error
    finally:
        os.close(invites)


def all_in(folder: Path, invites: int, server_uid: int) -> tuple[list[Invite], list[str]]:
    """Return every invite in the open folder *invites*, good or not, and what is wrong with other files."""
    found, problems = [], []
    for file in files_in(invites):
        try:
            found.append(safely_read(invites, file, server_uid))
        except FileNotFoundError:
            continue
        except (MtlsdError, OSError) as error:
            why = error.strerror if isinstance(error, OSError) else error
            problems.append(printable(f"{folder / INVITES / file}: {why}"))
    return found, problems


def is_dead(folder: Path, invite: Invite) -> bool:
    """Tell whether an invite is used up: its name has a file."""
    return os.path.lexists(folder / AUTHORIZED / f"{invite.name}.pem")


def is_withdrawn(invite: Invite, stones: Iterable[Tombstone]) -> bool:
    """Tell whether somebody was revoked under the name of an invite since that was made: then it is nobody's way back in.

    One that was used up is among these, where a kill left its file: the name was free again after that.
    """
    return any(stone.client == invite.name and not _is_before(stone.time, invite.created) for stone in stones)


def _is_before(told: str | None, moment: datetime) -> bool:
    """Tell whether a tombstone is certainly older; fails closed."""
    try:
        time = datetime.fromisoformat(told or "")
    except ValueError:
        return False
    return time.tzinfo is not None and time < moment


def standing(folder: Path, now: datetime, stones: Iterable[Tombstone] = ()) -> tuple[list[Invite], list[str]]:
    """Return the invites of *folder* that are good now, the next to expire first, and what is wrong with others.

    *stones* are the tombstones of the folder.
    """
    server = likely_server(folder)
    try:
        with opened_invites(folder, server) as invites:
            found, problems = all_in(folder, invites, server)
    except FileNotFoundError:
        return [], []
    stones = list(stones)
    good = [one for one in found if now < one.expires and not is_dead(folder, one) and not is_withdrawn(one, stones)]
    return sorted(good, key=lambda one: one.expires), problems
