"""Signals: the stop, the reload, and logrotate."""

from __future__ import annotations

import signal
import stat
import subprocess
from pathlib import Path

from tests.acceptance.harness import DEADLINE, end, environment, poll, port_in, reserve_port
from tests.acceptance.peers import TlsClient, let_in
from tests.acceptance.test_revocation import SlowSiteTestCase
from tests.pki import Pair, make_pair, new_key

HELD = b"GET /held HTTP/1.1\r\nHost: localhost\r\n\r\n"


class StopTests(SlowSiteTestCase):
    """SIGTERM: nothing new comes in, what is under way may end, and the status is 0."""

    def setUp(self) -> None:
        super().setUp()
        self.alice = self.new_client("alice")

    def test_idle(self) -> None:
        """systemd would call every stop a failure (143), or wait for its own timeout."""
        # This client does not hang up in return.
        server = self.serve("--close-timeout", "0.5")
        with TlsClient(server.port, self.alice) as client:
            self.assertEqual(client.ask().status, 200)
            self.assertEqual(server.stop(), 0)
            client.wait_until_cut()
        self.assert_quiet(server)

    def test_response_in_flight(self) -> None:
        """Every restart would break the answers that are on their way."""
        # Reserved, so that nobody else listens there afterwards.
        server = self.serve_slowly("--port", str(reserve_port(self)))
        busy, idle = self.connect(server, self.alice), self.connect(server, self.alice)
        self.assertEqual(idle.ask("/hello").status, 200)
        busy.send(HELD)
        head = busy.receive()
        self.assertIn(b"200 OK", head)
        server.signal(signal.SIGTERM)
        server.log.wait_for("no longer listening")
        # The idle one is let go at once, nobody new comes in, and the answer goes on.
        idle.wait_until_cut()
        idle.close()
        self.assertRaises(ConnectionRefusedError, TlsClient, server.port, self.alice)
        self.assertIsNone(server.process.poll())
        self.release.touch()
        rest = busy.to_the_end()
        busy.close()
        self.assertTrue((head + rest).endswith(b"\r\n\r\nfirst-last"), head + rest)
        self.assertEqual(server.wait(), 0)
        self.assert_quiet(server)

    def test_drain_timeout(self) -> None:
        """A client that never ends would hold the restart for ever."""
        server = self.serve_slowly("--drain-timeout", "1")
        busy = self.connect(server, self.alice)
        busy.send(HELD)
        self.assertIn(b"200 OK", busy.receive())
        server.signal(signal.SIGTERM)
        busy.wait_until_cut()
        self.assertEqual(server.wait(), 0)
        self.assert_quiet(server)

    def test_second_sigterm(self) -> None:
        """An operator in a hurry would have to use SIGKILL."""
        server = self.serve_slowly("--drain-timeout", "600")
        busy = self.connect(server, self.alice)
        busy.send(HELD)
        self.assertIn(b"200 OK", busy.receive())
        server.signal(signal.SIGTERM)
        server.log.wait_for("no longer listening; 1 ")
        server.signal(signal.SIGTERM)
        busy.wait_until_cut()
        self.assertEqual(server.wait(), 0)
        self.assert_quiet(server)

    def test_unfinished_handshake(self) -> None:
        """A port scanner would hold the restart, or be missing from the log."""
        server = self.serve("--handshake-timeout", "600", "--close-timeout", "0.5")
        silent = TlsClient(server.port, self.alice)
        self.addCleanup(silent.socket.close)
        with TlsClient(server.port, self.alice) as client:
            self.assertEqual(client.ask().status, 200)
            self.assertEqual(server.stop(), 0)
        accepted, rejected = server.events()
        self.assertEqual((accepted["event"], accepted["client"]), ("accepted", "alice"))
        self.assertEqual((rejected["event"], rejected["reason"]), ("rejected", "closed"))
        self.assertEqual((rejected["peer"]["port"], rejected["detail"]), (silent.own_port, "shutting down"))
        self.assert_quiet(server)


