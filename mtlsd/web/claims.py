"""What is said of a client to the application behind the door, and what the client may not say of itself."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterable
from functools import lru_cache

from mtlsd.identity import Identity
from mtlsd.routing.namedheaders import NamedHeaders, one_form
from mtlsd.web.headers import PlainHeaders

# Headers by which some application, framework or server is told who its client is, where it is, or which path it asks
# for.  WSGI and CGI merge spellings (`X_Client_Name`), and so may anything else.
_CLAIM = re.compile(
    rb"client-cert(-chain)?|(x-)?client-(cert|verify|s-dn|i-dn)(-.*)?|x-client-.*|x-ssl-.*|ssl-client-.*|x-tls-client-.*|x-forwarded-.*"
    rb"|forwarded|x-real-ip|(x-)?remote-user(-.*)?|x-remote-addr|true-client-ip|cf-connecting-ip|x-cluster-client-ip|x-arr-clientcert"
    rb"|x-amzn-mtls-.*|x-auth-request-.*|x-authenticated-.*|x-webauth-.*|x-original-ur[li]|x-rewrite-url"
    rb"|remote-(groups|name|email)|x-remote-group|x-ms-client-principal(-.*)?|x-goog-authenticated-user-.*|tailscale-user-.*"
    rb"|client-ip|x-originating-ip|fastly-client-ip"
    # Of other front doors: WebLogic's plug-in, WebSphere's ($WSCC, $WSRU, ...), WebSEAL, SiteMinder, Oracle's WebGate,
    # mod_auth_openidc, Cloudflare, AWS, Google, Envoy, ingress-nginx; and names that F5s and Apaches are told to set.
    rb"|wl-proxy-.*|proxy-client-ip|-ws[a-z]{2,3}|iv-.*|sm-.*|smuser|oam-.*|oidc-.*|cf-access-.*|x-amzn-oidc-.*|x-goog-iap-.*|x-envoy-.*"
    rb"|x-original-forwarded-.*|(x-)?(ssl-?)?clientcert(-.*)?"
    # A method other than the one that `methods` was asked about.
    rb"|x-http-method(-override)?|x-method-override|x-original-method"
    # CVE-2016-5385: CGI makes HTTP_PROXY of it, and what runs there asks the client's proxy.
    rb"|proxy"
)


@lru_cache(maxsize=1024)
def is_claim(name: bytes) -> bool:
    """Tell whether a header is one that an application may take for the door's word, in whatever spelling."""
    return _CLAIM.fullmatch(one_form(name)) is not None


def without_claims(headers: PlainHeaders, strip: NamedHeaders | None = None) -> None:
    """Take out of a request's *headers* what its client says of itself, and what is in *strip*."""
    plain = headers.plain
    for name in [name for name in plain if is_claim(name) or (strip and name in strip)]:
        del plain[name]


def claims(identity: Identity, certificate: bytes, address: str, host: bytes | None) -> Iterable[tuple[bytes, bytes]]:
    """Return the headers that tell an application who its client is.

    *certificate* is the leaf's DER, *address* the client's, *host* what it asked for.  Names, groups and fingerprints
    have no character that needs an escape; text from a certificate is not among them.
    """
    said = _said(identity.client, identity.groups, identity.certificate.fingerprint, certificate, address)
    return said if host is None else (*said, (b"X-Forwarded-Host", host))


def claim_lines(identity: Identity, certificate: bytes, address: str, host: bytes | None) -> bytes:
    """Return the :func:`claims` as the lines of a head."""
    lines = _lines(identity.client, identity.groups, identity.certificate.fingerprint, certificate, address)
    return lines if host is None else b"%bX-Forwarded-Host: %b\r\n" % (lines, host)


@lru_cache(maxsize=256)
def _lines(client: str, groups: tuple[str, ...], fingerprint: str, certificate: bytes, address: str) -> bytes:
    """Return what is the same for all requests of a client.  Whatever is said here is an argument: nothing can be out of date."""
    return b"".join(b"%b: %b\r\n" % said for said in _said(client, groups, fingerprint, certificate, address))


def _said(
    client: str, groups: tuple[str, ...], fingerprint: str, certificate: bytes, address: str
) -> tuple[tuple[bytes, bytes], ...]:
    return (
        # RFC 9440 2.1: a Byte Sequence of RFC 8941.
        (b"Client-Cert", b":%b:" % base64.b64encode(certificate)),
        (b"X-Client-Name", client.encode("ascii")),
        (b"X-Client-Fingerprint", fingerprint.encode("ascii")),
        (b"X-Client-Groups", ",".join(groups).encode("ascii")),
        (b"X-Forwarded-For", address.encode("ascii")),
        (b"X-Forwarded-Proto", b"https"),
    )
