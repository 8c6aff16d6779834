"""How the operator's folder begins: its rooms, and the server's own pair."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from mtlsd.errors import CertificateError, FolderError, Refused
from mtlsd.identity import Certificate
from mtlsd.keys import Hosts, hosts_in, new_server_pair
from mtlsd.registry.atomic import Folder, System, Transaction, failing_whole
from mtlsd.registry.listing import AUTHORIZED, PENDING, REVOKED
from mtlsd.registry.lock import locked
from mtlsd.registry.nextpair import SERVER_CERTIFICATE, SERVER_KEY, certificate_at, take_over
from mtlsd.text import printable


@dataclass(frozen=True, slots=True)
class Founded:
    """What :func:`found` has made (names under the folder), and the server's certificate with what it says it is.

    ``problem`` is what is wrong with the next pair, if that should be in force by now.
    """

    made: tuple[str, ...]
    certificate: Certificate
    hosts: Hosts
    problem: str | None = None


def found(
    folder: Path,
    wanted: Sequence[str],
    own: Sequence[str],
    now: Callable[[], datetime],
    days: int,
    system: System | None = None,
) -> Founded:
    """Make what is missing of *folder*; what is there stays as it is.

    *wanted* are the hosts that the operator asked for, *own* those of this machine, all as
    :func:`mtlsd.keys.read_host` gives them.  Raises :exc:`~mtlsd.errors.Refused` where a pair is there that lacks one
    of *wanted* or its other half, and :exc:`~mtlsd.errors.FolderError` where the folder cannot be written.
    """
    system = system or System()
    made, problem = [], None
    try:
        # The folder itself may be anywhere, so its parents are made as `mkdir -p` makes them.
        if not folder.is_dir():
            os.makedirs(folder, 0o755)
            made.append(".")
    except OSError as error:
        raise FolderError(printable(f"{folder}: the folder cannot be made: {error.strerror}")) from error
    with locked(folder, system) as root:
        root.sweep()
        try:
            if take_over(folder, root, now()):
                made += [SERVER_KEY, SERVER_CERTIFICATE]
        except CertificateError as error:
            # The server goes on with the present pair, and says so: nothing that is wrong with the next stops a start.
            problem = str(error)
        pair = None
        if _pair_is_there(folder, root):
            certificate, hosts = certificate_at(folder / SERVER_CERTIFICATE)
            _insist(folder, hosts, wanted)
        else:
            pair = new_server_pair([*own, *wanted], now(), days)
            certificate, hosts = Certificate.from_der(pair.der), hosts_in(pair.der)
        with failing_whole(folder), Transaction() as steps:
            for part, mode in ((AUTHORIZED, 0o755), (REVOKED, 0o755), (PENDING, 0o700)):
                if not root.has(part):
                    steps.make_folder(root, part, mode)
                    made.append(part + "/")
            if pair is not None:
                key = steps.stage(root, pair.key_pem, 0o600)
                staged = steps.stage(root, pair.certificate_pem, 0o644)
                steps.place(root, key, SERVER_KEY)
                steps.place(root, staged, SERVER_CERTIFICATE)
                made += [SERVER_KEY, SERVER_CERTIFICATE]
    return Founded(tuple(made), certificate, hosts, problem)


def _pair_is_there(folder: Path, root: Folder) -> bool:
    key, certificate = root.has(SERVER_KEY), root.has(SERVER_CERTIFICATE)
    if key != certificate:
        here, lost = (SERVER_KEY, SERVER_CERTIFICATE) if key else (SERVER_CERTIFICATE, SERVER_KEY)
        raise Refused(
            printable(
                f"{folder / lost} is missing, but {folder / here} is there: put the other half back, or move this one away and run mtlsd init again"
            )
        )
    return key


def _insist(folder: Path, hosts: Hosts, wanted: Sequence[str]) -> None:
    lacking = [host for host in wanted if not hosts.covers(host)]
    if lacking:
        raise Refused(
            printable(
                f"{folder / SERVER_CERTIFICATE} is there, but it does not name {', '.join(lacking)}: "
                f"mtlsd init --renew {' '.join(f'--name {host}' for host in lacking)} makes the next one, for clients to learn before it is used"
            )
        )
