"""A WSGI application behind the door, which is told who its client is."""

from __future__ import annotations

import re
import ssl
from collections.abc import Callable, Iterable
from typing import Any, TypeAlias

from twisted.web.resource import Resource
from twisted.web.wsgi import WSGIResource

from mtlsd.identity import Identity
from mtlsd.web.claims import claims
from mtlsd.web.request import Request, identity

Environ: TypeAlias = dict[str, Any]

# RFC 4514 2.4 lets any character be written as its UTF-8 in hex.  An escaped one (`\"`) is written so as a whole.
_UNSAFE_IN_NAME = re.compile(r'\\?[^\x20-\x7e]|\\?[";\'\r\n]')


class Application(Resource):
    """Serves a WSGI application (PEP 3333), on the reactor's threads."""

    isLeaf = True

    def __init__(self, reactor: Any, application: Callable[[Environ, Any], Iterable[bytes]]) -> None:
        super().__init__()
        self._reactor = reactor
        self._application = application

    def render(self, request: Request) -> Any:
        """Have the application answer."""
        headers = request.requestHeaders.plain
        if headers.pop(b"Transfer-Encoding", None) is not None:
            # It is here, whole and decoded; without a length most applications would take it for nothing.
            headers[b"Content-Length"] = [b"%d" % request.content.seek(0, 2)]
            request.content.seek(0)
        more = environ_of(request, identity(request))

        def told(environ: Environ, start_response: Any) -> Iterable[bytes]:
            environ.update(more)
            return self._application(environ, start_response)

        return WSGIResource(self._reactor, self._reactor.getThreadPool(), told).render(request)


def environ_of(request: Request, client: Identity) -> Environ:
    """Return what a WSGI application is told of its client: the door's headers, and the names that mod_ssl has for it."""
    gate = request.gate
    certificate = gate.certificate()
    host = request.requestHeaders.getRawHeaders(b"Host", [None])[0]
    environ = {
        "HTTP_" + name.decode("ascii").upper().replace("-", "_"): value.decode("latin-1")
        for name, value in claims(client, certificate, gate.peer[0], host)
    }
    shown = client.certificate
    environ |= {
        "HTTPS": "on",
        "REMOTE_ADDR": gate.peer[0],
        "REMOTE_USER": client.client,
        "SSL_CLIENT_VERIFY": "SUCCESS",
        "SSL_CLIENT_S_DN": _ascii_name(shown.subject),
        "SSL_CLIENT_V_START": f"{shown.not_before:%b %e %H:%M:%S %Y} GMT",
        "SSL_CLIENT_V_END": f"{shown.not_after:%b %e %H:%M:%S %Y} GMT",
        "SSL_CLIENT_CERT": ssl.DER_cert_to_PEM_cert(certificate),
        "SSL_PROTOCOL": client.tls.version,
        "SSL_CIPHER": client.tls.cipher or "",
    }
    return environ


def _ascii_name(name: str) -> str:
    """Return an RFC 4514 name with nothing in it that ends a text or a line somewhere else."""
    return _UNSAFE_IN_NAME.sub(
        lambda found: "".join(f"\\{byte:02X}" for byte in found[0].removeprefix("\\").encode("utf-8")), name
    )
