"""Limits and deadlines: floods are survived, and authorized clients are served meanwhile."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path

from tests.acceptance.harness import DEADLINE, AcceptanceTestCase, Output, end, environment, poll
from tests.acceptance.peers import Cut, TlsClient
from tests.pki import Pair

_FLOOD = Path(__file__).with_name("flood.py")


class FloodTests(AcceptanceTestCase):
    """Ten thousand connections from one address that never come to a handshake."""

    COUNT = 10_000

    def test_clients_are_served_meanwhile(self) -> None:
        """Anybody with one machine could keep everybody out."""
        alice = self.new_client("alice")
        server = self.serve("--handshake-timeout", "5")
        before = server.sockets()
        flood = subprocess.Popen(
            [sys.executable, str(_FLOOD), str(server.port), str(self.COUNT)],
            env=environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        said = Output(flood.stdout)
        self.addCleanup(end, flood)
        served = 0
        with TlsClient(server.port, alice) as live:
            while "open" not in said.lines:
                self.assertIsNone(flood.poll())
                with TlsClient(server.port, alice) as client:
                    self.assertEqual(client.ask().body, b"Hello: alice\n")
                self.assertEqual(live.ask().status, 200)
                served += 1
            self.assertIn("Hello: alice", self.curl_as("alice", server).stdout)
        served += 2
        # They are reaped though the flood still holds, and drips on, every one of them.
        poll("the server has let go of them", lambda: server.sockets() <= before)
        self.assertIsNone(flood.poll())
        assert flood.stdin is not None
        flood.stdin.close()
        self.assertEqual(flood.wait(DEADLINE), 0)
        said.finish()
        server.wait_for_events(self.COUNT + served, "accepted", "rejected")
        self.assertEqual(server.stop(), 0)
        verdicts = server.events("accepted", "rejected")
        self.assertEqual(len(verdicts), self.COUNT + served)
        self.assertEqual(len({event["connection"] for event in verdicts}), len(verdicts))
        reasons = Counter(event["reason"] for event in verdicts)
        self.assertEqual(reasons["authorized"], served)
        self.assertLessEqual(set(reasons), {"authorized", "over-limit", "timeout", "closed"})
        self.assertGreater(reasons["over-limit"], 0)
        self.assertGreater(reasons["timeout"], 0)
        self.assert_quiet(server)


class DescriptorTests(AcceptanceTestCase):
    """A process that may have few file descriptors."""

    def test_running_out(self) -> None:
        """One client with many connections would end the service for all, for good."""
        alice, bob = self.new_client("alice"), self.new_client("bob", key="p384")
        server = self.serve(descriptors=80)
        server.log.wait_for("max_handshakes is 8, not 2048")
        held: list[TlsClient] = []
        try:
            # Authorized connections, which no budget of handshakes counts, until one is not served any more.
            for _ in range(120):
                client = TlsClient(server.port, alice)
                held.append(client)
                try:
                    client.ask()
                except Cut:
                    break
            else:
                self.fail("there are more connections than descriptors")
            self.assertGreaterEqual(server.descriptors(), 78)
            # The folder cannot be read now: that is no reason to believe that nobody is authorized.
            said = len(server.log.lines)
            carol = self.new_client("carol", key="ed25519")
            server.log.wait_for("Too many open files", after=said)
            self.assertEqual(held[0].ask().status, 200)
        finally:
            for client in held:
                client.close()
        poll("bob is let in", lambda: self.let_in(server.port, bob))
        poll("carol is let in", lambda: self.let_in(server.port, carol))
        self.assertEqual(server.stop(), 0)
        self.assertEqual(server.events("revoked"), [])

    def let_in(self, port: int, pair: Pair) -> bool:
        try:
            with TlsClient(port, pair) as client:
                return client.ask().status == 200
        except (Cut, OSError):
            return False


class DeadlineTests(AcceptanceTestCase):
    """What takes too long is ended, however many bytes come meanwhile."""

    def setUp(self) -> None:
        super().setUp()
        self.alice = self.new_client("alice")

    def test_idle(self) -> None:
        """Connections that nobody uses would pile up."""
        server = self.serve("--idle-timeout", "1")
        with TlsClient(server.port, self.alice) as used, TlsClient(server.port, self.alice) as unused:
            unused.handshake()
            self.assertEqual(used.ask().status, 200)
            used.wait_until_cut()
            unused.wait_until_cut()
        self.assert_verdicts(server, "authorized", "authorized")

    def test_dripping_head(self) -> None:
        """A client that sends a byte a second would hold its connection for ever."""
        server = self.serve("--head-timeout", "2")
        with TlsClient(server.port, self.alice) as client:
            client.send(b"GET /hello HTTP/1.1\r\nHost: localhost\r\n")
            heard = self.drip(client, b"X-Drip: 1\r\n")
        self.assertTrue(heard.startswith(b"HTTP/1.1 408 "), heard)
        self.assert_verdicts(server, "authorized")

    def test_dripping_handshake(self) -> None:
        """A stranger who sends a byte a second would hold a place for ever."""
        server = self.serve("--handshake-timeout", "2")
        with socket.create_connection(("127.0.0.1", server.port), DEADLINE) as peer:
            peer.sendall(bytes.fromhex("16030102000100"))
            peer.settimeout(0.2)
            end = time.monotonic() + DEADLINE
            over = False
            while not over:
                self.assertLess(time.monotonic(), end)
                try:
                    peer.sendall(b"\0")
                    over = not peer.recv(1)
                except TimeoutError:
                    continue
                except OSError:
                    over = True
        self.assert_verdicts(server, "timeout")

    def test_withheld_close(self) -> None:
        """A client that never answers close_notify would hold its connection for ever."""
        server = self.serve("--idle-timeout", "1", "--close-timeout", "1")
        quiet = server.sockets()
        client = TlsClient(server.port, self.alice)
        self.addCleanup(client.socket.close)
        self.assertEqual(client.ask().status, 200)
        self.assertGreater(server.sockets(), quiet)
        # Nothing is read from here on, so nothing is answered.
        poll("the server has let go", lambda: server.sockets() <= quiet)
        self.assert_verdicts(server, "authorized")

    def test_too_many(self) -> None:
        """A limit that the operator has set would not be kept."""
        bob = self.new_client("bob", key="p384")
        server = self.serve("--max-connections", "2")
        first, second = TlsClient(server.port, self.alice), TlsClient(server.port, bob)
        with first, second:
            for client in (first, second):
                self.assertEqual(client.ask().status, 200)
            with TlsClient(server.port, self.alice) as third:
                self.assertRaises(Cut, third.ask)
            self.assertEqual(server.verdict_on(third.own_port)["reason"], "over-limit")
            for client in (first, second):
                self.assertEqual(client.ask().status, 200)
        poll("there is room again", lambda: self.curl_as("alice", server).returncode == 0)
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def drip(self, client: TlsClient, drop: bytes) -> bytes:
        """Send *drop* again and again until the connection is over; return what came meanwhile."""
        heard, end = b"", time.monotonic() + DEADLINE
        client.socket.settimeout(0.2)
        while True:
            self.assertLess(time.monotonic(), end)
            try:
                client.send(drop)
                heard += client.receive()
            except TimeoutError:
                continue
            except Cut:
                return heard
