"""A WSGI application behind the door, which is told who its client is."""

from __future__ import annotations

import re
import ssl
import threading
from collections.abc import Callable, Iterable
from typing import Any

from twisted.python.threadpool import ThreadPool
from twisted.web.resource import Resource
from twisted.web.wsgi import WSGIResource

from mtlsd.identity import Identity
from mtlsd.web.claims import claims
from mtlsd.web.paced import Environ, Flag, Taker, WsgiApplication, paced
from mtlsd.web.request import Request, identity

# RFC 4514 2.4 lets any character be written as its UTF-8 in hex.  An escaped one (`\"`) is written so as a whole.
_UNSAFE_IN_NAME = re.compile(r'\\?[^\x20-\x7e]|\\?[";\'\r\n]')


class _Daemon(threading.Thread):
    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options, daemon=True)


class ApplicationThreads(ThreadPool):
    """The threads of the applications, which wait for slow clients; apart from the reactor's, which look up names.

    The reactor waits for its own at the end, while an application's may be waiting for the reactor to take a piece of its
    answer.  Nobody waits for these: what was to be answered had its time while the service drained.
    """

    threadFactory = _Daemon

    def __init__(self, most: int) -> None:
        """*most* requests are answered at a time."""
        super().__init__(0, most, "application")
        # None is there before the first request: twistd forks first.
        self.start()


class Application(Resource):
    """Serves a WSGI application (PEP 3333) on *threads*."""

    isLeaf = True

    def __init__(
        self, reactor: Any, threads: Any, application: WsgiApplication, flag: Callable[[], Flag] = threading.Event
    ) -> None:
        super().__init__()
        self._flag = flag
        self._reactor = reactor
        self._threads = threads
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

        answer = paced(told, Taker(self._reactor, request, self._flag()))
        return WSGIResource(self._reactor, self._threads, answer).render(request)


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
