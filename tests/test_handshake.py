"""Who is let in, with real handshakes in memory: the pin and nothing but the pin."""

from __future__ import annotations

import warnings
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from OpenSSL import SSL, crypto
from OpenSSL._util import lib
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.identity import fingerprint_of, hush_the_parser
from mtlsd.policy import Denied, Reason
from mtlsd.registry.records import Authorization, Snapshot, Tombstone
from mtlsd.settings import Settings
from mtlsd.tls.handshake import Handshake
from tests.memory_tls import Client, FrontDoor
from tests.pki import Pair, make_pair, new_key

#: The version of a certificate (RFC 5280 4.1.2.1), and one that there is not.
VERSION_3, VERSION_8 = b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07"
VERSIONS = {"TLSv1.2": SSL.TLS1_2_VERSION, "TLSv1.3": SSL.TLS1_3_VERSION}


class PinTests(SynchronousTestCase):
    """The identity is the SHA-256 of the whole leaf: no chain, no name and no key can stand in for it."""

    def setUp(self) -> None:
        self.front = FrontDoor()
        self.alice = make_pair("alice")
        self.front.authorize(alice=self.alice)

    def refused(self, pair: Pair | None, reason: str, **options: object) -> Client:
        """Assert that a client gets no byte, and that there is one verdict with *reason*."""
        client = self.front.connect(pair, **options)
        self.assertEqual(client.request(), b"")
        client.lose()
        self.assertEqual(self.front.verdicts()[-1], ("rejected", reason))
        self.assertEqual(len(self.front.sink.events), 1)
        self.assertEqual(self.front.served.served, [])
        self.front.sink.events.clear()
        return client

    def test_authorized(self) -> None:
        """An authorized client would be locked out, on either version of TLS."""
        for name, version in VERSIONS.items():
            client = self.front.connect(self.alice, version=version)
            self.assertEqual(client.request(), b"Hello: alice")
            event = self.front.last()
            self.assertEqual((event.event, event.client, event.fingerprint), ("accepted", "alice", self.alice.fingerprint))
            assert event.tls is not None
            self.assertEqual((event.tls.version, event.tls.resumed), (name, False))

    def test_every_kind_of_key(self) -> None:
        """A client with a key of a sound kind would be locked out, ML-DSA included."""
        for kind in ("p256", "p384", "p521", "ed25519", "ed448", "mldsa65", "rsa2048", "rsa4096"):
            pair = make_pair("client", key=kind)
            self.front.authorize(client=pair)
            self.assertEqual(self.front.connect(pair).request(), b"Hello: client", kind)

    def test_server_pairs(self) -> None:
        """A server with a key of a sound kind could not serve."""
        for kind in ("rsa2048", "rsa4096", "p384", "ed25519", "mldsa65"):
            front = FrontDoor(pair=make_pair("localhost", key=kind))
            front.authorize(alice=self.alice)
            self.assertEqual(front.connect(self.alice).request(), b"Hello: alice", kind)

    def test_unknown(self) -> None:
        """A stranger would be let in."""
        for version in VERSIONS.values():
            self.refused(make_pair("bad"), "unknown-certificate", version=version)

    def test_an_authorization_of_another(self) -> None:
        """A registry that mixes two certificates up would let a stranger in."""
        stranger = make_pair("bad")
        mixed_up = Authorization("alice", self.alice.leaf, self.alice.leaf.not_after)
        self.front.registry.publish(Snapshot({stranger.fingerprint: mixed_up}))
        self.refused(stranger, "unknown-certificate")

    def test_none(self) -> None:
        """A client without a certificate would be let in, or leave no trace: it never reaches the callback."""
        for version in VERSIONS.values():
            self.refused(None, "no-certificate", version=version)

    def test_minted_by_a_client(self) -> None:
        """Any authorized client could make new identities: its certificate says CA:TRUE, and its key signs."""
        minted = make_pair("alice", key=new_key(), issuer=self.alice)
        self.refused(minted, "unknown-certificate")
        self.refused(minted, "unknown-certificate", chain=[self.alice])

    def test_twin(self) -> None:
        """A certificate with the subject and serial number of an authorized one would pass for it."""
        twin = make_pair("alice", key=new_key(), serial=self.alice.certificate.serial_number)
        self.refused(twin, "unknown-certificate")

    def test_reissued(self) -> None:
        """A client could extend its own time: the same key in a new certificate is a new authorization."""
        self.refused(make_pair("alice", key=self.alice.key, ends=timedelta(days=9999)), "unknown-certificate")

    def test_chain_that_contains_an_authorized_one(self) -> None:
        """A stranger could borrow an identity by sending somebody's public certificate along."""
        self.refused(make_pair("bad", key=new_key()), "unknown-certificate", chain=[self.alice])

    def test_certificates_above_the_leaf_do_not_matter(self) -> None:
        """A client that sends its issuer along, as many do, would be locked out."""
        issuer = make_pair("issuer", key=new_key())
        bob = make_pair("bob", key=new_key(), issuer=issuer, ca=False)
        self.front.authorize(bob=bob)
        self.assertEqual(self.front.connect(bob, chain=[issuer]).request(), b"Hello: bob")
        self.assertEqual(self.front.connect(bob).request(), b"Hello: bob")

    def test_expired_issuer_does_not_matter(self) -> None:
        """An authorized leaf would stop working because something above it ended: only the leaf's dates count."""
        issuer = make_pair("issuer", key=new_key(), begins=timedelta(days=-9), ends=timedelta(days=-1))
        bob = make_pair("bob", key=new_key(), issuer=issuer)
        self.front.authorize(bob=bob)
        self.assertEqual(self.front.connect(bob, chain=[issuer]).request(), b"Hello: bob")

    def test_chain_too_long(self) -> None:
        """A stranger could make us verify signature after signature of a chain that nobody needs."""
        pairs = [make_pair("0", key=new_key())]
        for depth in range(1, 12):
            pairs.append(make_pair(str(depth), key=new_key(), issuer=pairs[-1]))
        leaf = pairs.pop()
        self.refused(leaf, "too-large", chain=list(reversed(pairs)))

    def test_dear_keys_above_the_leaf(self) -> None:
        """A stranger could have us check signatures that cost sixty handshakes, with keys nobody has."""
        front = self.front
        dear = rsa.RSAPublicNumbers(2**3071 + 1, 2**3071 + 3).public_key()
        for der in (make_pair("dear", key="dsa").der, _certificate_for(dear, make_pair("issuer"))):
            handshake = Handshake(SSL.Connection(front.context(), None), front.registry, front.now)
            certificate = crypto.load_certificate(crypto.FILETYPE_ASN1, der)
            self.assertIs(handshake.verify(certificate, 20, 1), False)
            self.assertEqual(handshake.failed(None), (Reason.TOO_LARGE, None))
            # And a good leaf does not mend it.
            leaf = crypto.load_certificate(crypto.FILETYPE_PEM, self.alice.pem)
            self.assertIs(handshake.verify(leaf, 0, 0), False)

    def test_weak_keys_above_the_leaf_do_not_matter(self) -> None:
        """A client whose issuer has an old key would be locked out, though the issuer decides nothing."""
        issuer = make_pair("issuer", key="rsa1024")
        bob = make_pair("bob", key=new_key(), issuer=issuer)
        self.front.authorize(bob=bob)
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
        context.use_certificate(crypto.load_certificate(crypto.FILETYPE_PEM, bob.pem))
        context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_PEM, bob.key_pem))
        context.add_extra_chain_cert(crypto.load_certificate(crypto.FILETYPE_PEM, issuer.pem))
        self.assertEqual(self.front.connect(bob, context=context).request(), b"Hello: bob")

    def test_endless_subject(self) -> None:
        """A stranger could have us take apart sixteen kilobytes of names for each refusal."""
        names = [x509.NameAttribute(NameOID.COMMON_NAME, f"{nth:060}") for nth in range(30)]
        pair = make_pair("x")
        builder = x509.CertificateBuilder(x509.Name(names), x509.Name(names), pair.key.public_key(), 5)
        now = datetime.now(UTC)
        signed = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(pair.key, hashes.SHA256())
        endless = Pair(signed, pair.key)
        self.front.connect(endless).lose()
        event = self.front.last()
        self.assertEqual((event.reason, event.subject), ("too-large", None))
        self.assertEqual(event.fingerprint, endless.fingerprint)

    def test_odd_certificate_says_nothing(self) -> None:
        """A stranger could write a hundred lines of our log with one certificate."""
        country = x509.NameAttribute(NameOID.COUNTRY_NAME, "XYZ" * 5, _validate=False)
        pair = make_pair("x")
        builder = x509.CertificateBuilder(x509.Name([country]), x509.Name([country]), pair.key.public_key(), 5)
        now = datetime.now(UTC)
        signed = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(pair.key, hashes.SHA256())
        self.front.connect(Pair(signed, pair.key)).lose()
        said = [warning["category"] for warning in self.flushWarnings()]
        self.assertIn(UserWarning, said, "the parser says nothing of its own: this test would prove nothing")
        with warnings.catch_warnings():
            hush_the_parser()
            self.front.connect(Pair(signed, pair.key)).lose()
        self.assertNotIn(UserWarning, [warning["category"] for warning in self.flushWarnings()])
        self.assertEqual(len(self.front.sink.events), 2)

    def test_huge_certificate(self) -> None:
        """A stranger could make us parse and log certificates of any size."""
        huge = make_pair("huge", padding=20_000)
        self.refused(huge, "too-large")
        self.front.authorize(huge=huge)
        self.refused(huge, "too-large")

    def test_excessive_message(self) -> None:
        """A certificate message over OpenSSL's limit would be logged as something else than it is."""
        self.refused(make_pair("alice"), "too-large", chain=[make_pair("x", padding=60_000) for _ in range(2)])

    def test_weak_keys(self) -> None:
        """A key that anybody can break would be an identity."""
        context = SSL.Context(SSL.TLS_CLIENT_METHOD)
        context.set_cipher_list(b"DEFAULT:@SECLEVEL=0")
        pair = make_pair("weak", key="rsa1024")
        context.use_certificate(crypto.load_certificate(crypto.FILETYPE_PEM, pair.pem))
        context.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_PEM, pair.key_pem))
        self.front.authorize(weak=pair)
        self.refused(pair, "weak-key", context=context)

    def test_dates(self) -> None:
        """A certificate would serve before its time, or after it."""
        for begins, ends, reason in ((-9, -1, "expired"), (1, 9, "not-yet-valid")):
            pair = make_pair("alice", begins=timedelta(days=begins), ends=timedelta(days=ends))
            self.front.authorize(alice=pair)
            client = self.front.connect(pair)
            client.lose()
            self.assertEqual(client.request(), b"")
            event = self.front.last()
            self.assertEqual((event.reason, event.client), (reason, "alice"))

    def test_tombstone_wins(self) -> None:
        """A revoked client would come back by putting its file back."""
        self.front.revoke(self.alice)
        self.refused(self.alice, "revoked")

    def test_hostile_subject(self) -> None:
        """A subject could forge a log line or drive the operator's terminal."""
        client = self.front.connect(make_pair("x\n\x1b[2J\u202eevil"))
        client.lose()
        event = self.front.last()
        self.assertTrue(event.in_words().isprintable())
        self.assertTrue(event.as_json().isascii() and event.as_json().isprintable())

    def test_unreadable_certificate(self) -> None:
        """A certificate that OpenSSL takes and we cannot read would be an error instead of a refusal."""
        for standing in ("unknown-certificate", "revoked"):
            front = FrontDoor()
            connection = SSL.Connection(front.context(), None)
            handshake = Handshake(connection, front.registry, front.now)
            odd = crypto.load_certificate(crypto.FILETYPE_ASN1, make_pair().der.replace(VERSION_3, VERSION_8, 1))
            if standing == "revoked":
                front.registry.publish(_tombstone_for(odd))
            self.assertIs(handshake.verify(odd, 18, 0), False)
            self.assertEqual(handshake.failed(None), (Reason(standing), None))
            self.assertIsNone(handshake.leaf)