class ReloadTests(SlowSiteTestCase):
    """A new server pair, with a signal or without."""

    def setUp(self) -> None:
        super().setUp()
        self.old = self.put_server_pair()
        self.alice = self.new_client("alice")

    def shown(self, port: int) -> bytes:
        with TlsClient(port, self.alice) as client:
            self.assertEqual(client.ask().body, b"Hello: alice\n")
            return client.server_certificate()

    def fresh(self) -> Pair:
        return make_pair("localhost", key=new_key("p384"), hosts=["localhost"])

    def test_sighup_reads_everything(self) -> None:
        """After a change, nobody could know from when on it is in force."""
        server = self.serve()
        with TlsClient(server.port, self.alice) as live:
            self.assertEqual(live.ask().status, 200)
            self.assertEqual(self.shown(server.port), self.old.der)
            fresh = self.put_server_pair(self.fresh())
            bob = make_pair("bob", key="p384")
            self.authorize("bob", bob)
            server.signal(signal.SIGHUP)
            server.log.wait_for("reading everything again")
            server.log.wait_for(f"certificate is now {fresh.fingerprint}")
            self.assertEqual(self.shown(server.port), fresh.der)
            # A reload cuts nobody.
            self.assertEqual(live.ask().status, 200)
            poll("bob is let in", lambda: let_in(server.port, bob))
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_broken_pair(self) -> None:
        """A mistake in a new certificate would take the server down at once, instead of being named."""
        server = self.serve()
        crt, fresh = self.certs / "serverCrt.pem", self.fresh()
        for broken, says in ((fresh.pem, "not the key of"), (fresh.pem[:200], str(crt)), (b"", str(crt))):
            said = len(server.log.lines)
            self.write(crt, broken)
            server.signal(signal.SIGHUP)
            line = server.log.wait_for("^.*old pair stays in use", after=said)[0]
            self.assertIn(says, line)
            self.assertIn(str(self.certs), line)
            self.assertEqual(self.shown(server.port), self.old.der)
        # Put right, it is used: no signal, no restart.
        self.put_server_pair(fresh)
        poll("the new certificate is shown", lambda: self.shown(server.port) == fresh.der)
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_changed_without_a_signal(self) -> None:
        """Who renews the certificate by a cron job would find the old one in use until the next restart."""
        server = self.serve()
        fresh = self.put_server_pair(self.fresh())
        poll("the new certificate is shown", lambda: self.shown(server.port) == fresh.der)
        # A broken one is reported without a signal, too.
        said = len(server.log.lines)
        self.write(self.certs / "serverCrt.pem", b"not a certificate\n")
        server.log.wait_for("serverCrt.pem: .*old pair stays in use", after=said)
        self.assertEqual(self.shown(server.port), fresh.der)
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)


class LogTests(SlowSiteTestCase):
    """The audit log, as logrotate and full disks treat it."""

    def setUp(self) -> None:
        super().setUp()
        self.alice = self.new_client("alice")

    def visit(self, port: int) -> None:
        with TlsClient(port, self.alice) as client:
            self.assertEqual(client.ask().status, 200)

    def test_mode(self) -> None:
        """Everybody on the machine could read who comes and goes."""
        access = self.folder / "access.log"
        server = self.serve("--access-log", access)
        self.visit(server.port)
        self.assertEqual(server.stop(), 0)
        for path in (self.audit, access):
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        (event,) = server.events()
        # The two logs meet in the connection's id.
        self.assertRegex(access.read_text(), rf'^127\.0\.0\.1 - alice .*"GET /hello HTTP/1\.1" 200 .* {event["connection"]}\n$')

    def test_sigusr1(self) -> None:
        """After logrotate, verdicts would go on into the old file, which is compressed and deleted."""
        server = self.serve()
        self.visit(server.port)
        server.wait_for_events(1)
        old = self.audit.rename(self.folder / "audit.jsonl.1")
        server.signal(signal.SIGUSR1)
        poll("the log is opened again", self.audit.exists)
        self.visit(server.port)
        self.assertEqual(len(server.wait_for_events(1)), 1)
        self.assertEqual(len(old.read_bytes().splitlines()), 1)
        self.assertEqual(stat.S_IMODE(self.audit.stat().st_mode), 0o600)
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_sigusr1_beside_twistds_own(self) -> None:
        """twistd's own log would no longer be rotated, or the audit log would not."""
        log = self.folder / "mtlsd.log"
        process = self.serve_into(log)
        port = port_in(log)
        self.visit(port)
        old = self.audit.rename(self.folder / "audit.jsonl.1")
        process.send_signal(signal.SIGUSR1)
        poll("the audit log is opened again", self.audit.exists)
        poll("twistd has rotated its log", (self.folder / "mtlsd.log.1").exists)
        self.visit(port)
        poll("the verdict is in the new log", lambda: len(self.audit.read_bytes().splitlines()) == 1)
        self.assertEqual(len(old.read_bytes().splitlines()), 1)
        poll("the verdict is in twistd's new log", lambda: "accepted alice" in log.read_text())
        process.terminate()
        self.assertEqual(process.wait(DEADLINE), 0)

    def serve_into(self, log: Path) -> subprocess.Popen[bytes]:
        """Start a server whose log is a file."""
        self.put_server_pair()
        line = self.arguments(twistd=("-n", "--pidfile=", "--logfile", str(log)))
        process = subprocess.Popen(line, cwd=self.folder, env=environment(), stdin=subprocess.DEVNULL)
        self.addCleanup(end, process)
        return process

    def test_full_disk(self) -> None:
        """A full disk would stop the service, or lose the log of who came without a word."""
        server = self.serve("--audit-log", "/dev/full")
        for _ in range(3):
            self.visit(server.port)
        server.log.wait_for("/dev/full: cannot be written, 1 lines lost so far: No space left on device")
        self.assertEqual(server.stop(), 0)
        said = "\n".join(server.log.lines)
        self.assertEqual(said.count("cannot be written"), 1)
        self.assertEqual(said.count("accepted alice"), 3)
        self.assert_quiet(server)
