"""PEM text: what counts as a certificate, as blank, and as damaged."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from mtlsd.errors import CertificateError
from mtlsd.registry.pem import certificates_in
from tests.pki import make_pair

ALICE = b"-----BEGIN CERTIFICATE-----"
END = b"-----END CERTIFICATE-----"


class CertificatesInTests(SynchronousTestCase):
    def test_one(self) -> None:
        """The file that openssl req -x509 makes would authorize nobody."""
        alice = make_pair()
        found = certificates_in(alice.pem)
        self.assertEqual((alice.der,), found.certificates)
        self.assertEqual((alice.leaf,), found.leaves)
        self.assertFalse(found.has_private_key)

    def test_several(self) -> None:
        """A client with two certificates could not rotate: only one of them would count."""
        pairs = [make_pair(), make_pair()]
        self.assertEqual(tuple(pair.der for pair in pairs), certificates_in(b"".join(pair.pem for pair in pairs)).certificates)

    def test_text_around(self) -> None:
        """The output of openssl x509 -text, which puts words before the certificate, would be called damaged."""
        alice = make_pair()
        self.assertEqual((alice.der,), certificates_in(b"Certificate:\n  Data:\n" + alice.pem + b"\nbye\n").certificates)

    def test_other_systems(self) -> None:
        """A file saved by a Windows editor, with its line ends and byte order mark, would be refused."""
        alice = make_pair()
        data = b"\xef\xbb\xbf" + alice.pem.replace(b"\n", b"\r\n")
        self.assertEqual((alice.der,), certificates_in(data).certificates)

    def test_old_label(self) -> None:
        """Certificates that old tools label X509 CERTIFICATE would not count."""
        alice = make_pair()
        self.assertEqual((alice.der,), certificates_in(alice.pem.replace(b" CERTIFICATE", b" X509 CERTIFICATE")).certificates)

    def test_blank(self) -> None:
        """Emptying a file, or leaving only a comment in it, would not revoke but count as damage."""
        for data in (b"", b"\n \t\n", b"# alice has left\n\n"):
            self.assertEqual((), certificates_in(data).certificates)

    def test_private_key(self) -> None:
        """Nobody would be told that a private key lies where every certificate is public."""
        alice = make_pair()
        found = certificates_in(alice.key_pem + alice.pem)
        self.assertTrue(found.has_private_key)
        self.assertEqual((alice.der,), found.certificates)

    def test_damaged(self) -> None:
        """A half-written or garbled file would pass as one without certificates, and revoke a client."""
        pem = make_pair().pem
        body = pem.split(b"\n", 1)[1]
        for data, why in (
            (pem[:-30], "without its END"),
            (body, "without its BEGIN"),
            (pem[:60] + b"\n" + pem, "without its END"),
            (pem.replace(END, b"-----END X509 CERTIFICATE-----"), "without its END"),
            (pem.replace(body[:4], b"!!!!"), "certificate 1: bad base64"),
            (pem + ALICE + b"\n" + END + b"\n", "certificate 2: "),
            (pem + ALICE + b"\nQUJD\n" + END + b"\n", "certificate 2: not a certificate"),
            (make_pair().key_pem, "no certificate in it, but PRIVATE KEY"),
            (pem.replace(b" CERTIFICATE", b" TRUSTED CERTIFICATE"), "but TRUSTED CERTIFICATE"),
            (make_pair().der, "looks like DER"),
            (b"hello", "no line"),
            (b"\0" * 4096, "no line"),
            (pem.decode().encode("utf-16"), "no line"),
            (b"-----BEGIN \x1b[2J-----\n", r"\x1b[2J"),
        ):
            error = self.assertRaises(CertificateError, certificates_in, data)
            self.assertIn(why, str(error))
            self.assertTrue(str(error).isprintable(), str(error))
