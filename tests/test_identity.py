"""The identity of a client is the SHA-256 of its whole leaf certificate, and nothing else."""

from __future__ import annotations

import contextlib
import hashlib
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.errors import CertificateError
from mtlsd.identity import Certificate, Key, fingerprint_of, is_client_name, parse_fingerprint, public_key_sha256
from tests.pki import Pair, make_pair, shared_key

DIGITS = "0123456789abcdef" * 4


def with_another_key(pair: Pair, info: bytes) -> bytes:
    """Return the DER of *pair*'s certificate with another SubjectPublicKeyInfo of the same length in it."""
    own = pair.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert len(own) == len(info)
    return pair.der.replace(own, info)


class FingerprintTests(SynchronousTestCase):
    def test_is_the_sha256_of_the_der(self) -> None:
        """Operators compare it with what `openssl x509 -fingerprint -sha256` prints; and it is the identity."""
        pair = make_pair()
        self.assertEqual(pair.fingerprint, hashlib.sha256(pair.der).hexdigest())
        self.assertEqual(pair.fingerprint, pair.certificate.fingerprint(hashes.SHA256()).hex())
        self.assertEqual(fingerprint_of(b""), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855")

    def test_a_reissue_is_another(self) -> None:
        """A client could prolong its own authorization by signing new dates with the same key."""
        self.assertNotEqual(make_pair(serial=7).fingerprint, make_pair(serial=7, ends=timedelta(days=31)).fingerprint)

    def test_can_be_typed_in_any_way(self) -> None:
        """openssl prints upper case and colons; what is pasted has to be found."""
        colons = ":".join(DIGITS[at : at + 2] for at in range(0, 64, 2))
        for text in (DIGITS, DIGITS.upper(), colons, colons.upper(), f"  {DIGITS}\n"):
            self.assertEqual(parse_fingerprint(text), DIGITS)

    def test_a_prefix_serves_where_it_is_allowed(self) -> None:
        """Typing 64 digits to revoke somebody in a hurry is too much."""
        self.assertEqual(parse_fingerprint("01:23:45:67", 8), "01234567")
        self.assertEqual(parse_fingerprint(DIGITS, 8), DIGITS)

    def test_anything_else_is_refused(self) -> None:
        """A prefix that is too short, or text that is no fingerprint, would pick a wrong certificate."""
        for text in ("", "0123456", DIGITS + "0", "g1234567", "0x123456789", "01234567\n89abcdeg", "٠١٢٣٤٥٦٧"):
            error = self.assertRaises(ValueError, parse_fingerprint, text, 8)
            self.assertEqual(str(error), "a fingerprint is 8 to 64 hex digits")
        error = self.assertRaises(ValueError, parse_fingerprint, DIGITS[:63])
        self.assertEqual(str(error), "a fingerprint is 64 hex digits")

    @settings(deadline=None, database=None)
    @given(st.binary())
    def test_every_fingerprint_can_be_read_back(self, der: bytes) -> None:
        """A fingerprint that the server logs and the command does not take could not be revoked."""
        self.assertEqual(parse_fingerprint(fingerprint_of(der)), fingerprint_of(der))


class ClientNameTests(SynchronousTestCase):
    def test_ordinary_names(self) -> None:
        """These are what operators call their clients."""
        for name in ("alice", "a", "7", "backup-01.example.org", "alice@laptop", "A_b", "x" * 64):
            self.assertTrue(is_client_name(name), name)

    def test_names_that_leave_the_folder(self) -> None:
        """A name is a file's name: one with a slash, a leading dot or a line end writes where it should not."""
        hostile = ("", ".", "..", ".lock", "../x", "a/b", "a\\b", "-rf", "@a", "_a", "a b", "a\n", "a\0", "é", "a:b", "x" * 65)
        for name in hostile:
            self.assertFalse(is_client_name(name), name)


class CertificateTests(SynchronousTestCase):
    def test_is_read_from_der(self) -> None:
        """Every decision is made from these values."""
        now = datetime(2026, 11, 23, 12, tzinfo=UTC)
        pair = make_pair("alice", now=now, begins=timedelta(), ends=timedelta(days=1))
        self.assertEqual(
            Certificate.from_der(pair.der),
            Certificate(
                fingerprint=hashlib.sha256(pair.der).hexdigest(),
                subject="CN=alice",
                not_before=now,
                not_after=now + timedelta(days=1),
                key=Key("EC P-256", 256),
                size=len(pair.der),
            ),
        )

    def test_what_is_no_certificate_is_named(self) -> None:
        """A damaged certificate must be an error that is caught, not a traceback in the TLS callback."""
        for der in (b"", b"\x30", b"hello", make_pair().der[:-1], make_pair().der + b"\0", make_pair().pem):
            error = self.assertRaises(CertificateError, Certificate.from_der, der)
            self.assertTrue(str(error).startswith("not a certificate that can be read: "), str(error))
            self.assertNotIn("\n", str(error))

    def test_an_unknown_version_is_named(self) -> None:
        """An X.509 version that does not exist raises its own kind of error in the parser."""
        der = make_pair().der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x07", 1)
        self.assertRaises(CertificateError, Certificate.from_der, der)

    @settings(deadline=None, database=None)
    @given(st.binary(max_size=200))
    def test_bytes_from_strangers_raise_one_kind_of_error(self, der: bytes) -> None:
        """Any other exception would surface in a callback of OpenSSL."""
        with contextlib.suppress(CertificateError):
            Certificate.from_der(der)

    def test_a_subject_cannot_break_a_line(self) -> None:
        """A newline in a CN would forge a line in the log; ESC and U+202E would repaint the operator's terminal."""
        subject = make_pair("a\nb\x1b[31m\u202e\0é").leaf.subject
        self.assertTrue(subject.isprintable())
        self.assertNotIn("\x1b", subject)
        self.assertIn(r"\0A", subject)
        self.assertIn(r"\E2\80\AE", subject)
        self.assertTrue(subject.endswith("é"))

    def test_a_subject_of_several_parts(self) -> None:
        """RFC 4514: the last part comes first, and a comma in a value is escaped, so parts cannot be forged."""
        name = x509.Name(
            [
                x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Example, CN=root"),
                x509.NameAttribute(NameOID.COMMON_NAME, "alice"),
            ]
        )
        key = ec.generate_private_key(ec.SECP256R1())
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(name)
            .issuer_name(name)
            .public_key(key.public_key())
            .serial_number(1)
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=1))
            .sign(key, hashes.SHA256())
        )
        self.assertEqual(Certificate.from_der(made.public_bytes(Encoding.DER)).subject, r"CN=alice,O=Example\, CN=root")


