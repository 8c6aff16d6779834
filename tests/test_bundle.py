"""A bundle, as text: whose each certificate is, and what is said of it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import NameOID
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.errors import CertificateError
from mtlsd.identity import is_client_name
from mtlsd.registry.bundle import Offer, free_name, issuers, name_like, read_bundle, read_member, written
from tests.pki import Pair, make_pair, new_key

NOW = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)


def named(offers: tuple[Offer, ...]) -> list[tuple[str, bool]]:
    return [(offer.name, offer.given) for offer in offers]


def authority(name: str = "Some CA", *, signs: bool = True, ca: bool = True) -> Pair:
    """Make a self-signed certificate that says what its key is for, as those of CA software do."""
    key = new_key()
    usage = dict.fromkeys(
        ("digital_signature", "content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "crl_sign"), False
    )
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=30))
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
        .add_extension(x509.KeyUsage(key_cert_sign=signs, encipher_only=False, decipher_only=False, **usage), critical=True)
    )
    return Pair(builder.sign(key, hashes.SHA256()), key)


class NamesTests(SynchronousTestCase):
    def test_lines(self) -> None:
        """What `export` wrote would come back under other names, and so with other rights."""
        one, two, three = make_pair("x"), make_pair("y"), make_pair("z")
        text = written([("alice", one.der), ("alice", two.der), ("bob@home", three.der)])
        self.assertEqual(text.splitlines()[0], b"# name: alice")
        bundle = read_bundle(text, "clients.pem")
        self.assertEqual(named(bundle.offers), [("alice", True), ("alice", True), ("bob@home", True)])
        self.assertEqual([offer.der for offer in bundle.offers], [one.der, two.der, three.der])
        self.assertEqual([offer.place for offer in bundle.offers], [f"clients.pem: certificate {nth}" for nth in (1, 2, 3)])
        self.assertEqual(bundle.warnings, ())

    def test_lines_as_people_write_them(self) -> None:
        """A name that was written by hand would be passed over, or go to the certificate after the next."""
        one, two, three = make_pair("x"), make_pair("y"), make_pair("z")
        text = b"#name:alice \r\n# since May\r\n" + one.pem + b"\n" + two.pem + b"# name: old\n \t# name: carol\t\n" + three.pem
        self.assertEqual(named(read_bundle(text, "-").offers), [("alice", True), ("y", False), ("carol", True)])

    def test_a_line_before_the_key(self) -> None:
        """Some tools write a key between the line and its certificate."""
        pair = make_pair("x")
        bundle = read_bundle(b"# name: alice\n" + pair.key_pem + pair.pem, "a.pem")
        self.assertEqual(named(bundle.offers), [("alice", True)])
        self.assertIn("a.pem holds a private key too: it was not copied", bundle.warnings[0])

    def test_odd_lines(self) -> None:
        """A name that is none has to reach whoever refuses it, and not be made into another one in silence."""
        for line, name in ((b"# name: ../x", "../x"), (b"# name:", ""), (b"# name: \xff", "\ufffd")):
            self.assertEqual(named(read_bundle(line + b"\n" + make_pair("x").pem, "-").offers), [(name, True)])

    def test_common_names(self) -> None:
        """A bundle from nginx has no names but these, and some are none: a path, a space, another script."""
        for common, name in (
            ("alice", "alice"),
            ("Carol Smith", "Carol_Smith"),
            ("a.b@c-d_e", "a.b@c-d_e"),
            ("../../etc/passwd", "etc_passwd"),
            (".hidden", "hidden"),
            ("-rf", "rf"),
            ("a\x1b[31m\n\x00b", "a__31m__b"),
            ("Zo\u00eb", "Zo_"),
            ("x" * 64, "x" * 64),
        ):
            (offer,) = read_bundle(make_pair(common).pem, "-").offers
            self.assertEqual((offer.name, offer.given), (name, False))

    def test_no_common_name(self) -> None:
        """A certificate without a name would have none, or another one at each import."""
        for common in ("\u738b\u5c0f\u660e", "..."):
            pair = make_pair(common)
            self.assertEqual(named(read_bundle(pair.pem, "-").offers), [(f"client-{pair.fingerprint[:8]}", False)])
        nameless = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "x")])
        builder = x509.CertificateBuilder().subject_name(nameless).issuer_name(nameless).serial_number(1)
        key = new_key()
        made = builder.public_key(key.public_key()).not_valid_before(NOW).not_valid_after(NOW).sign(key, hashes.SHA256())
        pair = Pair(made, key)
        self.assertEqual(named(read_bundle(pair.pem, "-").offers), [(f"client-{pair.fingerprint[:8]}", False)])

    @settings(deadline=None, database=None)
    @given(st.text(max_size=100))
    def test_never_out_of_the_folder(self, text: str) -> None:
        """A stranger would choose which file of the server is written."""
        name = name_like(text)
        self.assertTrue(not name or is_client_name(name), name)
        if name:
            for nth in (1, 2, 10, 12345):
                self.assertTrue(is_client_name(free_name(name, nth)))

    def test_numbers(self) -> None:
        """Of two with a long name, the second would have none."""
        self.assertEqual([free_name("alice", nth) for nth in (1, 2, 10)], ["alice", "alice-2", "alice-10"])
        self.assertEqual(free_name("x" * 64, 12), "x" * 61 + "-12")


class DamagedTests(SynchronousTestCase):
    def test_edges_and_base64(self) -> None:
        """Half of a bundle that was cut off in a copy would look like all of it."""
        pair = make_pair()
        for text in (pair.pem + pair.pem[:200], pair.pem.replace(b"MII", b"M!I", 1), b"nothing"):
            self.assertRaises(CertificateError, read_bundle, text, "-")
        self.assertEqual(read_bundle(b"# nobody\n", "-").offers, ())

    def test_one_that_cannot_be_read(self) -> None:
        """One odd certificate of 10,000 would keep the others out."""
        junk = b"-----BEGIN CERTIFICATE-----\nMAA=\n-----END CERTIFICATE-----\n"
        good = make_pair("alice")
        odd, offer = read_bundle(junk + good.pem, "x.pem").offers
        self.assertEqual((odd.leaf, odd.place, len(odd.fingerprint)), (None, "x.pem: certificate 1", 64))
        self.assertIn("not a certificate that can be read", odd.flaw)
        self.assertEqual((offer.leaf, offer.flaw), (good.leaf, ""))


class AuthoritiesTests(SynchronousTestCase):
    """nginx's file often holds a CA; here it would let in one certificate, and none of those that it has issued."""

    def warnings(self, *pairs: Pair) -> tuple[str, ...]:
        return read_bundle(b"".join(pair.pem for pair in pairs), "b.pem").warnings

    def test_the_recipe(self) -> None:
        """Plain `openssl req -x509` makes CA:TRUE: a warning for each of them would be a warning for nobody."""
        self.assertEqual(self.warnings(make_pair("alice"), make_pair("bob")), ())

    def test_has_issued_another(self) -> None:
        """Whoever takes a CA for a client believes that everybody is in."""
        above = make_pair("Some CA", key=new_key())
        clients = [make_pair(name, issuer=above, ca=False) for name in ("alice", "bob")]
        (warning,) = self.warnings(clients[0], above, clients[1])
        self.assertIn(
            f"b.pem: certificate 2: {above.fingerprint[:16]} is a CA, it has issued {clients[0].fingerprint[:16]}", warning
        )
        self.assertIn("it stands for one client, and nobody else is let in by it", warning)

    def test_a_namesake(self) -> None:
        """A certificate of the same name, whose key has signed nothing, would be called a CA."""
        above, namesake = make_pair("Some CA", key=new_key()), make_pair("Some CA", key=new_key())
        self.assertEqual(self.warnings(make_pair("alice", issuer=above, ca=False), namesake), ())
        # Nor does an odd key in the place of the issuer's stop the import.
        self.assertEqual(self.warnings(make_pair("alice", issuer=above, ca=False), make_pair("Some CA", key="dsa")), ())

    def test_says_so(self) -> None:
        """A CA that is alone in its file, as most are, would be taken for a client without a word."""
        (warning,) = self.warnings(authority())
        self.assertIn("says that it is a CA (CA:TRUE and keyCertSign)", warning)
        self.assertEqual(self.warnings(authority(signs=False)), ())
        self.assertEqual(self.warnings(authority(ca=False)), ())

    def test_many_of_one_name(self) -> None:
        """10,000 certificates of one name would be compared each with each."""
        above = make_pair("CA", key=new_key())
        others = [make_pair("CA", key=new_key()) for _ in range(5)]
        leaf = make_pair("alice", issuer=above, ca=False)
        offers = read_bundle(b"".join(pair.pem for pair in [*others, above, leaf]), "-").offers
        self.assertEqual(issuers(offers), {})
        offers = read_bundle(b"".join(pair.pem for pair in [above, *others, leaf]), "-").offers
        self.assertEqual(issuers(offers), {above.fingerprint: leaf.fingerprint})


