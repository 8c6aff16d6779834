"""The site: a twisted.web site for authenticated transports, and the few resources that mtlsd has of its own."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, cast

from twisted.internet.interfaces import IReactorTime
from twisted.web import server
from twisted.web.http import Request as HTTPRequest
from twisted.web.http import datetimeToString
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource

from mtlsd.audit.events import rfc3339, tls_as_dict
from mtlsd.deadlines import Deadlines
from mtlsd.proof import LARGEST
from mtlsd.routing.rules import RESERVED
from mtlsd.settings import Settings
from mtlsd.web.accesslog import AccessLog
from mtlsd.web.channel import Channel
from mtlsd.web.headers import HeaderNames
from mtlsd.web.heads import KnownHeads
from mtlsd.web.pages import HomePage
from mtlsd.web.request import Request, identity

if TYPE_CHECKING:
    from mtlsd.web.router import Router

_NOTHING: Mapping[bytes, IResource] = MappingProxyType({})
_OWN = RESERVED.removeprefix("/").encode()


class Site(server.Site):
    """Serves a tree of resources to clients that were let in.

    HTTP/1.1 only, whatever else is importable: HTTP/2 has no channel of ours (field note 17), so no deadlines and no
    identity.
    """

    noisy = False

    def __init__(
        self,
        root: IResource,
        *,
        settings: Settings,
        deadlines: Deadlines,
        access_log: AccessLog | None,
        reactor: IReactorTime,
    ) -> None:
        # Twisted's timeout starts anew at every byte: the channel has deadlines of its own.
        super().__init__(root, requestFactory=Request, timeout=None, reactor=reactor)
        self.settings = settings
        self.deadlines = deadlines
        self.access_log = access_log
        #: Who may ask for what, by the configuration in force; ``None`` where there is none.  Swapped whole.
        self.router: Router | None = None
        self.names = HeaderNames()
        self.heads = KnownHeads()
        self._date_since = 0
        self._date_line = b""

    def buildProtocol(self, addr: object) -> Channel:  # type: ignore[override]
        return Channel(self)

    def date_line(self) -> bytes:
        """Return the header line with the date; it is the same for a second."""
        now = time.time()
        if not self._date_since <= now < self._date_since + 1:
            self._date_since = int(now)
            self._date_line = b"Date: %b\r\n" % datetimeToString(now)
        return self._date_line

    def startFactory(self) -> None:
        """Begin.  Twisted's would keep a clock ticking for an access log that is not ours."""

    def stopFactory(self) -> None:
        """End: there is nothing to end."""

    def acceptableProtocols(self) -> list[bytes]:
        return [b"http/1.1"]

    def getResourceFor(self, request: Any) -> IResource | None:
        """Return the resource for a request: twisted.web's way down the tree, without its detours.

        ``None``: the rules do not let it go there, and it has been answered.
        """
        found: Any = self.resource
        if self.router is not None:
            request.identity = self.router.joined(request.identity)
            found = self.router.find(request, request.identity)
            if found is None:
                return None
        request.sitepath = request.prepath[:]
        prepath, postpath = request.prepath, request.postpath
        while postpath and not found.isLeaf:
            name = postpath.pop(0)
            prepath.append(name)
            found = found.getChildWithDefault(name, request)
        return cast(IResource, found)

    def largest_body(self, target: bytes) -> int:
        """Return the bytes that the body of a request for *target* may have; 0: any number.

        mtlsd's own pages take what a renewal may have, whatever the setting: more would only fill the disk before it is refused.
        """
        most = self.settings.max_body
        if isinstance(self.resource, Own) and (self.router is None or self.router.is_own(target)):
            return min(most, LARGEST) if most else LARGEST
        return most

    def log(self, request: HTTPRequest) -> None:
        """Called for every request that has ended."""
        if self.access_log is not None:
            self.access_log.answered(cast(Request, request))


class Branch(Resource):
    """A resource whose unknown children are one plain line, not Twisted's page."""

    def getChild(self, path: bytes, request: IRequest) -> IResource:
        return Missing()


class Missing(Resource):
    """What is not there, and nothing below it either.  To every method, so that nobody learns what else is not there."""

    isLeaf = True

    def render(self, request: Request) -> int:
        request.answer(404, "no such page")
        return server.NOT_DONE_YET


class Own(Branch):
    """mtlsd's own tree: at ``/``, or below ``/.mtlsd`` where there are routes.  What programs ask for is there in both cases."""

    def __init__(self, below: Mapping[bytes, IResource]) -> None:
        super().__init__()
        self._below = Branch()
        for name, resource in below.items():
            self._below.putChild(name, resource)

    def getChild(self, path: bytes, request: IRequest) -> IResource:
        here = cast(Request, request)
        if here.prepath == [_OWN]:
            return self._below if here.postpath else Missing()
        return self._below.getChildWithDefault(path, request) if here.prepath == [_OWN, path] else Missing()


class Home(Branch):
    """Who the browser's user is to this server, as a page."""

    def __init__(self, page: HomePage) -> None:
        super().__init__()
        self._page = page

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", b"text/html; charset=utf-8")
        request.setHeader(b"Cache-Control", b"no-store")
        request.setHeader(b"Content-Security-Policy", self._page.policy.encode())
        request.setHeader(b"X-Content-Type-Options", b"nosniff")
        request.setHeader(b"Referrer-Policy", b"no-referrer")
        return self._page.html(identity(request))


class Hello(Branch):
    """``Hello: NAME``: the shortest proof that both ends know each other."""

    def render_GET(self, request: Request) -> bytes:
        request.setHeader(b"Content-Type", b"text/plain; charset=utf-8")
        request.setHeader(b"Cache-Control", b"no-store")
        return f"Hello: {identity(request).client}\n".encode()


class WhoAmI(Branch):
    """The identity of the client, as JSON."""

    def render_GET(self, request: Request) -> bytes:
        peer = identity(request)
        request.setHeader(b"Content-Type", b"application/json")
        request.setHeader(b"Cache-Control", b"no-store")
        facts = {
            "client": peer.client,
            "fingerprint": peer.certificate.fingerprint,
            "subject": peer.certificate.subject,
            "not_before": rfc3339(peer.certificate.not_before),
            "not_after": rfc3339(peer.certificate.not_after),
            "groups": list(peer.groups),
            "tls": tls_as_dict(peer.tls),
        }
        return json.dumps(facts, indent=2).encode() + b"\n"


def make_root(now: Callable[[], datetime] | None = None, below: Mapping[bytes, IResource] = _NOTHING) -> IResource:
    """Return the tree: ``/``, ``/hello`` and ``/whoami``; and what is *below* ``/.mtlsd/``, by its name there.

    *now* returns the wall-clock time, aware, for the page.
    """
    root = Own(below)
    root.putChild(b"", Home(HomePage(now or _now)))
    root.putChild(b"hello", Hello())
    root.putChild(b"whoami", WhoAmI())
    return root


def _now() -> datetime:
    return datetime.now(UTC)
