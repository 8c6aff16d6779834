"""Clients as they are at home: a folder each, the commands that work in it, and the server that they belong to."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
from pathlib import Path
from typing import Any

from mtlsd.clientfolder import ClientFolder
from mtlsd.keys import NewPair
from tests.acceptance.harness import MTLSD, AcceptanceTestCase, Server, command, end, environment, poll, read_events


def joined_folder(path: Path, pair: NewPair, server: bytes, port: int) -> ClientFolder:
    """Return the folder of a client that has joined the server on *port*, whose certificate is *server*, DER."""
    folder = ClientFolder(path)
    folder.put_pair(pair)
    folder.put_server(server)
    folder.put_endpoint(f"localhost:{port}")
    return folder


class FolderLock:
    """The lock of the server's folder, which we hold: whoever wants to write there waits."""

    def __init__(self, certs: Path) -> None:
        self._file = (certs / ".lock").open("r+b")
        fcntl.flock(self._file, fcntl.LOCK_EX)

    def wait_until_wanted(self) -> None:
        inode = os.fstat(self._file.fileno()).st_ino
        poll("the server waits", lambda: re.search(rf"-> FLOCK .*:{inode} ", Path("/proc/locks").read_text()))

    def release(self) -> None:
        self._file.close()


class ClientsTestCase(AcceptanceTestCase):
    """The name of a client is that of its folder."""

    server: Server

    def mtlsd(self, *arguments: str | Path) -> str:
        """Run a command that does what it is told, without a word of warning; return what it says."""
        found = command(*arguments, cwd=self.folder)
        self.assertEqual((found.returncode, found.stderr), (0, ""), found.stdout)
        return found.stdout

    def not_done(self, said: str, *arguments: str | Path) -> None:
        """Run a command that is refused, in one line."""
        found = command(*arguments, cwd=self.folder)
        self.assertEqual((found.returncode, found.stdout), (1, ""), found.stderr)
        self.assertIn(said, found.stderr)
        self.assertEqual(found.stderr.count("\n"), 1, found.stderr)

    def begin(self, *arguments: str) -> subprocess.Popen[str]:
        """Start a command, and do not wait for its end."""
        process = subprocess.Popen(
            [*MTLSD, *arguments],
            cwd=self.folder,
            env=environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.addCleanup(end, process)
        return process

    def hold_lock(self) -> FolderLock:
        lock = FolderLock(self.certs)
        self.addCleanup(lock.release)
        return lock

    def hello(self, name: str = "bob", path: str = "/hello") -> str:
        return self.curl("--config", self.folder / name / "curl", self.server.url(path)).stdout

    def ledger(self, kind: str) -> list[dict[str, Any]]:
        return read_events(self.certs / "ledger.jsonl", kind)