class MemberTests(SynchronousTestCase):
    """A file of a folder."""

    def test_stem(self) -> None:
        """A file that is named after its client would be taken in under what the certificate says."""
        pem = make_pair("somebody").pem
        self.assertEqual(named(read_member(pem, "-", "alice").offers), [("alice", True)])
        self.assertEqual(named(read_member(pem, "-", "Carol Smith").offers), [("Carol_Smith", False)])
        self.assertEqual(named(read_member(pem, "-", "\u738b").offers), [("somebody", False)])
        self.assertEqual(named(read_member(b"# name: bob\n" + pem, "-", "alice").offers), [("bob", True)])

    def test_rotation(self) -> None:
        """A client in the middle of a rotation would come with one certificate only."""
        both = make_pair("alice").pem + make_pair("alice").pem
        self.assertEqual(named(read_member(both, "-", "alice").offers), [("alice", True)] * 2)

    def test_chain(self) -> None:
        """The CA above a client would be let in as that client."""
        above = make_pair("Some CA", key=new_key())
        leaf = make_pair("alice", issuer=above, ca=False)
        bundle = read_member(leaf.pem + above.pem, "-", "alice")
        self.assertEqual(([offer.der for offer in bundle.offers], bundle.warnings), ([leaf.der], ()))

    def test_a_bundle_among_them(self) -> None:
        """A hundred people would come in as one client, named after a file."""
        both = make_pair("alice").pem + make_pair("bob").pem
        error = self.assertRaises(CertificateError, read_member, both, "-", "clients")
        self.assertIn("2 certificates of several subjects in it: mtlsd import takes it by itself", str(error))