class ProofTests(SynchronousTestCase):
    """Accepted is what is known when the handshake has completed, and not before."""

    def test_certificate_without_its_key(self) -> None:
        """Anybody with a client's public certificate would appear in the log as that client, or get in."""
        front = FrontDoor()
        alice = make_pair("alice")
        front.authorize(alice=alice)
        client = Client(front, alice, version=SSL.TLS1_2_VERSION)

        def flip(data: bytes) -> bytes:
            # CertificateVerify is handshake message 15, in a record of its own in the client's second flight.
            at = 0
            changed = bytearray(data)
            while at + 5 <= len(data):
                length = int.from_bytes(data[at + 3 : at + 5], "big")
                if data[at] == 22 and data[at + 5] == 15:
                    changed[at + 5 + length - 1] ^= 1
                at += 5 + length
            return bytes(changed)

        client.pump(flip)
        client.lose()
        self.assertEqual(front.verdicts(), [("rejected", "bad-handshake")])
        self.assertIsNone(front.last().client)
        self.assertEqual(front.last().fingerprint, alice.fingerprint)
        self.assertEqual(front.served.served, [])

    def test_revoked_between_callback_and_end(self) -> None:
        """A revocation that falls into a handshake would be missed."""
        front = FrontDoor()
        alice = make_pair("alice")
        front.authorize(alice=alice)
        judge = Handshake.verify

        def verify_and_revoke(handshake: Handshake, *arguments: object) -> bool:
            answer = judge(handshake, *arguments)  # type: ignore[arg-type]
            front.revoke(alice)
            return answer

        self.patch(Handshake, "verify", verify_and_revoke)
        client = front.connect(alice)
        self.assertEqual(client.request(), b"")
        client.lose()
        self.assertEqual(front.verdicts(), [("rejected", "revoked")])

    def test_decisions_before_the_end(self) -> None:
        """Somebody who asks too early would be told yes."""
        front = FrontDoor()
        alice = make_pair("alice")
        front.authorize(alice=alice)
        peer = front.raw()
        self.assertEqual(peer.gate.handshake.decide(), Denied(Reason.INTERNAL_ERROR))
        self.assertIsNone(peer.gate.authorize())
        self.assertIsNone(peer.gate.fingerprint)

    def test_completed_without_certificate(self) -> None:
        """A handshake that completed without a certificate, by whatever mistake, would let its peer in."""
        front = FrontDoor()
        handshake = Handshake(SSL.Connection(front.context(), None), front.registry, front.now)
        self.assertEqual(handshake.complete(), Denied(Reason.NO_CERTIFICATE))

    def test_callback_after_the_end(self) -> None:
        """A certificate shown after the handshake (renegotiation, post-handshake authentication) would be believed."""
        front = FrontDoor()
        alice = make_pair("alice")
        front.authorize(alice=alice)
        client = front.connect(alice)
        certificate = crypto.load_certificate(crypto.FILETYPE_PEM, alice.pem)
        self.assertIs(client.gate.handshake.verify(certificate, 0, 0), False)


