"""Notes in ``pending/`` that a network was dismissed: for the server, which has noted more in memory than there are files.

In a flood most of those who knock have no file yet.  Without such a note they would get one after ``mtlsd dismiss --all-from``,
and those that had one would keep their places.  The command leaves the note, and the server takes it away.
"""

from __future__ import annotations

import ipaddress
import json
import os
import re
import secrets
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from mtlsd.audit.events import rfc3339
from mtlsd.errors import MtlsdError
from mtlsd.registry.atomic import Folder, Transaction
from mtlsd.registry.folder import read_file

_NAME = re.compile(r"dismissed-[0-9a-f]{16}\.json", re.ASCII)
#: Seconds after which nobody waits for a note any more: a server that runs has taken it within a minute or so.
_OLD = 3600
#: Notes that are read in one go.
_MOST = 100


@dataclass(frozen=True, slots=True)
class Dismissal:
    """Whoever has knocked from *network* and not after *time* (aware) is dismissed."""

    network: ipaddress.IPv4Network | ipaddress.IPv6Network
    time: datetime

    def covers(self, address: str, last: datetime) -> bool:
        return last <= self.time and ipaddress.ip_address(address) in self.network


def note(pending: Folder, network: str, now: datetime) -> None:
    """Leave a note, and clear away those that no server has taken.  Raises :exc:`OSError`."""
    for name in _notes(pending):
        with suppress(OSError):
            if abs(time.time() - os.stat(name, dir_fd=pending.descriptor, follow_symlinks=False).st_mtime) > _OLD:
                pending.system.unlink(name, pending.descriptor)
    text = json.dumps({"network": network, "time": rfc3339(now)}).encode("ascii") + b"\n"
    with Transaction() as steps:
        staged = steps.stage(pending, text, 0o600)
        steps.place(pending, staged, f"dismissed-{secrets.token_hex(8)}.json", sync=False)


def taken(pending: Folder) -> tuple[Dismissal, ...]:
    """Return what the notes in the open folder say, and remove them.  One that cannot be read says nothing."""
    found = []
    owner = os.fstat(pending.descriptor).st_uid
    for name in _notes(pending)[:_MOST]:
        with suppress(OSError, MtlsdError, ValueError, TypeError, KeyError, RecursionError):
            told = json.loads(read_file(pending.descriptor, name, server_uid=owner, wall=time.time).data)
            at = datetime.fromisoformat(told["time"])
            if at.tzinfo is not None:
                found.append(Dismissal(ipaddress.ip_network(told["network"]), at))
        # One that stays says the same again, of those who were dismissed.
        with suppress(OSError):
            pending.system.unlink(name, pending.descriptor)
    return tuple(found)


def covered(dismissals: Iterable[Dismissal], address: str, last: datetime) -> bool:
    """Tell whether who has knocked last then, from there, is dismissed."""
    return any(one.covers(address, last) for one in dismissals)


def _notes(pending: Folder) -> list[str]:
    return sorted(filter(_NAME.fullmatch, os.listdir(pending.descriptor)))
