"""What is said of a client to the application behind the door, and what the client may not say of itself."""

from __future__ import annotations

import base64
import re
from collections.abc import Iterator
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


def claims(identity: Identity, certificate: bytes, address: str, host: bytes | None) -> Iterator[tuple[bytes, bytes]]:
    """Return the headers that tell an application who its client is.

    *certificate* is the leaf's DER, *address* the client's, *host* what it asked for.  Names, groups and fingerprints
    have no character that needs an escape; text from a certificate is not among them.
    """
    # RFC 9440 2.1: a Byte Sequence of RFC 8941.
    yield b"Client-Cert", b":%b:" % base64.b64encode(certificate)
    yield b"X-Client-Name", identity.client.encode("ascii")
    yield b"X-Client-Fingerprint", identity.certificate.fingerprint.encode("ascii")
    yield b"X-Client-Groups", ",".join(identity.groups).encode("ascii")
    yield b"X-Forwarded-For", address.encode("ascii")
    yield b"X-Forwarded-Proto", b"https"
    if host is not None:
        yield b"X-Forwarded-Host", host