class ResumptionTests(SynchronousTestCase):
    """No cached session can stand in for an authorization (CVE-2025-23419)."""

    def session_of(self, front: FrontDoor, alice: Pair, version: int) -> tuple[SSL.Session, SSL.Context]:
        client = front.connect(alice, version=version)
        self.assertEqual(client.request(), b"Hello: alice")
        client.close()
        session = client.tls.get_session()
        assert session is not None
        return session, client.context

    def resumed(self, client: Client) -> bool:
        return bool(lib.SSL_session_reused(client.tls._ssl))  # pyOpenSSL has no name for it

    def test_resumption_is_decided_again(self) -> None:
        """A revoked client would come back on a ticket: resumption skips the verify callback."""
        for version in VERSIONS.values():
            front = FrontDoor()
            alice = make_pair("alice")
            front.authorize(alice=alice)
            session, context = self.session_of(front, alice, version)

            again = front.connect(alice, context=context, session=session)
            self.assertEqual(again.request(), b"Hello: alice")
            self.assertTrue(self.resumed(again), "not resumed: this test would prove nothing")
            tls = front.last().tls
            assert tls is not None
            self.assertTrue(tls.resumed)
            again.close()

            front.revoke(alice)
            front.sink.events.clear()
            late = front.connect(alice, context=context, session=session)
            self.assertEqual(late.request(), b"")
            late.lose()
            self.assertEqual(front.verdicts(), [("rejected", "revoked")])

    def test_expired_on_resumption(self) -> None:
        """A ticket would outlive the certificate it was given for."""
        front = FrontDoor()
        alice = make_pair("alice", ends=timedelta(seconds=60))
        front.authorize(alice=alice)
        session, context = self.session_of(front, alice, SSL.TLS1_3_VERSION)
        front.clock.advance(61)
        late = front.connect(alice, context=context, session=session)
        self.assertEqual(late.request(), b"")
        late.lose()
        self.assertEqual(front.verdicts()[-1], ("rejected", "expired"))

    def test_tickets_off(self) -> None:
        """``--tickets off`` would be an empty promise."""
        front = FrontDoor(Settings(tickets=False))
        alice = make_pair("alice")
        front.authorize(alice=alice)
        for version in VERSIONS.values():
            session, context = self.session_of(front, alice, version)
            again = front.connect(alice, context=context, session=session)
            self.assertEqual(again.request(), b"Hello: alice")
            self.assertFalse(self.resumed(again))

    def test_reload_of_the_servers_pair(self) -> None:
        """A ticket of the old context would break, or outlive, a reload: it falls back to a full handshake."""
        front = FrontDoor()
        alice = make_pair("alice")
        front.authorize(alice=alice)
        session, context = self.session_of(front, alice, SSL.TLS1_3_VERSION)
        front.creator.context = front.context()
        again = front.connect(alice, context=context, session=session)
        self.assertEqual(again.request(), b"Hello: alice")
        self.assertFalse(self.resumed(again))

    def test_change_of_the_clients_pair(self) -> None:
        """A session holds the certificate that it began with: it would outlive the change to another one."""
        for version in VERSIONS.values():
            front = FrontDoor()
            old, new = make_pair("alice"), make_pair("alice")
            front.authorize(alice=old)
            session, context = self.session_of(front, old, version)
            front.authorize(alice=new)
            front.sink.events.clear()
            late = Client(front, None, context=context, session=session)
            late.tls.use_certificate(crypto.load_certificate(crypto.FILETYPE_PEM, new.pem))
            late.tls.use_privatekey(crypto.load_privatekey(crypto.FILETYPE_PEM, new.key_pem))
            late.pump()
            self.assertEqual(late.request(), b"")
            self.assertTrue(self.resumed(late), "not resumed: this test would prove nothing")
            late.lose()
            self.assertEqual(front.verdicts(), [("rejected", "unknown-certificate")])
            self.assertEqual(front.last().fingerprint, old.fingerprint)
            self.assertEqual(front.connect(new, version=version).request(), b"Hello: alice")


