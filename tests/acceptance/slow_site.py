"""A front door with pages that take their time, for ``twistd -n -y``: wired by makeService, as ``twistd mtlsd`` is.

``MTLSD_TEST_OPTIONS`` holds the options, a JSON list; the answer to ``/held`` ends once the file
``MTLSD_TEST_RELEASE`` is there.
"""

from __future__ import annotations

import json
import os
from pathlib import Path

from twisted.application.service import Application, IServiceCollection, Service
from twisted.internet.interfaces import IPullProducer
from twisted.internet.task import LoopingCall
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.server import NOT_DONE_YET, Request
from zope.interface import implementer

from mtlsd.tap import Options, makeService
from mtlsd.web.site import make_root

#: Bytes of ``/big``: more than all buffers on the way, and never sent whole in a test.
BIG = 1 << 32


@implementer(IPullProducer)
class Zeros:
    """Writes zeros whenever the transport asks."""

    def __init__(self, request: Request) -> None:
        self._request = request

    def resumeProducing(self) -> None:
        self._request.write(bytes(1 << 16))

    def stopProducing(self) -> None:
        """Nothing is held."""


class Big(Resource):
    """A long download."""

    def render_GET(self, request: Request) -> int:
        request.setHeader(b"Content-Length", b"%d" % BIG)
        request.registerProducer(Zeros(request), False)
        return NOT_DONE_YET


class Waiting(Resource):
    """A request that waits, as for an event that does not come."""

    def render_GET(self, request: Request) -> int:
        # Its head goes out, so a client knows that its request has come this far.
        request.write(b"waiting\n")
        return NOT_DONE_YET


class Held(Resource):
    """Half a response at once, and the other half when it is released."""

    def __init__(self, release: Path) -> None:
        super().__init__()
        self._release = release

    def render_GET(self, request: Request) -> int:
        request.setHeader(b"Content-Length", b"10")
        request.write(b"first")
        looking = LoopingCall(self._look, request)
        gone = request.notifyFinish()
        gone.addBoth(lambda _: looking.stop())
        looking.start(0.02)
        return NOT_DONE_YET

    def _look(self, request: Request) -> None:
        if self._release.exists():
            request.write(b"-last")
            request.finish()


class Root(Resource):
    """The slow pages, and mtlsd's own."""

    def __init__(self, own: IResource, release: Path) -> None:
        super().__init__()
        self._own = own
        self.putChild(b"big", Big())
        self.putChild(b"waiting", Waiting())
        self.putChild(b"held", Held(release))

    def getChild(self, path: bytes, request: IRequest) -> IResource:
        found: IResource = self._own.getChildWithDefault(path, request)
        return found


def make_application() -> IServiceCollection:
    """Wire it, as twistd's plugin does."""
    options = Options()
    options.parseOptions(json.loads(os.environ["MTLSD_TEST_OPTIONS"]))
    service = makeService(options, root=Root(make_root(), Path(os.environ["MTLSD_TEST_RELEASE"])))
    made: IServiceCollection = Application("slow")
    assert isinstance(service, Service)
    service.setServiceParent(made)
    return made


application = make_application()
