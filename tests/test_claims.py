"""What a client says of itself never reaches an application as the door's own word."""

from __future__ import annotations

import itertools
import re
from dataclasses import replace
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any, cast

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from mtlsd.identity import Certificate, Identity, Key, Tls
from mtlsd.routing.namedheaders import NamedHeaders
from mtlsd.web.application import environ_of
from mtlsd.web.claims import claim_lines, claims, is_claim, without_claims
from mtlsd.web.headers import HeaderNames, received
from tests.site_in_memory import ALICE, Gate

#: As the applications that trust them know them.
TRUSTED = (
    *("Client-Cert", "Client-Cert-Chain", "X-Client-Name", "X-Client-Fingerprint", "X-Client-Groups", "X-Client-Cert"),
    *("X-SSL-Client-Cert", "X-SSL-Client-S-DN", "SSL-Client-Cert", "SSL-Client-Verify", "X-Forwarded-For", "X-Forwarded-Proto"),
    *(
        "X-Forwarded-Host",
        "X-Forwarded-User",
        "X-Forwarded-Client-Cert",
        "Forwarded",
        "X-Real-IP",
        "Remote-User",
        "X-Remote-User",
    ),
    *("Remote-Groups", "X-Remote-Group", "X-MS-Client-Principal-Name", "X-Goog-Authenticated-User-Email", "Tailscale-User-Login"),
    *("Client-IP", "Proxy"),
    *("WL-Proxy-Client-Cert", "WL-Proxy-Client-IP", "WL-Proxy-SSL", "Proxy-Client-IP", "-WSCC", "-WSRU", "-WSSSL", "Iv-User"),
    *("Iv-Groups", "SM-User", "SM-UserDN", "SMUSER", "OAM-Remote-User", "OIDC-Claim-Sub", "OIDC-Access-Token"),
    *("Cf-Access-Authenticated-User-Email", "Cf-Access-Jwt-Assertion", "X-Amzn-Oidc-Identity", "X-Goog-Iap-Jwt-Assertion"),
    *("X-ClientCert", "X-ClientCert-DN", "SSLClientCert", "X-SSLClientCert", "X-Original-Forwarded-For"),
    *("X-Envoy-External-Address", "X-Envoy-Original-Path"),
    *("X-HTTP-Method-Override", "X-HTTP-Method", "X-Method-Override", "X-Original-Method"),
    *("X-ARR-ClientCert", "X-Amzn-Mtls-Clientcert", "True-Client-IP", "X-Auth-Request-Email", "X-Original-URL", "X-Rewrite-URL"),
)
HARMLESS = (
    "Host",
    "Accept",
    "Cookie",
    "Authorization",
    "X-Request-ID",
    "Forward",
    "X-Clientele",
    "Via",
    "User-Agent",
    "Content-Type",
    "Proxy-Status",
    "Remote",
    "Client",
    "X-HTTP-Method-Overrides",
    "Method",
    "OIDC",
    "SM",
    "X-Amzn-Trace-Id",
    "CF-Ray",
    "Smoke-User",
)


