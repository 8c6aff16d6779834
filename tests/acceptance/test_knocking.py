"""Knock and approve, with a real server and a real curl: refused, listed, let in, without a file that is carried by hand."""

from __future__ import annotations

import json
import os
import pty
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from tests.acceptance.harness import DEADLINE, MTLSD, PROMISE, AcceptanceTestCase, Server, command, environment, poll
from tests.pki import Pair, make_pair, new_key


class KnockingTestCase(AcceptanceTestCase):
    def stranger(self, name: str) -> Pair:
        """Make a pair that nobody has authorized, in the test's folder."""
        pair = make_pair(name, key=new_key())
        pair.write(self.folder, name)
        return pair

    def mtlsd(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return command(*arguments, "--certs", self.certs, cwd=self.folder)

    def listed(self) -> list[dict[str, Any]]:
        done = self.mtlsd("pending", "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        found: list[dict[str, Any]] = json.loads(done.stdout)
        return found

    def waits(self, *pairs: Pair) -> list[dict[str, Any]]:
        """Return the list, once exactly these are in it."""
        wanted = {pair.fingerprint for pair in pairs}

        def listed() -> list[dict[str, Any]]:
            found = self.listed()
            return found if {one["fingerprint"] for one in found} == wanted else []

        return poll("those who knocked are listed", listed)

    def refused(self, name: str, server: Server) -> None:
        done = self.curl_as(name, server)
        self.assertIn(done.returncode, (35, 56), done.stderr)
        self.assertEqual(done.stdout, "")

    def greeted(self, name: str, server: Server) -> bool:
        return self.curl_as(name, server).stdout.endswith(f"Hello: {name}\n")

    def files(self) -> set[str]:
        return {path.name for path in (self.certs / "pending").iterdir()}


class SceneTests(KnockingTestCase):
    def test_knock_approve_come_in(self) -> None:
        """The promise: refused, listed, approved, and the next curl is served within a second, without a restart."""
        server = self.serve()
        alice = self.stranger("alice")
        for _ in range(3):
            self.refused("alice", server)
        (found,) = self.waits(alice)
        self.assertEqual((found["subject"], found["address"]), ("CN=alice", "127.0.0.1"))
        table = self.mtlsd("pending").stdout
        self.assertIn(alice.fingerprint[:16], table)
        remedies = {event["remedy"] for event in server.events("rejected")}
        (remedy,) = remedies
        self.assertEqual(remedy, f"mtlsd approve {alice.fingerprint} --name NAME")
        self.assertEqual(json.loads(self.mtlsd("explain", "aliceCrt.pem", "--json").stdout)["remedy"], remedy)

        # What the verdict says, with a name for NAME, is what is typed.
        done = self.mtlsd(*remedy.replace("NAME", "alice").split()[1:], "--yes")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        began = time.monotonic()
        poll("alice is let in", lambda: self.greeted("alice", server))
        self.assertLess(time.monotonic() - began, PROMISE)
        self.assertEqual((self.listed(), self.files()), ([], set()))
        ledger = [json.loads(line) for line in (self.certs / "ledger.jsonl").read_text().splitlines()]
        self.assertEqual([(line["event"], line["client"]) for line in ledger], [("approved", "alice")])
        (event,) = server.events("pending")
        self.assertEqual((event["fingerprint"], event["remedy"]), (alice.fingerprint, remedy))
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_several_at_once(self) -> None:
        """A rack of machines is switched on: each of them is listed, and each is let in under its own name."""
        server = self.serve()
        names = [f"node-{nth}" for nth in range(12)]
        pairs = [self.stranger(name) for name in names]
        with ThreadPoolExecutor(6) as pool:
            list(pool.map(lambda name: self.refused(name, server), names * 2))
        for found in self.waits(*pairs):
            self.assertEqual(found["address"], "127.0.0.1")
        with ThreadPoolExecutor(4) as pool:
            approved = pool.map(
                lambda one: self.mtlsd("approve", one[1].fingerprint[:16], "--name", one[0], "--yes"),
                zip(names, pairs, strict=True),
            )
            self.assertEqual([done.stderr for done in approved if done.returncode], [])
        for name in names:
            poll(f"{name} is let in", lambda name=name: self.greeted(name, server))  # type: ignore[misc]
        poll("the list is empty", lambda: not self.files())
        self.assertEqual(len(server.events("pending")), len(pairs))
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_at_a_terminal(self) -> None:
        """The operator sees whom it is about, and is asked; a no changes nothing."""
        server = self.serve()
        alice = self.stranger("alice")
        self.refused("alice", server)
        self.waits(alice)
        for answer, status in ((b"n\n", 1), (b"y\n", 0)):
            done, said = self.at_a_terminal(answer, "approve", alice.fingerprint[:16], "--name", "alice")
            self.assertEqual(done, status, said)
            self.assertIn(alice.fingerprint, said)
            self.assertIn("let it in as alice?", said)
            self.assertEqual((self.certs / "authorized" / "alice.pem").exists(), status == 0)

    def at_a_terminal(self, typed: bytes, *arguments: str) -> tuple[int, str]:
        """Run the command with a terminal on its standard input; return its exit status and all that it said."""
        ours, theirs = pty.openpty()
        try:
            process = subprocess.Popen(
                [*MTLSD, *arguments, "--certs", str(self.certs)],
                cwd=self.folder,
                env=environment(),
                stdin=theirs,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            os.write(ours, typed)
            said, _ = process.communicate(timeout=DEADLINE)
        finally:
            os.close(ours)
            os.close(theirs)
        return process.returncode, said


class RefusalTests(KnockingTestCase):
    """What is not kept, and what is not approved."""

    def test_off(self) -> None:
        """Who wants nothing of strangers on the disk has nothing of them there."""
        server = self.serve("--pending", "off")
        self.stranger("alice")
        self.refused("alice", server)
        (event,) = server.wait_for_events(1, "rejected")
        self.assertEqual(event["remedy"], "mtlsd authorize CERT.pem --name NAME")
        self.assertEqual(server.stop(), 0)
        self.assertFalse((self.certs / "pending").exists())
        self.assert_quiet(server)

    def test_tombstone(self) -> None:
        """What was revoked would wait at the door, until somebody lets it in by mistake."""
        server = self.serve()
        alice, bob = self.stranger("alice"), self.stranger("bob")
        for name in ("alice", "bob"):
            self.refused(name, server)
        self.waits(alice, bob)
        done = self.mtlsd("revoke", "--fingerprint", alice.fingerprint)
        self.assertEqual(done.returncode, 0, done.stderr)
        poll("the file is gone", lambda: self.files() == {f"{bob.fingerprint}.json"})
        self.refused("alice", server)
        self.refused("bob", server)
        self.waits(bob)
        self.assertEqual(
            [event["reason"] for event in server.wait_for_events(4, "rejected")][2:], ["revoked", "unknown-certificate"]
        )

    def test_dismissed(self) -> None:
        """A no for now: off the list, and on it again, with a new count, for whoever comes again."""
        server = self.serve()
        alice = self.stranger("alice")
        for _ in range(2):
            self.refused("alice", server)
        # Both of them: what no file tells of yet when it is dismissed is counted afterwards.
        poll("both knocks are told of", lambda: [one["count"] for one in self.listed()] == [2])
        self.assertEqual(self.mtlsd("dismiss", "--all-from", "127.0.0.0/8").returncode, 0)
        self.assertEqual(self.listed(), [])
        self.refused("alice", server)
        (found,) = self.waits(alice)
        self.assertEqual(found["count"], 1)
        self.assertEqual(server.stop(), 0)
        self.assertEqual(len(server.events("pending")), 2)
        self.assert_quiet(server)

    def test_tampered(self) -> None:
        """Who can write to the list must not come in by it: another certificate under a name, a link, junk."""
        server = self.serve()
        alice, eve = self.stranger("alice"), self.stranger("eve")
        for name in ("alice", "eve"):
            self.refused(name, server)
        self.waits(alice, eve)
        path = self.certs / "pending" / f"{alice.fingerprint}.json"
        genuine, eves = path.read_bytes(), (path.parent / f"{eve.fingerprint}.json").read_bytes()
        (self.folder / "outside.json").write_bytes(genuine)
        for tamper in (
            lambda: self.write(path, eves, 0o600),
            lambda: os.symlink(self.folder / "outside.json", path),
            lambda: os.symlink(f"{eve.fingerprint}.json", path),
            lambda: self.write(path, b"junk", 0o600),
        ):
            path.unlink()
            tamper()
            for arguments in (["--name", "alice", "--yes"], ["--name", "alice", "--yes", "--again"]):
                done = self.mtlsd("approve", alice.fingerprint, *arguments)
                self.assertEqual((done.returncode, done.stdout, done.stderr.count("\n")), (1, "", 1), done.stderr)
        self.assertEqual(list((self.certs / "authorized").iterdir()), [])
        self.refused("eve", server)
        # The next knock puts it right: the server writes what it was shown.
        self.refused("alice", server)
        poll("the file is whole", lambda: not path.is_symlink() and b"BEGIN CERTIFICATE" in path.read_bytes())
        self.assertEqual(self.mtlsd("approve", alice.fingerprint[:16], "--name", "alice", "--yes").returncode, 0)
        poll("alice is let in", lambda: self.greeted("alice", server))
        self.refused("eve", server)

    def test_exit_statuses(self) -> None:
        """A script tells what it got wrong from what was refused."""
        server = self.serve()
        alice = self.stranger("alice")
        self.new_client("bob")
        self.refused("alice", server)
        self.waits(alice)
        for status, arguments in (
            (2, ["approve", alice.fingerprint[:15], "--name", "alice", "--yes"]),
            (2, ["approve", alice.fingerprint[:16], "--name", "alice"]),
            (1, ["approve", "0" * 16, "--name", "alice", "--yes"]),
            (1, ["approve", alice.fingerprint[:16], "--name", "../alice", "--yes"]),
            (1, ["approve", alice.fingerprint[:16], "--name", "bob", "--yes"]),
            (2, ["dismiss"]),
            (1, ["dismiss", "0" * 8]),
            (0, ["dismiss", "--older-than", "7d"]),
        ):
            done = self.mtlsd(*arguments)
            self.assertEqual(done.returncode, status, (arguments, done.stderr))
        self.waits(alice)


class FolderTests(KnockingTestCase):
    """Where the server may write, and where not."""

    def test_restart(self) -> None:
        """Whoever knocked before a restart is still listed after it, counted on; and nobody's file lies about."""
        server = self.serve()
        alice = self.stranger("alice")
        self.refused("alice", server)
        self.assertEqual(server.stop(), 0)
        self.assertEqual([one["count"] for one in self.listed()], [1])
        (self.certs / "pending" / ".mtlsd-0123456789abcdef").touch()
        server = self.serve()
        self.refused("alice", server)
        self.assertEqual(server.stop(), 0)
        self.assertEqual([one["count"] for one in self.waits(alice)], [2])
        self.assertEqual(self.files(), {f"{alice.fingerprint}.json"})
        self.assertEqual(len(server.events("pending")), 1)

    def test_cannot_be_written(self) -> None:
        """A server that cannot keep anything serves as ever, says so once, and promises nothing that does not work."""
        (self.certs / "pending").touch()
        self.new_client("bob")
        server = self.serve()
        server.log.wait_for(r"pending: cannot be used: Not a directory; unknown certificates are refused as ever, but not kept")
        self.stranger("alice")
        for _ in range(3):
            self.refused("alice", server)
        self.assertTrue(self.greeted("bob", server))
        self.assertEqual({event["remedy"] for event in server.events("rejected")}, {"mtlsd authorize CERT.pem --name NAME"})
        self.assertEqual(self.mtlsd("pending").returncode, 1)
        self.assertEqual(self.mtlsd("authorize", "aliceCrt.pem", "--name", "alice").returncode, 0)
        poll("alice is let in", lambda: self.greeted("alice", server))
        self.assertEqual(server.stop(), 0)
        self.assertEqual(sum("cannot be used" in line for line in server.log.lines), 1)
        self.assert_quiet(server)
