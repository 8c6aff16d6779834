"""Revoked means out, now, and stays out: live connections are cut, whatever they are doing."""

from __future__ import annotations

import json
import time
from datetime import timedelta

from tests.acceptance.harness import BIN, PROMISE, ROOT, AcceptanceTestCase, Server, command, poll
from tests.acceptance.peers import TlsClient, let_in
from tests.pki import Pair, make_pair


class SlowSiteTestCase(AcceptanceTestCase):
    """A server whose pages take their time."""

    def setUp(self) -> None:
        super().setUp()
        self.release = self.folder / "release"

    def serve_slowly(self, *options: str) -> Server:
        """Start a server with the pages of slow_site.py."""
        given = self.arguments(*options)
        mine = given[given.index("mtlsd") + 1 :]
        return self.serve(
            arguments=[str(BIN / "twistd"), "-n", "--pidfile=", "-y", str(ROOT / "tests" / "acceptance" / "slow_site.py")],
            environ={"MTLSD_TEST_OPTIONS": json.dumps(mine), "MTLSD_TEST_RELEASE": str(self.release)},
        )

    def connect(self, server: Server, pair: Pair, *, small_window: bool = False) -> TlsClient:
        client = TlsClient(server.port, pair, small_window=small_window)
        self.addCleanup(client.socket.close)
        return client


class LiveConnectionTests(SlowSiteTestCase):
    """What a revocation does to connections that are open."""

    def setUp(self) -> None:
        super().setUp()
        self.alice = self.new_client("alice")
        self.bob = self.new_client("bob", key="p384")

    def test_cut_whatever_they_do(self) -> None:
        """Who was thrown out would go on with the download that was the reason for it."""
        server = self.serve_slowly()
        # In its handshake as far as TLS 1.3 lets a client tell; it has asked for nothing yet.
        fresh = self.connect(server, self.alice).handshake()
        between = self.connect(server, self.alice)
        self.assertEqual(between.ask().status, 200)
        reading = self.connect(server, self.alice)
        reading.send(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertIn(b"200 OK", reading.receive())
        blocked = self.connect(server, self.alice, small_window=True)
        blocked.send(b"GET /big HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertIn(b"200 OK", blocked.receive())
        waiting = self.connect(server, self.alice)
        waiting.send(b"GET /waiting HTTP/1.1\r\nHost: localhost\r\n\r\n")
        self.assertIn(b"200 OK", waiting.receive())
        halfway = self.connect(server, self.alice)
        halfway.send(b"GET /hello HTTP/1.1\r\nHost: ")
        cut = [fresh, between, reading, blocked, waiting, halfway]
        spared = self.connect(server, self.bob)
        self.assertEqual(spared.ask().body, b"Hello: bob\n")
        server.wait_for_events(7, "accepted")

        began = time.monotonic()
        (self.certs / "authorized" / "alice.pem").unlink()
        events = server.wait_for_events(len(cut), "revoked")
        self.assertLess(time.monotonic() - began, PROMISE)
        for client in cut:
            client.wait_until_cut()

        self.assertEqual(spared.ask().body, b"Hello: bob\n")
        spared.close()
        self.assertEqual(len(events), len(cut))
        self.assertEqual({event["client"] for event in events}, {"alice"})
        self.assertEqual({event["fingerprint"] for event in events}, {self.alice.fingerprint})
        accepted = self.assert_verdicts(server, *["authorized"] * 7)
        alices = {event["connection"] for event in accepted if event["client"] == "alice"}
        self.assertEqual(sorted(event["connection"] for event in server.events("revoked")), sorted(alices))

    def test_no_answer_after_the_cut(self) -> None:
        """Requests that were sent ahead would still be answered."""
        server = self.serve_slowly()
        client = self.connect(server, self.alice)
        client.send(b"GET /waiting HTTP/1.1\r\nHost: localhost\r\n\r\n" + b"GET /hello HTTP/1.1\r\nHost: localhost\r\n\r\n" * 20)
        self.assertIn(b"200 OK", client.receive())
        (self.certs / "authorized" / "alice.pem").unlink()
        self.assertNotIn(b"Hello", client.to_the_end())
        self.assert_verdicts(server, "authorized")
        self.assertEqual(len(server.events("revoked")), 1)


class TombstoneTests(AcceptanceTestCase):
    """What ``mtlsd revoke`` does to a running server."""

    def test_revoke_cuts_and_stays(self) -> None:
        """A certificate that somebody puts back from a backup would be good again."""
        alice, bob = self.new_client("alice"), self.new_client("bob", key="p384")
        server = self.serve()
        with TlsClient(server.port, alice) as live, TlsClient(server.port, bob) as spared:
            self.assertEqual(live.ask().status, 200)
            self.assertEqual(spared.ask().status, 200)
            done = command("revoke", "alice", "--certs", self.certs, cwd=self.folder)
            began = time.monotonic()
            self.assertEqual(done.returncode, 0, done.stderr)
            self.assertLess(live.wait_until_cut(), PROMISE)
            server.wait_for_events(1, "revoked")
            self.assertLess(time.monotonic() - began, PROMISE)

            # Put back by hand, beside a newcomer: that one comes in when the folder has been read.
            marker = make_pair("carol", key="ed25519")
            self.authorize("alice", alice)
            self.authorize("carol", marker)
            poll("carol is let in", lambda: let_in(server.port, marker))
            self.assertFalse(let_in(server.port, alice))
            self.assertEqual(spared.ask().body, b"Hello: bob\n")
        self.assertTrue((self.certs / "revoked" / f"{alice.fingerprint}.json").exists())
        self.assertEqual(server.stop(), 0)
        event = [event for event in server.events("rejected") if event["fingerprint"] == alice.fingerprint][-1]
        self.assertEqual(event["reason"], "revoked")
        self.assertEqual(event["remedy"], "mtlsd authorize CERT.pem --name NAME --again")
        self.assert_quiet(server)

        # And after a restart, too.
        server = self.serve()
        self.assertFalse(let_in(server.port, alice))
        self.assertTrue(let_in(server.port, bob))
        self.assertEqual(server.stop(), 0)


class ExpiryTests(AcceptanceTestCase):
    """A certificate that ends while its client is connected."""

    def test_cut_when_it_ends(self) -> None:
        """A client could stay for ever, by staying connected."""
        # Long enough to connect on any machine, and over by the time that the server looks, 15 s after its start.
        alice = self.new_client("alice", ends=timedelta(seconds=13))
        bob = self.new_client("bob", key="p384")
        server = self.serve()
        with TlsClient(server.port, alice) as client, TlsClient(server.port, bob) as spared:
            self.assertEqual(client.ask().status, 200)
            self.assertEqual(spared.ask().status, 200)
            client.wait_until_cut(within=60)
            (event,) = server.wait_for_events(1, "expired")
            self.assertEqual(event["client"], "alice")
            self.assertEqual(spared.ask().status, 200)
        self.assert_verdicts(server, "authorized", "authorized")
        self.assertEqual(len(server.events()), 3)
