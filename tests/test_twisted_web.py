"""twisted.web on our channel: Twisted's own tests of its Request, and its resources beside its own channel.

What does not apply, of Twisted's tests:

* ``test_http``'s tests of HTTPChannel (``HTTP1_0Tests`` to ``ChannelProductionTests``): their requests have no Host, some
  have lines that end in a bare LF or go on in the next, and their timeouts start anew with every byte.  Ours refuses the
  first and has no such timeouts; tests/test_channel.py and tests/test_parser.py stand in their place.
* tests of ``DummyRequest``, of resources on a ``DummyRequest`` (all of ``test_static``, ``test_vhost`` and ``test_resource``,
  most of ``test_cgi``) and of access log formats of Twisted's: nothing of ours is on their way.
* ``test_xmlrpc``, ``test_proxy``, ``test_distrib`` and ``test_websocket``: sockets, or a channel of their own, which is
  HTTPChannel; ``test_http.SecurityTests`` to ``ChunkingTests`` and the sanitization tests: HTTPChannel, codings, the client.
* of the classes that are run, those tests in ``NOT_OURS`` below, each with its reason.
"""

from __future__ import annotations

import os
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet import _producer_helpers
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock, Cooperator
from twisted.internet.testing import StringTransport
from twisted.python.filepath import FilePath
from twisted.python.threadpool import ThreadPool
from twisted.trial.reporter import TestResult
from twisted.trial.unittest import SynchronousTestCase
from twisted.web import http, server, static, util, vhost
from twisted.web.resource import EncodingResourceWrapper, Resource
from twisted.web.test import test_http, test_util, test_web, test_wsgi
from twisted.web.wsgi import WSGIResource

from mtlsd.web.headers import HeaderNames
from mtlsd.web.request import Request
from tests.site_in_memory import ALICE, FrontDoor, ask

#: The classes of Twisted's tests in which requests are twisted.web's.
THEIRS: tuple[type, ...] = (
    test_http.RequestTests,
    test_http.QueryArgumentsTests,
    test_http.DeprecatedRequestAttributesTests,
    test_web.RequestTests,
    test_web.SiteTest,
    test_web.SessionTests,
    test_web.ConditionalTests,
    test_web.GzipEncoderTests,
    test_web.RememberURLTests,
    test_web.NewRenderTests,
    test_web.AllowedMethodsTests,
    test_web.TestRFC9112Section932,
    test_util.RedirectToTests,
    test_util.ParentRedirectTests,
    test_wsgi.WSGIResourceTests,
    test_wsgi.EnvironTests,
    test_wsgi.InputStreamBytesIOTests,
    test_wsgi.InputStreamTemporaryFileTests,
    test_wsgi.StartResponseTests,
    test_wsgi.ApplicationTests,
)

#: Twisted's tests of its Request that cannot hold for ours, and why.
NOT_OURS: dict[str, dict[type, tuple[str, ...]]] = {
    "ours has the Content-Type that twisted.web.server.Request adds": {
        test_http.RequestTests: (
            "test_firstWrite",
            "test_firstWriteHTTP11Chunked",
            "test_firstWriteLastModified",
            "test_lastModifiedAlreadyWritten",
        ),
    },
    "they spell the name of the class": {test_http.RequestTests: ("test_reprInitialized", "test_reprUninitialized")},
    "they want a request that nobody answers, as those of twisted.web.http are; ours are answered by the site's resources": {
        test_http.RequestTests: ("test_finishProducesLog", "test_finishCleansConnection"),
    },
    "they keep a finished request by having it queued, which Twisted has not done since 16.3": {
        test_web.RequestTests: (
            "testPrePathURLHTTPPortAndSSL",
            "testPrePathURLSSLNonDefault",
            "testPrePathURLSSLPortAndSSL",
        ),
    },
    "ours says what is wrong in one plain line, and of a failure only the connection's id: no page, and nothing to be quoted": {
        test_web.RequestTests: (
            "test_rejectNonOPTIONSStar",
            "test_processingFailedNoTraceback",
            "test_processingFailedNoTracebackByDefault",
        ),
        test_web.AllowedMethodsTests: ("test_notAllowedQuoting", "test_notImplementedQuoting"),
        test_web.NewRenderTests: ("test_noBytesResult",),
    },
    "ours never shows a traceback, whatever a site says": {
        test_web.RequestTests: (
            "test_processingFailedDisplayTraceback",
            "test_processingFailedDisplayTracebackHandlesUnicode",
        ),
    },
    "ours knows the methods of HTTP: CONNECT, where a resource has none, is 405 and not 501 (RFC 9110 15.6.2)": {
        test_web.NewRenderTests: ("testBadMethods",),
    },
    "ours writes no line of log for each HEAD that a resource answers as a GET, whose body is eaten there and here": {
        test_web.NewRenderTests: ("testImplicitHead",),
    },
    "their resource renders a str: 500 there and here, but ours logs it as the error that it is": {
        test_web.RememberURLTests: ("testRoot", "testSimple"),
    },
    "Date and Server are the channel's to write, of which theirs, here, knows nothing": {
        test_wsgi.StartResponseTests: (
            "test_headers",
            "test_applicationProvidedContentType",
            "test_applicationProvidedServerAndDate",
        ),
    },
}


