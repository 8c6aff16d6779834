"""Who is not let in, each against the running server: refused, and written down once, with the right reason."""

from __future__ import annotations

import signal
import socket
from datetime import timedelta
from typing import Any

from OpenSSL import SSL

from tests.acceptance.harness import DEADLINE, AcceptanceTestCase, Server, poll
from tests.acceptance.peers import Cut, TlsClient, flip_certificate_verify, let_in, make_context
from tests.pki import Pair, make_pair, new_key


class RefusalTestCase(AcceptanceTestCase):
    """Alice is authorized; everybody else is not."""

    def setUp(self) -> None:
        super().setUp()
        self.alice = self.new_client("alice")
        self.server = self.serve()

    def refused(self, pair: Pair | None, **options: Any) -> None:
        with TlsClient(self.server.port, pair, **options) as client:
            self.assertRaises(Cut, client.ask)

    def rejection(self, reason: str) -> dict[str, Any]:
        (event,) = self.assert_verdicts(self.server, reason)
        return event


class CertificateTests(RefusalTestCase):
    """Certificates that are not authorized, however much they look like one that is."""

    def test_a_stranger(self) -> None:
        """Anybody who can make a certificate would be let in."""
        make_pair("mallory").write(self.folder, "mallory")
        answer = self.curl_as("mallory", self.server)
        self.assertNotEqual(answer.returncode, 0)
        self.assertEqual(answer.stdout, "")
        self.assertIsNone(self.rejection("unknown-certificate")["client"])

    def test_none(self) -> None:
        """Anybody at all would be let in."""
        answer = self.curl("-ik", self.server.url())
        self.assertNotEqual(answer.returncode, 0)
        self.assertEqual(answer.stdout, "")
        self.assertIsNone(self.rejection("no-certificate")["fingerprint"])

    def test_minted_by_an_authorized_client(self) -> None:
        """Every client would be a certificate authority (it has CA:TRUE, as openssl makes it) and could let others in."""
        minted = make_pair("bob", key="p384", issuer=self.alice)
        for chain in ((), (self.alice,)):
            self.refused(minted, chain=chain)
        self.assert_verdicts(self.server, "unknown-certificate", "unknown-certificate")

    def test_twin(self) -> None:
        """A certificate with alice's subject and serial number would pass for hers."""
        self.refused(make_pair("alice", key="p384", serial=self.alice.certificate.serial_number))
        event = self.rejection("unknown-certificate")
        self.assertIsNone(event["client"])
        self.assertEqual(event["subject"], "CN=alice")

    def test_reissued_with_the_same_key(self) -> None:
        """A client could give itself another ten years."""
        self.refused(make_pair("alice", key=self.alice.key, ends=timedelta(days=3650)))
        self.rejection("unknown-certificate")

    def test_chain_with_an_authorized_certificate(self) -> None:
        """Alice's certificate is public: sent along behind another leaf it would let that one in."""
        mallory = make_pair("mallory", key="p384")
        crt, _ = mallory.write(self.folder, "mallory")
        crt.write_bytes(mallory.pem + self.alice.pem)
        self.assertNotEqual(self.curl_as("mallory", self.server).returncode, 0)
        self.refused(mallory, chain=[self.alice])
        for event in self.assert_verdicts(self.server, "unknown-certificate", "unknown-certificate"):
            self.assertEqual(event["fingerprint"], mallory.fingerprint)

    def test_shown_without_its_key(self) -> None:
        """The log would say that alice was here, when it was somebody who has seen her certificate."""
        self.refused(self.alice, version=SSL.TLS1_2_VERSION, mangle=flip_certificate_verify)
        event = self.rejection("bad-handshake")
        self.assertIsNone(event["client"])
        self.assertEqual(event["fingerprint"], self.alice.fingerprint)


