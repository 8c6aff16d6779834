"""Twisted as it comes: a Site over CertificateOptions, for ``twistd -n -y``.

``BENCH_STOCK`` holds, as JSON: port, cert, key, client (the certificate that is let in), files, access_log (or null).
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from twisted.application.internet import SSLServer
from twisted.application.service import Application, IServiceCollection
from twisted.internet.ssl import Certificate, CertificateOptions, PrivateCertificate, TLSVersion, trustRootFromCertificates
from twisted.web.resource import Resource
from twisted.web.server import Request, Site
from twisted.web.static import File


class Hello(Resource):
    """Greets by the name in the certificate."""

    isLeaf = True

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", b"text/plain")
        # Read once a connection: it costs more than the rest of the page.
        channel = request.channel
        name = getattr(channel, "greets", None)
        if name is None:
            name = channel.greets = channel.transport.getPeerCertificate().get_subject().CN.encode()
        return b"Hello: %b\n" % name


class QuietSite(Site):
    """Without a line in the log for each request, which is what a Site without a logPath still writes."""

    def log(self, request: Request) -> None:
        """Say nothing."""


def make_application() -> IServiceCollection:
    given = json.loads(os.environ["BENCH_STOCK"])
    pair = PrivateCertificate.loadPEM(Path(given["cert"]).read_text() + Path(given["key"]).read_text())
    options = CertificateOptions(
        privateKey=pair.privateKey.original,
        certificate=pair.original,
        trustRoot=trustRootFromCertificates([Certificate.loadPEM(Path(given["client"]).read_text())]),
        raiseMinimumTo=TLSVersion.TLSv1_3,
    )
    root = Resource()
    root.putChild(b"hello", Hello())
    root.putChild(b"files", File(given["files"]))
    site = Site(root, logPath=given["access_log"].encode()) if given["access_log"] else QuietSite(root)
    made: IServiceCollection = Application("stock")
    SSLServer(given["port"], site, options, interface="127.0.0.1", backlog=1024).setServiceParent(made)
    return made


application = make_application()