class OurRequest(Request):
    """Our Request on the channel of Twisted's tests, which knows no client and is no channel of ours."""

    def __init__(self, channel: Any, queued: object = None, parsePOSTFormSubmission: bool | None = None) -> None:
        site: Any = getattr(channel, "site", None)
        transport = channel.transport
        if site is None:
            site = channel.site = server.Site(Resource())
        channel.flush = lambda: None
        transport.authorize = lambda: ALICE
        transport.connection_id = "c0ffee-1"
        super().__init__(channel)
        if parsePOSTFormSubmission is not None:
            self._parsePOSTFormSubmission = parsePOSTFormSubmission


class OverOurs:
    """Has a test of Twisted's make our Request where it would make its own."""

    def setUp(self) -> None:
        super().setUp()  # type: ignore[misc]
        # By each name under which Twisted's tests come to it: a class that has it as an attribute keeps what it was made with.
        for place, name in (
            *((module, "Request") for module in (http, server, test_wsgi, test_util)),
            *((server.Site, "requestFactory"), (http.HTTPChannel, "requestFactory")),
        ):
            self.patch(place, name, OurRequest)  # type: ignore[attr-defined]
        # Some give a request another site after it was made.
        site: Any = server.Site
        site.names = HeaderNames()
        self.addCleanup(delattr, site, "names")  # type: ignore[attr-defined]
        self.patch(site, "log", lambda _site, _request: None)  # type: ignore[attr-defined]


class OverOursInWSGI(OverOurs):
    """The same where it is the default of an argument."""

    def requestFactoryFactory(self, requestClass: type | None = None) -> Any:
        return super().requestFactoryFactory(requestClass or OurRequest)  # type: ignore[misc]


def over_ours(tests: type, *, whole: bool = False) -> Any:
    """Return the class *tests* of Twisted's, over our Request and without what NOT_OURS names, or the *whole* of it.

    A new class, not one derived from it: trial finds what a base class has, whatever the derived one says.
    """
    left_out = {"__dict__", "__weakref__"}
    if not whole:
        left_out |= {name for classes in NOT_OURS.values() for name in classes.get(tests, ())}
    kept = {name: value for name, value in vars(tests).items() if name not in left_out}
    ours = OverOursInWSGI if issubclass(tests, test_wsgi.WSGITestsMixin) else OverOurs
    return type(
        f"Our{tests.__module__.rpartition('.')[2]}{tests.__name__}", (ours, *tests.__bases__), {**kept, "__module__": __name__}
    )


# Where trial looks for them.
globals().update({case.__name__: case for case in map(over_ours, THEIRS)})


class NotOursTests(SynchronousTestCase):
    """The list of what is left out."""

    def test_names(self) -> None:
        """A test that Twisted no longer has, or that holds for ours, would stay on the list: nobody would know what is left out."""
        for reason, classes in NOT_OURS.items():
            for tests, names in classes.items():
                self.assertIn(tests, THEIRS)
                for name in names:
                    result = TestResult()
                    over_ours(tests, whole=True)(name).run(result)
                    self.assertEqual((result.testsRun, result.wasSuccessful()), (1, False), (name, reason))


class AtOnce(ThreadPool):
    """Runs what it is given where it is given it."""

    def callInThreadWithCallback(self, onResult: Any, func: Any, *args: Any, **kw: Any) -> None:
        func(*args, **kw)


class ClockThatCalls(Clock):
    def callFromThread(self, call: Any, *arguments: Any, **keywords: Any) -> None:
        call(*arguments, **keywords)


class Session(Resource):
    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        session = request.getSession()
        session.count = getattr(session, "count", 0) + 1
        session.expire()
        return b"%d" % session.count