class ClaimTests(SynchronousTestCase):
    def test_each_that_is_trusted_somewhere(self) -> None:
        """One that is let through is an identity that anybody can write."""
        for name in TRUSTED:
            for spelling in (
                name,
                name.lower(),
                name.upper(),
                name.replace("-", "_"),
                name.replace("-", "."),
                name.lower().replace("-", "_", 1),
                name.replace("-", "!"),
                name.replace("-", "~").upper(),
            ):
                self.assertTrue(is_claim(spelling.encode()), spelling)

    def test_what_a_route_strips_besides(self) -> None:
        """A header by which an application of one's own is told who its client is could be the client's."""
        pairs = [(name, b"forged") for name in (b"X-Tenant", b"x_corp_user", b"X.Corp.Role", b"X-Tenants", b"X-Corp", b"Accept")]
        headers = received(pairs, HeaderNames())
        without_claims(headers, NamedHeaders.of(["x-tenant", "X-CORP-*"]))
        self.assertEqual([name for name, _ in headers.getAllRawHeaders()], [b"X-Tenants", b"X-Corp", b"Accept"])

    def test_the_others_stay(self) -> None:
        """A door that eats headers is one that people go round."""
        for name in HARMLESS:
            self.assertFalse(is_claim(name.encode()), name)

    @given(
        st.lists(
            st.tuples(
                st.sampled_from(TRUSTED + HARMLESS), st.integers(0, 255), st.sampled_from("-_.!#$%&'*+^`|~"), st.booleans()
            ),
            max_size=8,
        )
    )
    def test_any_headers(self, wanted: list[tuple[str, int, str, bool]]) -> None:
        """By an application that merges spellings, as WSGI and CGI do: nothing that it trusts is the client's."""
        pairs = []
        for name, bits, dash, _ in wanted:
            spelled = "".join(c.upper() if bits >> (at % 8) & 1 else c.lower() for at, c in enumerate(name)).replace("-", dash)
            pairs.append((spelled.encode(), b"forged"))
        headers = received(pairs, HeaderNames())
        without_claims(headers)
        merged = {re.sub(rb"[^a-z0-9]", b"_", name.lower()) for name, _ in headers.getAllRawHeaders()}
        for name in TRUSTED:
            self.assertNotIn(name.lower().replace("-", "_").encode(), merged)
        kept = {name.lower().replace("-", "_").encode() for name, _, _, _ in wanted if name in HARMLESS}
        self.assertEqual(merged, kept)

    def test_what_is_said(self) -> None:
        """RFC 9440 2.1: the certificate is base64 between colons; all of it is taken out of what clients send."""
        said = dict(claims(ALICE, b"DER", "192.0.2.7", b"localhost"))
        self.assertEqual(
            said,
            {
                b"Client-Cert": b":REVS:",
                b"X-Client-Name": b"alice",
                b"X-Client-Fingerprint": b"0123456789abcdef" * 4,
                b"X-Client-Groups": b"staff,ops",
                b"X-Forwarded-For": b"192.0.2.7",
                b"X-Forwarded-Proto": b"https",
                b"X-Forwarded-Host": b"localhost",
            },
        )
        self.assertTrue(all(is_claim(name) for name in said))
        self.assertNotIn(b"X-Forwarded-Host", dict(claims(ALICE, b"DER", "192.0.2.7", None)))

    def test_as_lines(self) -> None:
        """The same, and never what was true before: of another name, other groups, another certificate or address."""
        told = set()
        for identity, certificate, address, host in itertools.product(
            (ALICE, replace(ALICE, client="bob"), replace(ALICE, groups=()), replace(ALICE, groups=("ops", "staff"))),
            (b"DER", b"other"),
            ("192.0.2.7", "::1"),
            (b"h", b"i", None),
        ):
            lines = b"".join(b"%b: %b\r\n" % pair for pair in claims(identity, certificate, address, host))
            for _ in range(2):
                self.assertEqual(claim_lines(identity, certificate, address, host), lines)
            told.add(lines)
        other = replace(ALICE, certificate=replace(ALICE.certificate, fingerprint="f" * 64))
        self.assertIn(b"X-Client-Fingerprint: fff", claim_lines(other, b"DER", "192.0.2.7", b"h"))
        self.assertEqual(len(told), 4 * 2 * 2 * 3)


class EnvironTests(SynchronousTestCase):
    def environ(self, subject: str) -> dict[str, Any]:
        moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
        certificate = Certificate("ab" * 32, subject, moment, moment, Key("EC P-256", 256), 1)
        request = SimpleNamespace(gate=Gate(), requestHeaders=received([(b"Host", b"h")], HeaderNames()))
        return environ_of(cast(Any, request), Identity("alice", (), certificate, Tls("TLSv1.3", None, None, False)))

    def test_mod_ssls_names(self) -> None:
        """Applications that were behind Apache look for these."""
        environ = self.environ("CN=Alice,O=Works")
        self.assertEqual((environ["REMOTE_USER"], environ["SSL_CLIENT_VERIFY"]), ("alice", "SUCCESS"))
        self.assertEqual(environ["SSL_CLIENT_S_DN"], "CN=Alice,O=Works")
        self.assertEqual(environ["SSL_CLIENT_V_START"], "Jan  2 03:04:05 2026 GMT")
        self.assertTrue(environ["SSL_CLIENT_CERT"].startswith("-----BEGIN CERTIFICATE-----\nREVS\n"))
        self.assertEqual((environ["HTTPS"], environ["SSL_PROTOCOL"], environ["SSL_CIPHER"]), ("on", "TLSv1.3", ""))
        self.assertEqual((environ["HTTP_X_CLIENT_NAME"], environ["HTTP_X_FORWARDED_HOST"]), ("alice", "h"))

    def test_text_of_a_certificate(self) -> None:
        """A subject is whatever its maker liked: quotes, line ends and semicolons end a text somewhere."""
        self.assertEqual(self.environ('CN=a\\"b\\;c\u00e9\\0A')["SSL_CLIENT_S_DN"], "CN=a\\22b\\3Bc\\C3\\A9\\0A")
        self.assertEqual(self.environ("CN=a\r\nX: y\x00")["SSL_CLIENT_S_DN"], "CN=a\\0D\\0AX: y\\00")

    @given(st.text(max_size=30))
    def test_any_text(self, subject: str) -> None:
        """PEP 3333 wants latin-1; whoever writes a header of it wants one line."""
        self.assertRegex(self.environ(subject)["SSL_CLIENT_S_DN"], r"\A[ !#-&(-:<-~]*\Z")


class QuoteTests(SynchronousTestCase):
    def test_a_single_quote(self) -> None:
        """It ends a text in a shell, in SQL and in JavaScript."""
        environ = EnvironTests().environ("CN=O'Brien \\' --")
        self.assertEqual(environ["SSL_CLIENT_S_DN"], "CN=O\\27Brien \\27 --")
