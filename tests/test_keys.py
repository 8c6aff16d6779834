"""The pairs that mtlsd makes."""

from __future__ import annotations

import ipaddress
import ssl
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, load_pem_private_key
from cryptography.x509.oid import ExtendedKeyUsageOID
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.client import is_verified
from mtlsd.errors import CertificateError
from mtlsd.identity import Certificate
from mtlsd.keys import MOST_DAYS, Hosts, NewPair, hosts_in, new_client_pair, new_server_pair, read_host
from mtlsd.policy import Allowed, decide
from mtlsd.registry.records import Authorization
from tests.pki import make_pair


def pumped(client: ssl.SSLObject, server: ssl.SSLObject, wires: tuple[ssl.MemoryBIO, ...]) -> None:
    """Carry a handshake through to its end, in memory.  Raises what either side raises."""
    to_client, from_client, to_server, from_server = wires
    done: set[ssl.SSLObject] = set()
    for _ in range(10):
        for side in (client, server):
            try:
                side.do_handshake()
                done.add(side)
            except ssl.SSLWantReadError:
                pass
            to_server.write(from_client.read())
            to_client.write(from_server.read())
        if len(done) == 2:
            return
    raise AssertionError("the handshake does not come to an end")


def visit(pair: NewPair, host: str) -> None:
    """Let a strict client, which trusts the pair's certificate and nothing else, visit *host*."""
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with tempfile.TemporaryDirectory() as name:
        crt, key = Path(name, "crt"), Path(name, "key")
        crt.write_bytes(pair.certificate_pem)
        key.write_bytes(pair.key_pem)
        server.load_cert_chain(crt, key)
    client = ssl.create_default_context(cadata=pair.certificate_pem.decode("ascii"))
    client.verify_flags |= ssl.VERIFY_X509_STRICT
    wires = tuple(ssl.MemoryBIO() for _ in range(4))
    pumped(
        client.wrap_bio(wires[0], wires[1], server_hostname=host), server.wrap_bio(wires[2], wires[3], server_side=True), wires
    )


class ServerPairTests(SynchronousTestCase):
    """What `mtlsd init` gives the server."""

    def setUp(self) -> None:
        self.now = datetime.now(UTC)
        self.pair = new_server_pair(["localhost", "www.example.org", "127.0.0.1", "::1"], self.now, 825)
        self.certificate = x509.load_der_x509_certificate(self.pair.der)

    def test_strict_client(self) -> None:
        """Lost: clients that pin the server's certificate and check strictly (Python 3.13, `curl --cacert`)."""
        for host in ("localhost", "www.example.org", "127.0.0.1", "::1"):
            visit(self.pair, host)

    def test_other_host(self) -> None:
        """Lost: the point of naming hosts; the certificate would pass for any server."""
        self.assertRaises(ssl.SSLCertVerificationError, visit, self.pair, "www.example.net")

    def test_is_no_authority(self) -> None:
        """Lost: whoever trusts the server's certificate would trust all that its key signs."""
        constraints = self.certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        self.assertFalse(constraints.value.ca)
        self.assertTrue(constraints.critical)

    def test_purpose(self) -> None:
        """Lost: clients that ask for a server's certificate to be one for servers."""
        usage = self.certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        self.assertEqual(list(usage), [ExtendedKeyUsageOID.SERVER_AUTH])

    def test_names_and_addresses(self) -> None:
        """Lost: a connection by address, which is checked against addresses and never against names."""
        named = self.certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        self.assertEqual(named.get_values_for_type(x509.DNSName), ["localhost", "www.example.org"])
        wanted = [ipaddress.ip_address("127.0.0.1"), ipaddress.ip_address("::1")]
        self.assertEqual(named.get_values_for_type(x509.IPAddress), wanted)

    def test_days(self) -> None:
        """Lost: a certificate that browsers take (825 days at most), or one that is good at once."""
        self.assertEqual(self.certificate.not_valid_after_utc, self.now.replace(microsecond=0) + timedelta(days=825))
        self.assertLess(self.certificate.not_valid_before_utc, self.now)

    def test_repeated_and_long_hosts(self) -> None:
        """Lost: `mtlsd init` on a machine whose name is longer than a subject may be."""
        long = ".".join(["a" * 40] * 4)
        pair = new_server_pair([long, long, "localhost"], self.now, 1)
        self.assertEqual(hosts_in(pair.der).names, (long, "localhost"))
        self.assertRegex(Certificate.from_der(pair.der).subject, r"\A2\.5\.4\.5=[0-9a-f]{16},CN=localhost\Z")
        self.assertRegex(Certificate.from_der(new_server_pair([long], self.now, 1).der).subject, r",CN=mtlsd\Z")

    def test_no_two_have_one_subject(self) -> None:
        """Lost: Python, at a client that trusts this certificate and the next: it finds them by their subjects."""
        first, second = (new_server_pair(["localhost"], self.now, days) for days in (100, 200))
        for one in (first, second):
            for trusted, taken in (([first, second], True), ([one], True), ([first if one is second else second], False)):
                self.assertEqual(is_verified(one.der, [other.der for other in trusted], self.now), taken)