class AuthorizedButTests(AcceptanceTestCase):
    """Certificates that stand in the folder, and are refused all the same."""

    def refused(self, name: str, reason: str, **options: Any) -> dict[str, Any]:
        pair = self.new_client(name, **options)
        server = self.serve()
        with TlsClient(server.port, pair) as client:
            self.assertRaises(Cut, client.ask)
        (event,) = self.assert_verdicts(server, reason)
        self.assertEqual(event["fingerprint"], pair.fingerprint)
        return event

    def test_expired(self) -> None:
        """A certificate would outlive its own end."""
        event = self.refused("old", "expired", begins=timedelta(days=-9), ends=timedelta(days=-1))
        self.assertEqual(event["client"], "old")
        self.assertEqual(event["remedy"], "mtlsd authorize NEW.pem --name NAME --add")

    def test_not_yet_valid(self) -> None:
        """A certificate would be used before its time."""
        event = self.refused("early", "not-yet-valid", begins=timedelta(days=1), ends=timedelta(days=9))
        self.assertEqual(event["client"], "early")

    def test_weak_key(self) -> None:
        """A key that can be broken would be enough, because somebody once authorized it."""
        self.refused("weak", "weak-key", key=new_key("rsa1024"))


class NoTlsTests(RefusalTestCase):
    """Peers that never come to show a certificate."""

    def talk(self, data: bytes) -> None:
        with socket.create_connection(("127.0.0.1", self.server.port), DEADLINE) as peer:
            peer.sendall(data)
            if data:
                try:
                    while peer.recv(4096):
                        pass
                except ConnectionResetError:
                    pass

    def test_plain_http(self) -> None:
        """Who forgets the s of https would leave a riddle in the log."""
        answer = self.curl("-i", f"http://localhost:{self.server.port}/hello")
        self.assertNotIn("Hello", answer.stdout)
        self.rejection("plain-http")

    def test_port_scan(self) -> None:
        """Who looks for open doors would leave no trace."""
        self.talk(b"")
        self.rejection("closed")

    def test_garbage(self) -> None:
        """Bytes that are no TLS would leave no trace, or a traceback."""
        self.talk(bytes(range(256)) * 8)
        self.rejection("bad-handshake")

    def test_old_tls(self) -> None:
        """TLS 1.0 and 1.1, which are broken (RFC 8996), would still be spoken."""
        for version in ("-tls1", "-tls1_1"):
            answer = self.openssl(
                *("s_client", "-connect", f"127.0.0.1:{self.server.port}", version, "-cipher", "ALL:@SECLEVEL=0"),
                *("-cert", "aliceCrt.pem", "-key", "aliceKey.pem"),
            )
            self.assertIn("protocol version", answer.stderr)
        self.assert_verdicts(self.server, "old-protocol", "old-protocol")

    def test_http2_only(self) -> None:
        """A client that knows HTTP/2 alone would be let in, and then not understood."""
        answer = self.openssl(
            *("s_client", "-connect", f"127.0.0.1:{self.server.port}", "-alpn", "h2"),
            *("-cert", "aliceCrt.pem", "-key", "aliceKey.pem"),
        )
        self.assertIn("no application protocol", answer.stderr)
        self.rejection("no-common-protocol")

    def test_client_that_does_not_trust_the_server(self) -> None:
        """It would look as if the client had been refused, when it is the client who turned away."""
        answer = self.curl("-i", "--cert", "aliceCrt.pem", "--key", "aliceKey.pem", self.server.url())
        self.assertEqual(answer.returncode, 60, answer.stderr)
        event = self.rejection("bad-handshake")
        self.assertIn("unknown ca", event["detail"])


