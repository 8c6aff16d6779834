"""``POST /.mtlsd/renew``: a client asks for its next certificate to be let in too.  docs/protocol.md has the exchange."""

from __future__ import annotations

import base64
import binascii
import json
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.logger import Logger
from twisted.python.failure import Failure
from twisted.web import server

from mtlsd.audit.events import rfc3339
from mtlsd.errors import CertificateError, MtlsdError
from mtlsd.identity import Identity
from mtlsd.proof import LABEL, LARGEST, SIZE
from mtlsd.registry.pem import certificates_in
from mtlsd.registry.renewals import NotRenewed, Origin, Renewed, Why
from mtlsd.web.request import Request, identity
from mtlsd.web.site import Branch

#: What is answered to each refusal: fixed texts, and nothing of what the operator is told.
ANSWERS = {
    Why.NOT_AUTHORIZED: (403, "your certificate is not authorized any more"),
    Why.NOT_PROVEN: (403, "the signature is not by the new certificate's key, for this connection"),
    Why.UNFIT: (403, "the new certificate may not be authorized: make a new key and a new certificate"),
    Why.KIND: (403, "a key of this kind is not let in (the server's setting enrol_keys)"),
    Why.SAME_KEY: (403, "the new certificate has the key of the old one: make a new key"),
    Why.TOO_LONG: (403, "the new certificate ends too late: make one for fewer days"),
    Why.TOO_MANY: (409, "you have two certificates already: use the newer one, and the older one ends"),
    Why.TOO_OFTEN: (429, "you have asked too often: try again in an hour"),
}


class Renewing(Protocol):
    """Who does it: :class:`mtlsd.enrol.renewal.Successions`."""

    def renew(self, client: Identity, der: bytes, signature: bytes, exporter: bytes, origin: Origin) -> Deferred[Renewed]:
        """Let *client* have a certificate too."""
        ...


class Renew(Branch):
    """Takes a client's next certificate, on a connection of TLS 1.3 on which its present one was proven."""

    allowedMethods = (b"POST",)
    # Twisted's would ask for a GET that is not there.
    render_HEAD: Any = None

    def __init__(self, renewing: Renewing) -> None:
        super().__init__()
        self._log = Logger(namespace="mtlsd")
        self._renewing = renewing

    def render_POST(self, request: Request) -> Any:
        """Look at the request, and have it decided."""
        client = identity(request)
        if client.tls.version != "TLSv1.3":
            return _said(request, 403, {"error": "a renewal is asked for over TLS 1.3"})
        if client.tls.resumed:
            # Its key was proven on another connection.
            return _said(request, 403, {"error": "not on a resumed connection: make a new one"})
        if (request.getHeader(b"content-type") or b"").partition(b";")[0].strip().lower() != b"application/json":
            # A page of somebody else's, in a browser that has a certificate, cannot send this without being asked.
            return _said(request, 415, {"error": "application/json is wanted"})
        # More than that has been refused already: Site.largest_body.
        asked = _read(request.content.read(LARGEST))
        if asked is None:
            return _said(
                request,
                400,
                {"error": 'a certificate and its key\'s signature are wanted: {"certificate": PEM, "signature": base64}'},
            )
        gate = request.gate
        waiting = _Waiting(request)
        done = self._renewing.renew(client, *asked, gate.exporter(LABEL, SIZE), Origin(gate.connection_id, gate.peer, client.tls))
        done.addCallbacks(
            lambda renewed: waiting.say(200, _told(renewed)), lambda failure: self._refuse(client, waiting, failure)
        )
        return server.NOT_DONE_YET

    def _refuse(self, client: Identity, waiting: _Waiting, failure: Failure) -> None:
        connection = waiting.request.gate.connection_id
        if failure.check(NotRenewed):
            error: Any = failure.value
            self._log.info(
                "{client} may not renew: {why} [{connection}]", client=client.client, why=str(error), connection=connection
            )
            status, text = ANSWERS[error.why]
            waiting.say(status, {"error": text})
            return
        if failure.check(MtlsdError):
            self._log.error(
                "{client} could not renew: {why} [{connection}]",
                client=client.client,
                why=str(failure.value),
                connection=connection,
            )
        else:
            self._log.failure("{client} could not renew [{connection}]", failure, client=client.client, connection=connection)
        waiting.say(500, {"error": "the server could not write: tell whoever looks after it"})


class _Waiting:
    """A request that is answered later, if its client is still there then."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self._is_there = True
        request.notifyFinish().addErrback(self._gone)

    def say(self, status: int, answer: dict[str, object]) -> None:
        if self._is_there:
            body = _said(self.request, status, answer)
            self.request.setHeader(b"Content-Length", b"%d" % len(body))
            self.request.write(body)
            self.request.finish()

    def _gone(self, failure: Failure) -> None:
        self._is_there = False


def _read(body: bytes) -> tuple[bytes, bytes] | None:
    """Return the certificate (DER) and the signature in a request; ``None`` for anything that is not exactly that."""
    try:
        told = json.loads(body)
        if not isinstance(told, dict) or told.keys() != {"certificate", "signature"}:
            return None
        (der,) = certificates_in(told["certificate"].encode("ascii")).certificates
        return der, base64.b64decode(told["signature"], validate=True)
    except (ValueError, TypeError, AttributeError, RecursionError, binascii.Error, CertificateError):
        return None


def _told(renewed: Renewed) -> dict[str, object]:
    return {
        "client": renewed.client,
        "fingerprint": renewed.fingerprint,
        "old": renewed.old,
        "old_until": rfc3339(renewed.old_until),
    }


def _said(request: Request, status: int, answer: dict[str, object]) -> bytes:
    """Begin an answer, and return its body: one line."""
    request.setResponseCode(status)
    request.setHeader(b"Content-Type", b"application/json")
    request.setHeader(b"Cache-Control", b"no-store")
    return json.dumps(answer).encode("ascii") + b"\n"
