"""twistd without -n: a daemon with a pidfile and a log file."""

from __future__ import annotations

import os
import signal

from tests.acceptance.harness import AcceptanceTestCase, poll, port_in, read_events, run
from tests.acceptance.peers import TlsClient


class DaemonTests(AcceptanceTestCase):
    """It starts in the background, serves, and stops."""

    def test_from_start_to_stop(self) -> None:
        """Who runs it as a daemon would have one that finds its folder no more, or that cannot be stopped."""
        self.put_server_pair()
        alice = self.new_client("alice")
        pidfile, log, elsewhere = self.folder / "mtlsd.pid", self.folder / "mtlsd.log", self.folder / "elsewhere"
        elsewhere.mkdir()
        # Relative paths, from the folder that the operator stands in, though twistd goes elsewhere.
        twistd = ("--pidfile", str(pidfile), "--logfile", str(log), "--rundir", str(elsewhere))
        line = self.arguments("--certs", "certs", "--audit-log", "audit.jsonl", "--access-log", "access.log", twistd=twistd)
        done = run(line, cwd=self.folder)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertEqual(done.stderr, "")
        pid = int(poll("there is a pidfile", lambda: pidfile.exists() and pidfile.read_text()))
        self.addCleanup(self.end, pid)

        port = port_in(log)
        with TlsClient(port, alice) as client:
            self.assertEqual(client.ask().body, b"Hello: alice\n")
        # The folder is watched from there, too.
        bob = self.new_client("bob", key="p384")
        poll(
            "bob is let in",
            lambda: self.curl("-k", "--cert", "bobCrt.pem", "--key", "bobKey.pem", f"https://127.0.0.1:{port}/hello").stdout,
        )

        os.kill(pid, signal.SIGTERM)
        poll("it is gone", lambda: not alive(pid))
        self.assertFalse(pidfile.exists())
        self.assertEqual(list(elsewhere.iterdir()), [])
        accepted = read_events(self.audit, "accepted")
        self.assertEqual([event["client"] for event in accepted], ["alice", "bob"])
        self.assertEqual(accepted[1]["fingerprint"], bob.fingerprint)
        self.assertEqual(len((self.folder / "access.log").read_text().splitlines()), 2)
        self.assertNotIn("Traceback", log.read_text())

    def end(self, pid: int) -> None:
        # Only where the test failed before its end; the command line tells that the id is still ours.
        if alive(pid) and str(self.folder).encode() in command_line(pid):
            os.kill(pid, signal.SIGKILL)


def alive(pid: int) -> bool:
    """Tell whether a process runs; one that has ended and waits for its parent does not."""
    try:
        with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def command_line(pid: int) -> bytes:
    try:
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            return file.read()
    except (FileNotFoundError, ProcessLookupError):
        return b""