class ResumptionTests(AcceptanceTestCase):
    """A resumed session has had no verify callback (CVE-2025-23419): it must be judged all the same."""

    def setUp(self) -> None:
        super().setUp()
        self.put_server_pair()
        self.alice = self.new_client("alice")
        # A session belongs to the context that it came from.
        self.contexts = {
            version: make_context(self.alice, version=version) for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION)
        }

    def connect(self, server: Server, version: int, session: SSL.Session | None = None) -> TlsClient:
        return TlsClient(server.port, None, context=self.contexts[version], session=session)

    def visit(self, server: Server, version: int, session: SSL.Session | None = None) -> tuple[bool, SSL.Session]:
        with self.connect(server, version, session) as client:
            self.assertEqual(client.ask().body, b"Hello: alice\n")
            return client.resumed, client.session()

    def revoke(self, server: Server) -> None:
        (self.certs / "authorized" / "alice.pem").unlink()
        poll("alice is out", lambda: not let_in(server.port, self.alice))

    def refused(self, server: Server, version: int, session: SSL.Session) -> dict[str, Any]:
        with self.connect(server, version, session) as client:
            self.assertRaises(Cut, client.ask)
        verdict = server.verdict_on(client.own_port)
        self.assertEqual(verdict["reason"], "unknown-certificate")
        return verdict

    def refused_on_resumption(self, version: int) -> None:
        server = self.serve()
        resumed, session = self.visit(server, version)
        self.assertFalse(resumed)
        resumed, session = self.visit(server, version, session)
        self.assertTrue(resumed, "this test proves nothing unless sessions are resumed")
        self.assertEqual([event["tls"]["resumed"] for event in server.events("accepted")], [False, True])
        self.revoke(server)
        verdict = self.refused(server, version, session)
        self.assertTrue(verdict["tls"]["resumed"])
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_tls_1_2(self) -> None:
        """A client that was revoked would come back with its old session for as long as the ticket lasts."""
        self.refused_on_resumption(SSL.TLS1_2_VERSION)

    def test_tls_1_3(self) -> None:
        """The same, with the tickets of TLS 1.3."""
        self.refused_on_resumption(SSL.TLS1_3_VERSION)

    def test_openssl(self) -> None:
        """Real clients keep sessions in files: these would outlive a revocation."""
        server = self.serve()
        for version in ("-tls1_2", "-tls1_3"):
            arguments = (
                *("s_client", "-connect", f"127.0.0.1:{server.port}", version, "-ign_eof"),
                *("-cert", "aliceCrt.pem", "-key", "aliceKey.pem"),
            )
            request = "GET /hello HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n"
            first = self.openssl(*arguments, "-sess_out", "session.pem", stdin=request)
            self.assertIn("Hello: alice", first.stdout)
            again = self.openssl(*arguments, "-sess_in", "session.pem", stdin=request)
            self.assertIn("Hello: alice", again.stdout)
            self.assertIn("Reused, ", again.stdout)
            self.revoke(server)
            after = self.openssl(*arguments, "-sess_in", "session.pem", stdin=request)
            self.assertNotIn("Hello", after.stdout)
            self.authorize("alice", self.alice)
            poll("alice is back", lambda: self.curl_as("alice", server).returncode == 0)
        self.assertEqual(server.stop(), 0)
        self.assert_quiet(server)

    def test_over_a_restart(self) -> None:
        """A ticket of the server before would open the server after."""
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            server = self.serve()
            _, session = self.visit(server, version)
            self.assertEqual(server.stop(), 0)
            server = self.serve()
            resumed, _ = self.visit(server, version, session)
            self.assertFalse(resumed)
            self.assertEqual(server.stop(), 0)
            (self.certs / "authorized" / "alice.pem").unlink()
            server = self.serve()
            self.refused(server, version, session)
            self.assertEqual(server.stop(), 0)
            self.authorize("alice", self.alice)

    def test_over_a_reload(self) -> None:
        """A ticket from before a change of the server's pair would break the connection, or be judged by nobody."""
        for version in (SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION):
            server = self.serve()
            _, session = self.visit(server, version)
            fresh = make_pair("localhost", key=new_key("p384"), hosts=["localhost"])
            said = len(server.log.lines)
            self.put_server_pair(fresh)
            server.signal(signal.SIGHUP)
            server.log.wait_for(f"certificate is now {fresh.fingerprint}", after=said)
            resumed, _ = self.visit(server, version, session)
            self.assertFalse(resumed)
            self.revoke(server)
            self.refused(server, version, session)
            self.assertEqual(server.stop(), 0)
            self.assert_quiet(server)
            self.authorize("alice", self.alice)