class ClientPairTests(SynchronousTestCase):
    """What `mtlsd new` gives a client."""

    def test_certificate(self) -> None:
        """Lost: a pair that the server lets in, that says who it is, and that can sign nobody else."""
        now = datetime.now(UTC)
        pair = new_client_pair("alice", now, 365)
        certificate = x509.load_der_x509_certificate(pair.der)
        leaf = Certificate.from_der(pair.der)
        self.assertEqual((leaf.subject, leaf.key.label), ("CN=alice", "EC P-256"))
        self.assertEqual(decide(leaf, Authorization("alice", leaf, leaf.not_after), now).__class__, Allowed)
        self.assertFalse(certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca)
        usage = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
        self.assertEqual(list(usage), [ExtendedKeyUsageOID.CLIENT_AUTH])
        self.assertTrue(certificate.extensions.get_extension_for_class(x509.SubjectKeyIdentifier))

    def test_key_belongs(self) -> None:
        """Lost: a key that curl can use with the certificate, without asking for a passphrase."""
        pair = new_client_pair("alice", datetime.now(UTC), 1)
        key = load_pem_private_key(pair.key_pem, None).public_key()
        certificate = x509.load_pem_x509_certificate(pair.certificate_pem)
        form = Encoding.DER, PublicFormat.SubjectPublicKeyInfo
        self.assertEqual(key.public_bytes(*form), certificate.public_key().public_bytes(*form))

    def test_each_is_new(self) -> None:
        """Lost: two clients of one name would share a key."""
        one, two = (new_client_pair("alice", datetime.now(UTC), 1) for _ in range(2))
        self.assertNotEqual(one.key_pem, two.key_pem)

    def test_longest_name(self) -> None:
        """Lost: a client with the longest name that the contract allows."""
        self.assertEqual(Certificate.from_der(new_client_pair("a" * 64, datetime.now(UTC), 1).der).subject, "CN=" + "a" * 64)

    def test_refuses(self) -> None:
        """Lost: a plain error for a bad name, and for a life of no days or of thousands of years."""
        now = datetime.now(UTC)
        self.assertRaises(ValueError, new_client_pair, "../alice", now, 1)
        for days in (0, -1, MOST_DAYS + 1):
            self.assertRaises(ValueError, new_client_pair, "alice", now, days)


class ReadHostTests(SynchronousTestCase):
    """What may be given as --name."""

    def test_good(self) -> None:
        """Lost: a host as people type it: capitals, a dot at its end, an address in brackets, a wildcard."""
        for text, wanted in (
            ("WWW.Example.org.", "www.example.org"),
            ("my_service", "my_service"),
            ("*.example.org", "*.example.org"),
            ("xn--mnchen-3ya.de", "xn--mnchen-3ya.de"),
            ("[2001:DB8:0::1]", "2001:db8::1"),
            ("192.0.2.7", "192.0.2.7"),
        ):
            self.assertEqual(read_host(text), wanted)

    def test_bad(self) -> None:
        """Lost: a mistyped host would be found by the first client that fails, a year later."""
        for text in (
            "",
            ".",
            "a..b",
            "-a.org",
            "a-.org",
            "300.1.1.1",
            "a b",
            "münchen.de",
            "a" * 64,
            "a." * 130 + "a",
            "fe80::1%eth0",
            "a.*.b",
            "$(id)",
        ):
            self.assertRaises(ValueError, read_host, text)


class HostsTests(SynchronousTestCase):
    """What a server's certificate, made by anybody, says it is."""

    def test_covers(self) -> None:
        """Lost: `mtlsd init --name` would complain of a host that a wildcard names, or be silent about one that none does."""
        hosts = Hosts(("localhost", "*.example.org"), ("127.0.0.1",))
        for host in ("localhost", "a.example.org", "127.0.0.1"):
            self.assertTrue(hosts.covers(host), host)
        for host in ("example.org", "a.b.example.org", "127.0.0.2", "org"):
            self.assertFalse(hosts.covers(host), host)

    def test_best(self) -> None:
        """Lost: a curl line that works where it is pasted."""
        self.assertEqual(Hosts(("a.org", "localhost")).best(), "localhost")
        self.assertEqual(Hosts(("*.a.org", "b.org")).best(), "b.org")
        self.assertEqual(Hosts((), ("192.0.2.7",)).best(), "192.0.2.7")
        self.assertEqual(Hosts((), ("::1",)).best(), "[::1]")
        self.assertEqual(Hosts(common_name="c.org").best(), "c.org")
        self.assertEqual(Hosts().best(), "localhost")

    def test_recipe(self) -> None:
        """Lost: the curl line for a server's pair that plain openssl made, with a common name and nothing else."""
        self.assertEqual(hosts_in(make_pair("localhost").der), Hosts(common_name="localhost"))

    def test_hostile_names(self) -> None:
        """Lost: text from a certificate would end up in a line that is pasted into a shell."""
        self.assertEqual(hosts_in(make_pair("$(touch /tmp/x)").der).best(), "localhost")
        self.assertEqual(hosts_in(make_pair("x", hosts=["$(id)", "a.org"]).der).names, ("a.org",))

    def test_addresses_only(self) -> None:
        """Lost: the curl line for a server that has no name."""
        self.assertEqual(hosts_in(new_server_pair(["127.0.0.1"], datetime.now(UTC), 1).der), Hosts((), ("127.0.0.1",)))

    def test_damaged(self) -> None:
        """Lost: one clear line about a server's certificate that cannot be read."""
        self.assertRaises(CertificateError, hosts_in, b"junk")