class Form(Resource):
    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        return repr((sorted(request.args.items()), request.getCookie(b"taste"), request.getUser(), request.postpath)).encode()

    def render_POST(self, request: Any) -> bytes:
        return repr((sorted(request.args.items()), request.content.read(), request.getHeader(b"content-type"))).encode()


class Waiting(Resource):
    """Answers later, in pieces."""

    isLeaf = True

    def render_GET(self, request: Any) -> int:
        done: Deferred[None] = request.notifyFinish()
        done.addCallback(lambda _: self.finished.append(request.uri))
        request.setLastModified(1_700_000_000)
        request.addCookie(b"a", b"b; c", path=b"/", httpOnly=True, sameSite=b"lax")
        request.write(b"first, ")
        request.write(b"")
        request.write(b"second")
        request.finish()
        return server.NOT_DONE_YET

    def __init__(self) -> None:
        super().__init__()
        self.finished: list[bytes] = []


class Tagged(Resource):
    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        request.setETag(b'"tag"')
        request.setHeader("X-Text", "t\u00e9xt")
        request.setHeader(b"X-Lines", b"one\r\nTwo: three")
        request.responseHeaders.addRawHeader(b"X-Many", b"1")
        request.responseHeaders.addRawHeader(b"X-Many", b"2")
        request.setResponseCode(201, b"Made")
        return b""


class Nothing(Resource):
    isLeaf = True

    def render_GET(self, request: Any) -> bytes:
        request.setResponseCode(204)
        return b""


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("X-Seen", environ["REQUEST_METHOD"] + environ["PATH_INFO"] + environ["QUERY_STRING"])])
    return [b"length %d, " % len(body), environ.get("HTTP_X_ONE", "-").encode()]