class KeyTests(SynchronousTestCase):
    def test_every_kind_has_its_name(self) -> None:
        """The policy judges by these names, and the operator reads them in `mtlsd clients`."""
        for kind, key, label in (
            ("p256", Key("EC P-256", 256), "EC P-256"),
            ("p384", Key("EC P-384", 384), "EC P-384"),
            ("p521", Key("EC P-521", 521), "EC P-521"),
            ("k256", Key("EC secp256k1", 256), "EC secp256k1"),
            ("ed25519", Key("Ed25519", 256), "Ed25519"),
            ("ed448", Key("Ed448", 448), "Ed448"),
            ("mldsa65", Key("ML-DSA-65", 65), "ML-DSA-65"),
            ("rsa1024", Key("RSA", 1024), "RSA-1024"),
            ("rsa2048", Key("RSA", 2048), "RSA-2048"),
        ):
            leaf = make_pair(key=kind).leaf
            self.assertEqual((leaf.key, leaf.key.label), (key, label))

    def test_dsa_has_a_name_that_no_policy_allows(self) -> None:
        """DSA is read, so that its refusal says `weak-key` and not `bad-handshake`."""
        issuer = make_pair()
        public = shared_key("dsa").public_key()
        now = datetime.now(UTC)
        made = (
            x509.CertificateBuilder()
            .subject_name(issuer.certificate.subject)
            .issuer_name(issuer.certificate.subject)
            .public_key(public)
            .serial_number(1)
            .not_valid_before(now)
            .not_valid_after(now + timedelta(days=1))
            .sign(issuer.key, hashes.SHA256())
        )
        self.assertEqual(Certificate.from_der(made.public_bytes(Encoding.DER)).key, Key("DSA", 2048))

    def test_an_unusual_exponent_is_not_rsa_to_us(self) -> None:
        """With exponent 1 anybody can forge a signature; a huge one makes each handshake cost a signature."""
        modulus = shared_key("rsa2048")
        assert isinstance(modulus, rsa.RSAPrivateKey)
        n = modulus.public_key().public_numbers().n
        pair = make_pair(key="rsa2048")
        info = rsa.RSAPublicNumbers(65537, n).public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        exponents = {b"\x02\x03\x01\x00\x01": True, b"\x02\x03\x00\x00\x01": False, b"\x02\x03\x01\x00\x02": False}
        for encoded, sound in exponents.items():
            other = info[: -len(encoded)] + encoded
            der = with_another_key(pair, other)
            try:
                key = Certificate.from_der(der).key
            except CertificateError:
                self.assertFalse(sound)
                continue
            self.assertEqual(key.algorithm == "RSA", sound, key)

    def test_a_large_exponent_is_not_rsa_to_us(self) -> None:
        """The bound is where OpenSSL's own is for large keys: 33 bits."""
        numbers = shared_key("rsa2048")
        assert isinstance(numbers, rsa.RSAPrivateKey)
        n = numbers.public_key().public_numbers().n
        signer = make_pair(key="rsa2048")
        for exponent, algorithm in ((3, "RSA"), (2**33 - 1, "RSA"), (2**33 + 1, "RSA with an unusual exponent")):
            made = (
                x509.CertificateBuilder()
                .subject_name(signer.certificate.subject)
                .issuer_name(signer.certificate.subject)
                .public_key(rsa.RSAPublicNumbers(exponent, n).public_key())
                .serial_number(1)
                .not_valid_before(datetime.now(UTC))
                .not_valid_after(datetime.now(UTC) + timedelta(days=1))
                .sign(signer.key, hashes.SHA256())
            )
            self.assertEqual(Certificate.from_der(made.public_bytes(Encoding.DER)).key.algorithm, algorithm)

    def test_a_key_that_cannot_be_read_is_unknown(self) -> None:
        """A key of a kind that does not exist yet is a `weak-key`, which an operator can act on."""
        pair = make_pair(key="ed25519")
        strange = with_another_key(
            pair, bytes.fromhex("302a300506032b6577032100") + b"\x07" * 32
        )  # 1.3.101.119, which nobody uses for certificates
        self.assertEqual(Certificate.from_der(strange).key, Key("unknown", 0))

    def test_a_key_exchange_key_is_unknown(self) -> None:
        """An X25519 key cannot sign, so it cannot prove anything."""
        pair = make_pair(key="ed25519")
        strange = with_another_key(pair, bytes.fromhex("302a300506032b656e032100") + b"\x07" * 32)
        self.assertEqual(Certificate.from_der(strange).key, Key("unknown", 0))


class PublicKeyTests(SynchronousTestCase):
    def test_is_the_same_for_a_reissue(self) -> None:
        """A tombstone tells by it that a new certificate has the key of a revoked one."""
        first, second = make_pair(), make_pair(serial=9)
        self.assertEqual(public_key_sha256(first.der), public_key_sha256(second.der))
        info = first.certificate.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
        self.assertEqual(public_key_sha256(first.der), hashlib.sha256(info).hexdigest())

    def test_differs_for_another_key(self) -> None:
        """Strangers would be tied to one another."""
        self.assertNotEqual(public_key_sha256(make_pair().der), public_key_sha256(make_pair(key="p384").der))

    def test_what_cannot_be_read_is_named(self) -> None:
        """Revoking a certificate with a strange key must end in one line, not in a traceback."""
        strange = with_another_key(make_pair(key="ed25519"), bytes.fromhex("302a300506032b6577032100") + b"\x07" * 32)
        for der in (b"nothing", strange):
            error = self.assertRaises(CertificateError, public_key_sha256, der)
            self.assertTrue(str(error).startswith("not a public key that can be read: "), str(error))
            self.assertNotIn("\n", str(error))