class ProtocolTests(SynchronousTestCase):
    """Versions, ciphers and application protocols."""

    def setUp(self) -> None:
        self.front = FrontDoor()
        self.alice = make_pair("alice")
        self.front.authorize(alice=self.alice)

    def test_old_versions(self) -> None:
        """TLS 1.0 and 1.1 would be spoken, or refused without a word in the log."""
        for newest in (SSL.TLS1_VERSION, SSL.TLS1_1_VERSION):
            self.front.connect(self.alice, newest=newest).lose()
            self.assertEqual(self.front.verdicts()[-1], ("rejected", "old-protocol"))

    def test_tls_min(self) -> None:
        """``--tls-min 1.3`` would be an empty promise."""
        front = FrontDoor(Settings(tls_min="1.3"))
        front.authorize(alice=self.alice)
        front.connect(self.alice, version=SSL.TLS1_2_VERSION).lose()
        self.assertEqual(front.verdicts(), [("rejected", "old-protocol")])
        self.assertEqual(front.connect(self.alice).request(), b"Hello: alice")

    def test_ciphers(self) -> None:
        """A cipher without forward secrecy or authenticated encryption would be spoken on TLS 1.2."""
        for cipher in (b"AES128-GCM-SHA256", b"ECDHE-ECDSA-AES128-SHA256", b"ECDHE-ECDSA-AES128-CCM8"):
            context = SSL.Context(SSL.TLS_CLIENT_METHOD)
            context.set_max_proto_version(SSL.TLS1_2_VERSION)
            context.set_cipher_list(cipher + b":@SECLEVEL=0")
            self.front.connect(self.alice, context=context).lose()
            self.assertEqual(self.front.verdicts()[-1], ("rejected", "no-common-protocol"), cipher)

    def test_the_ciphers_of_tls_1_3(self) -> None:
        """A client that has only one of them would be locked out; all others would pay for more bits than anybody needs."""
        for offered, spoken in (
            (b"TLS_AES_256_GCM_SHA384:TLS_AES_128_GCM_SHA256", "TLS_AES_128_GCM_SHA256"),
            (b"TLS_AES_256_GCM_SHA384", "TLS_AES_256_GCM_SHA384"),
            (b"TLS_CHACHA20_POLY1305_SHA256", "TLS_CHACHA20_POLY1305_SHA256"),
        ):
            self.assertEqual(self.front.connect(self.alice, suites=offered).request(), b"Hello: alice")
            tls = self.front.last().tls
            assert tls is not None
            self.assertEqual(tls.cipher, spoken)

    def test_only_sound_ciphers_are_offered(self) -> None:
        """A weak cipher would slip in with another OpenSSL."""
        for cipher in SSL.Connection(self.front.context(), None).get_cipher_list():
            self.assertRegex(cipher, r"^(TLS_|ECDHE-(ECDSA|RSA)-(AES(128|256)-GCM|CHACHA20))")
            self.assertNotIn("CCM", cipher)

    def test_alpn(self) -> None:
        """A client that speaks HTTP/1.1, or says nothing of protocols, would be locked out; another one let in."""
        for offered, spoken in (
            ([], b""),
            ([b"http/1.1"], b"http/1.1"),
            ([b"h2", b"http/1.1"], b"http/1.1"),
            ([b"http/1.0", b"http/1.1"], b"http/1.1"),
            ([b"http/1.0"], b"http/1.0"),
        ):
            client = self.front.connect(self.alice, alpn=offered)
            self.assertEqual(client.request(), b"Hello: alice")
            self.assertEqual(client.tls.get_alpn_proto_negotiated(), spoken)
        client = self.front.connect(self.alice, alpn=[b"h2"])
        client.lose()
        self.assertEqual(self.front.verdicts()[-1], ("rejected", "no-common-protocol"))
        assert client.error is not None
        self.assertIn("no application protocol", str(client.error))

    def test_no_ca_list(self) -> None:
        """The names of the clients would be told to everybody, and outgrow 64 KiB at some 1,680 clients."""
        client = self.front.connect(self.alice, version=SSL.TLS1_2_VERSION)
        self.assertEqual(client.tls.get_client_ca_list(), [])

    def test_post_quantum_by_default(self) -> None:
        """The key exchange would be open to somebody who records now and breaks it later."""
        self.front.connect(self.alice)
        tls = self.front.last().tls
        assert tls is not None
        self.assertEqual(tls.group, "X25519MLKEM768")


def _tombstone_for(certificate: crypto.X509) -> Snapshot:
    fingerprint = fingerprint_of(crypto.dump_certificate(crypto.FILETYPE_ASN1, certificate))
    return Snapshot({}, {fingerprint: Tombstone(fingerprint)})


def _certificate_for(key: rsa.RSAPublicKey, issuer: Pair) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "dear")])
    now = datetime.now(UTC)
    builder = x509.CertificateBuilder(name, issuer.certificate.subject, key, 5)
    signed = builder.not_valid_before(now).not_valid_after(now + timedelta(days=1)).sign(issuer.key, hashes.SHA256())
    return signed.public_bytes(Encoding.DER)