class ResourceTests(SynchronousTestCase):
    """The same tree of resources, on twisted.web's own channel and on ours: the same answers."""

    def setUp(self) -> None:
        folder = FilePath(self.mktemp())
        folder.makedirs()
        folder.child("file.txt").setContent(bytes(range(256)) * 1200)
        folder.child("empty").setContent(b"")
        folder.child("page.html").setContent(b"<p>")
        os.utime(folder.child("file.txt").path, (1_700_000_000, 1_700_000_000))
        reactor = ClockThatCalls()
        self.root = root = Resource()
        hosts = vhost.NameVirtualHost()
        hosts.addHost(b"localhost", static.Data(b"for localhost", "text/plain"))
        gzipped = EncodingResourceWrapper(static.Data(b"z" * 5000, "text/plain"), [server.GzipEncoderFactory()])
        for name, resource in (
            (b"files", static.File(folder.path)),
            (b"session", Session()),
            (b"form", Form()),
            (b"waiting", Waiting()),
            (b"tagged", Tagged()),
            (b"nothing", Nothing()),
            (b"gzipped", gzipped),
            (b"hosts", hosts),
            (b"moved", util.Redirect(b"/elsewhere")),
            (b"wsgi", WSGIResource(reactor, AtOnce(), application)),
        ):
            root.putChild(name, resource)

    def by_twisted(self, data: bytes) -> bytes:
        # What makes a pull producer push goes by the global reactor's clock.
        pulling = Cooperator(scheduler=lambda pull: clock.callLater(0, pull))
        clock = Clock()
        self.patch(_producer_helpers, "cooperate", pulling.cooperate)
        site: Any = server.Site(self.root)
        channel = site.buildProtocol(None)
        transport = StringTransport()
        channel.makeConnection(transport)
        channel.dataReceived(data)
        while clock.getDelayedCalls():
            clock.advance(0)
        channel.connectionLost(None)
        value: bytes = transport.value()
        return value

    def by_us(self, data: bytes) -> bytes:
        front = FrontDoor(self.root)
        gate = front.connect()
        gate.protocol.dataReceived(data)
        while gate.producer is not None and not gate.streaming:
            gate.producer.resumeProducing()
        taken = gate.taken()
        gate.lose()
        return taken

    def parts(self, answer: bytes) -> tuple[bytes, list[bytes], bytes]:
        """Return status line, headers but those that are the channel's, and body; names and boundaries made by chance alike."""
        head, _, body = answer.partition(b"\r\n\r\n")
        status, *lines = head.split(b"\r\n")
        kept = []
        for raw in lines:
            line = raw
            name = line.partition(b":")[0]
            if name in (b"Server", b"Date", b"Connection"):
                continue
            if b"multipart/byteranges" in line:
                boundary = line.rpartition(b'="')[2].rstrip(b'"')
                line, body = line.replace(boundary, b"-"), body.replace(boundary, b"-")
            if name == b"Set-Cookie" and b"TWISTED" in line:
                line = b"Set-Cookie: TWISTED"
            kept.append(line)
        return status, sorted(kept), body

    def same(self, data: bytes) -> None:
        ours, theirs = self.parts(self.by_us(data)), self.parts(self.by_twisted(data))
        if theirs[0].split()[1] in (b"204", b"304"):
            # RFC 9110 8.6: what has no body has no length; theirs says 0.
            theirs[1][:] = [header for header in theirs[1] if header != b"Content-Length: 0"]
        self.assertEqual(ours[:2], theirs[:2], data)
        self.assertTrue(ours[2] == theirs[2], (data, ours[2][:200], theirs[2][:200]))

    def test_get_and_head(self) -> None:
        """A resource would be served differently from how its author has tried it."""
        for target in (
            "/form?a=1&a=2&b=&c", "/form/x/y%20z/", "/waiting", "/tagged", "/nothing", "/gzipped", "/hosts", "/moved", "/wsgi/p?q=1",
            "/files/", "/files/file.txt", "/files/empty", "/files/page.html", "/files/none", "/session",
        ):  # fmt: skip
            for method in ("GET", "HEAD"):
                self.same(ask(target, method, "X-One: 1", "Cookie: taste=good; other=1", "Authorization: Basic YTpi"))
        self.same(ask("/gzipped", "GET", "Accept-Encoding: gzip"))

    def test_ranges(self) -> None:
        """A download could not be taken up again where it broke off."""
        for wanted in ("0-0", "10-99", "-5", "76700-", "0-1,5-9", "100-50", "999999-", "0-0,-1,20-30", "x"):
            self.same(ask("/files/file.txt", "GET", f"Range: bytes={wanted}"))

    def test_conditions(self) -> None:
        """A file that has not changed would be sent again, or one that has would not."""
        for header in (
            "If-Modified-Since: Tue, 14 Nov 2023 22:13:20 GMT",
            "If-Modified-Since: Mon, 13 Nov 2023 22:13:20 GMT",
            "If-Modified-Since: nonsense",
            'If-None-Match: "tag"',
            'If-None-Match: "other"',
        ):
            for target in ("/files/file.txt", "/tagged", "/waiting"):
                self.same(ask(target, "GET", header))

    def test_forms(self) -> None:
        """A form would arrive without its fields."""
        urlencoded = "Content-Type: application/x-www-form-urlencoded"
        self.same(ask("/form?q=0", "POST", urlencoded, body=b"a=1&a=2&b=%20+&c"))
        multipart = (
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\none\r\n'
            b'--x\r\nContent-Disposition: form-data; name="f"; filename="f.txt"\r\n\r\n\x00\xff\r\n--x--\r\n'
        )
        self.same(ask("/form", "POST", "Content-Type: multipart/form-data; boundary=x", body=multipart))
        self.same(ask("/form", "POST", "Content-Type: text/plain", body=b"a=1"))
        self.same(ask("/form", "POST", body=b""))
        self.same(ask("/wsgi/upload", "POST", "Content-Type: text/plain", body=b"x" * 1000))

    def test_http_1_0(self) -> None:
        """An old client would not know where an answer ends."""
        for target in ("/waiting", "/files/file.txt", "/form?a=1", "/wsgi/"):
            self.same(ask(target, version="1.0"))

    @settings(max_examples=60, deadline=None)
    @given(st.text("abz019/%._-~+&=?:@!$'()*,;", max_size=20), st.sampled_from(["GET", "HEAD"]))
    def test_any_target(self, text: str, method: str) -> None:
        """Some path or query would lead to another resource, or with other arguments."""
        self.same(ask("/form/" + text, method))

    def test_sessions(self) -> None:
        """A session would be lost between two requests."""
        front = FrontDoor(self.root)
        gate = front.connect()
        gate.protocol.dataReceived(ask("/session"))
        self.assertIn(b"Set-Cookie: TWISTED_S", gate.taken())

    def test_the_author_hears_of_the_end(self) -> None:
        """A resource that waits for the end of its answer would wait for ever."""
        waiting = self.root.children[b"waiting"]
        assert isinstance(waiting, Waiting)
        self.by_us(ask("/waiting?1") + ask("/waiting?2"))
        self.assertEqual(waiting.finished, [b"/waiting?1", b"/waiting?2"])
