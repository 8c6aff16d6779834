"""What a client is served: the pages, the identity behind them, and the errors."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import xml.etree.ElementTree as ET
from dataclasses import replace
from datetime import timedelta

from twisted.trial.unittest import SynchronousTestCase
from twisted.web import server
from twisted.web.error import FlattenerError, UnsupportedMethod
from twisted.web.iweb import IRequest
from twisted.web.resource import IResource, Resource
from twisted.web.test.requesthelper import DummyChannel, DummyRequest

from mtlsd import web
from mtlsd.audit.events import rfc3339
from mtlsd.identity import Identity
from mtlsd.web.certificates import Announced, ServerCertificates
from mtlsd.web.channel import Channel
from mtlsd.web.pages import HomePage, percent_left, time_left
from mtlsd.web.request import Request
from mtlsd.web.site import make_root
from tests.site_in_memory import ALICE, CERTIFICATE, NOW, Answer, FrontDoor, Gate, ask


class SiteTestCase(SynchronousTestCase):
    front: FrontDoor

    def setUp(self) -> None:
        self.front = FrontDoor()

    def get(self, target: str, method: str = "GET", *headers: str, body: bytes = b"", gate: Gate | None = None) -> Answer:
        gate = self.front.connect(gate)
        gate.protocol.dataReceived(ask(target, method, *headers, body=body))
        return Answer(gate.taken())

    def assertPlain(self, answer: Answer, status: int, text: str) -> None:
        self.assertEqual(answer.status, status)
        self.assertEqual(answer.headers["content-type"], "text/plain; charset=utf-8")
        self.assertEqual(answer.body.decode(), text + "\n")
        self.assertEqual(answer.headers["content-length"], str(len(text) + 1))
        self.assertEqual(answer.headers["server"], "mtlsd")
        self.assertIn("date", answer.headers)


class HelloTests(SiteTestCase):
    def test_get(self) -> None:
        """The README's first request would not answer what it says."""
        answer = self.get("/hello")
        self.assertPlain(answer, 200, "Hello: alice")
        self.assertEqual(answer.headers["cache-control"], "no-store")

    def test_head(self) -> None:
        """A monitor that asks with HEAD would see another length than GET has, or a body that breaks its next request."""
        answer = self.get("/hello", "HEAD")
        self.assertEqual((answer.status, answer.body), (200, b""))
        self.assertEqual(answer.headers["content-length"], str(len(b"Hello: alice\n")))

    def test_post(self) -> None:
        """A program that uses the wrong method would not learn which is right (RFC 9110 15.5.6)."""
        answer = self.get("/hello", "POST", body=b"x=1")
        self.assertPlain(answer, 405, "method not allowed")
        self.assertEqual(answer.headers["allow"], "GET, HEAD")

    def test_other_known_methods(self) -> None:
        """A known method that is wrong here would be called unknown."""
        for method in ("PUT", "DELETE", "PATCH", "OPTIONS", "TRACE"):
            answer = self.get("/hello", method)
            self.assertPlain(answer, 405, "method not allowed")
            self.assertEqual(answer.headers["allow"], "GET, HEAD")

    def test_unknown_method(self) -> None:
        """A method that nobody knows would be answered with a page of Twisted's."""
        self.assertPlain(self.get("/hello", "BREW"), 501, "no such method")


class ServerCertificatesTests(SiteTestCase):
    def test_get(self) -> None:
        """A client would not learn what the server shows next, and be stopped by its own side on that day."""
        told = [Announced(CERTIFICATE, "PEM one\n")]
        self.front = FrontDoor(make_root(below={b"server": ServerCertificates(lambda: told)}))
        first = {
            "certificate": "PEM one\n",
            "fingerprint": CERTIFICATE.fingerprint,
            "from": None,
            "not_after": "2027-09-19T12:00:00.000Z",
        }
        answer = self.get("/.mtlsd/server")
        self.assertEqual((answer.status, answer.headers["content-type"]), (200, "application/json"))
        self.assertEqual((answer.headers["cache-control"], answer.body.count(b"\n")), ("no-store", 1))
        self.assertEqual(json.loads(answer.body), {"certificates": [first]})
        told.append(Announced(replace(CERTIFICATE, fingerprint="f" * 64), "PEM two\n", NOW))
        second = {**first, "certificate": "PEM two\n", "fingerprint": "f" * 64, "from": rfc3339(NOW)}
        self.assertEqual(json.loads(self.get("/.mtlsd/server").body), {"certificates": [first, second]})
        self.assertEqual(self.get("/.mtlsd/server", "HEAD").body, b"")
        self.assertEqual(self.get("/.mtlsd/server", "POST").status, 405)
        self.assertEqual(self.get("/server").status, 404)

    def test_not_there(self) -> None:
        """Whoever serves a tree of his own would tell of a pair that is not his."""
        self.assertEqual(self.get("/.mtlsd/server").status, 404)


class WhoAmITests(SiteTestCase):
    def test_get(self) -> None:
        """A script would not find its identity under the names of the contract."""
        answer = self.get("/whoami")
        self.assertEqual(answer.headers["content-type"], "application/json")
        self.assertEqual(answer.headers["cache-control"], "no-store")
        self.assertEqual(
            json.loads(answer.body),
            {
                "client": "alice",
                "fingerprint": "0123456789abcdef" * 4,
                "subject": "CN=Alice,O=Example Works",
                "not_before": "2026-09-19T12:00:00.000Z",
                "not_after": "2027-09-19T12:00:00.000Z",
                "groups": ["staff", "ops"],
                "tls": {
                    "version": "TLSv1.3",
                    "cipher": "TLS_AES_256_GCM_SHA384",
                    "group": "X25519MLKEM768",
                    "resumed": False,
                },
            },
        )


class ErrorTests(SiteTestCase):
    def test_missing(self) -> None:
        """What is not there would be answered with a page of Twisted's, with its version."""
        for target in ("/nothing", "/hello/x", "/hello/", "/whoami/x/y", "//", "//x", "/hello%2f", "/..", "/favicon.ico"):
            self.assertPlain(self.get(target), 404, "no such page")

    def test_missing_to_any_method(self) -> None:
        """A POST to the wrong place would be told that the method is wrong."""
        self.assertPlain(self.get("/nothing", "POST", body=b"x"), 404, "no such page")
        self.assertEqual(self.get("/nothing", "HEAD").body, b"")

    def test_the_server_itself(self) -> None:
        """`OPTIONS *` would answer with Twisted's version, and `GET *` with nothing a person can read."""
        answer = self.get("*", "OPTIONS")
        self.assertEqual((answer.status, answer.body, answer.headers["server"]), (200, b"", "mtlsd"))
        answer = self.get("*")
        self.assertPlain(answer, 405, "method not allowed")
        self.assertEqual(answer.headers["allow"], "OPTIONS")

    def test_a_reason_of_two_lines(self) -> None:
        """What a resource makes of a client's words would be a header, or the body of an answer."""
        for reason, told in (
            (b"fine\r\nSet-Cookie: a=b", "fine Set-Cookie: a=b"),
            (b"fine\n\n<script>", "fine <script>"),
            (b"\ra\0b\x7fc", " a b c"),
            (b"tab\tbed", "tab\tbed"),
            (b"", ""),
        ):
            self.front = FrontDoor(Reasoning(reason))
            answer = self.get("/")
            self.assertEqual((answer.status, answer.reason, answer.body), (200, told, b"reasoned"), reason)
            self.assertNotIn("set-cookie", answer.headers)

    def test_failure(self) -> None:
        """An error in a resource would tell a client what is inside, or tell the operator nothing."""
        self.front = FrontDoor(Raising())
        answer = self.get("/")
        self.assertPlain(answer, 500, "internal error c0ffee-1")
        self.assertNotIn("content-encoding", answer.headers)
        self.assertNotIn("set-cookie", answer.headers)
        self.assertNotIn("etag", answer.headers)
        (failure,) = self.flushLoggedErrors(ZeroDivisionError)
        self.assertIn("render_GET", failure.getTraceback())

    def test_failure_to_head(self) -> None:
        """The connection would be out of step after an error to HEAD."""
        self.front = FrontDoor(Raising())
        answer = self.get("/", "HEAD")
        self.assertEqual((answer.status, answer.body), (500, b""))
        self.flushLoggedErrors(ZeroDivisionError)

    def test_failure_in_the_middle(self) -> None:
        """Half an answer would look like the whole."""
        self.front = FrontDoor(RaisingLate())
        gate = self.front.connect()
        gate.protocol.dataReceived(ask("/"))
        self.assertTrue(gate.aborted)
        self.assertNotIn(b"0\r\n\r\n", gate.taken())
        self.flushLoggedErrors(ZeroDivisionError)

    def test_failure_after_the_end(self) -> None:
        """An error after the answer would be sent as a second one, into the next request's."""
        self.front = FrontDoor(RaisingAfter())
        gate = self.front.connect()
        gate.protocol.dataReceived(ask("/"))
        self.assertEqual(gate.taken().count(b"HTTP/1.1 "), 1)
        self.flushLoggedErrors(ZeroDivisionError)

    def test_not_bytes(self) -> None:
        """A resource that renders text by mistake would show its insides in Twisted's error page."""
        self.front = FrontDoor(Text())
        self.assertPlain(self.get("/"), 500, "internal error c0ffee-1")
        self.flushLoggedErrors(TypeError)

    def test_head_of_a_resource_with_get_only(self) -> None:
        """HEAD would fail on whatever a user mounts that knows only GET."""
        self.front = FrontDoor(OnlyGet())
        answer = self.get("/", "HEAD")
        self.assertEqual((answer.status, answer.body, answer.headers["content-length"]), (200, b"", "5"))
        answer = self.get("/", "PUT")
        self.assertEqual((answer.status, answer.headers["allow"]), (405, "GET, POST, PROPFIND"))


class IdentityTests(SiteTestCase):
    def test_any_resource(self) -> None:
        """Whatever is mounted on the site could not know who asks."""
        resource = Seeing()
        self.front = FrontDoor(resource)
        self.get("/")
        self.assertEqual(resource.seen, [ALICE])
        self.assertEqual(resource.secure, [True])

    def test_asked_at_every_request(self) -> None:
        """A change of groups would not be seen before the next connection."""
        resource = Seeing()
        self.front = FrontDoor(resource)
        gate = self.front.connect()
        gate.protocol.dataReceived(ask("/"))
        gate.identity = replace(ALICE, groups=("guests",))
        gate.protocol.dataReceived(ask("/"))
        self.assertEqual([peer.groups for peer in resource.seen], [("staff", "ops"), ("guests",)])

    def test_another_door(self) -> None:
        """A resource that is served without mtlsd by mistake would take everybody for somebody."""
        stranger = server.Request(_channel())
        for request in (stranger, DummyRequest([b""]), None):
            error = self.assertRaises(TypeError, web.identity, request)
            self.assertIn("did not come through mtlsd's front door", str(error))

    def test_before_it_is_known(self) -> None:
        """Code that runs before the peer was asked for would act for nobody."""
        self.assertRaises(TypeError, web.identity, Request(_channel()))

    def test_forged(self) -> None:
        """A class that was set on the request by mistake would pass for an identity."""
        request = Request(_channel())
        request.identity = "alice"  # type: ignore[assignment]
        self.assertRaises(TypeError, web.identity, request)


class RevokedTests(SiteTestCase):
    def test_between_two_requests(self) -> None:
        """A revoked client would go on being served on the connection that it has."""
        resource = Seeing()
        self.front = FrontDoor(resource)
        for at_once in (True, False):
            gate = self.front.connect(Gate(cuts_at_once=at_once))
            gate.protocol.dataReceived(ask("/"))
            self.assertEqual(Answer(gate.taken()).status, 200)
            resource.seen.clear()
            gate.identity = None
            gate.protocol.dataReceived(ask("/"))
            self.assertEqual((gate.taken(), resource.seen, gate.aborted), (b"", [], True))
            gate.lose()

    def test_between_two_pipelined_requests(self) -> None:
        """Requests sent ahead would be answered although the client was revoked in the meantime."""
        resource = Seeing()
        self.front = FrontDoor(resource)
        gate = self.front.connect()
        resource.then = lambda: setattr(gate, "identity", None)
        gate.protocol.dataReceived(ask("/") + ask("/") + ask("/"))
        self.assertEqual(len(resource.seen), 1)
        self.assertEqual(gate.taken().count(b"HTTP/1.1 "), 1)

    def test_no_byte_of_any_kind(self) -> None:
        """A revoked client would still get a 400, a 100 or a 431 out of the server."""
        for data in (
            b"nonsense\r\n\r\n",
            b"GET / HTTP/1.1\r\n\r\n",
            ask("/", "POST", "Expect: 100-continue", body=b"x"),
            ask("/", "GET", "Expect: 100-continue"),
            b"GET /" + b"x" * 100_000,
            ask("*", "OPTIONS"),
        ):
            for at_once in (True, False):
                gate = self.front.connect(Gate(None, cuts_at_once=at_once))
                gate.protocol.dataReceived(data + ask("/"))
                self.assertEqual((gate.taken(), gate.aborted), (b"", True))
                gate.lose()
        self.assertEqual(self.front.lines, [])
        self.assertEqual(len(self.front.deadlines), 0)


class SiteTests(SynchronousTestCase):
    def test_no_clock_of_twisteds(self) -> None:
        """A ticking call would be left behind in the reactor of whoever embeds the site."""
        front = FrontDoor()
        front.site.doStart()
        self.assertEqual(front.clock.getDelayedCalls(), [])
        front.connect().protocol.dataReceived(ask("/hello"))
        self.assertEqual(front.clock.getDelayedCalls(), [])
        front.site.doStop()

    def test_without_an_access_log(self) -> None:
        """A server without an access log would fail on each request."""
        front = FrontDoor()
        front.site.access_log = None
        gate = front.connect()
        gate.protocol.dataReceived(ask("/hello") + b"nonsense\r\n\r\n")
        self.assertEqual(gate.taken().count(b"HTTP/1.1 "), 2)

    def test_http_1_1_only(self) -> None:
        """With h2 installed for something else, clients would get a channel without identity and deadlines."""
        self.assertEqual(FrontDoor().site.acceptableProtocols(), [b"http/1.1"])
        self.assertIs(type(FrontDoor().connect().protocol), Channel)

    def test_the_page_has_a_clock_by_default(self) -> None:
        """The server as it is wired would fail to show its page."""
        front = FrontDoor(make_root())
        gate = front.connect()
        gate.protocol.dataReceived(ask("/"))
        self.assertEqual(Answer(gate.taken()).status, 200)


class HomeTests(SiteTestCase):
    def page(self, peer: Identity) -> str:
        return self.get("/", gate=Gate(peer)).body.decode("utf-8")

    def text(self, page: str) -> str:
        """Return what a person reads: the page's text, which is also well-formed XML."""
        return " ".join("".join(ET.fromstring(page.removeprefix("<!DOCTYPE html>\n")).find("body").itertext()).split())  # type: ignore[union-attr]

    def test_says_who_it_is(self) -> None:
        """A person could not see as whom the server knows them, nor with which certificate."""
        text = self.text(self.page(ALICE))
        for words in (
            "This server knows you as alice",
            "staff",
            "ops",
            "0123456789abcdef" * 4,
            "CN=Alice,O=Example Works",
            "300 days left",
            "2026-09-19 12:00 UTC to 2027-09-19 12:00 UTC",
            "EC P-256",
            "TLS 1.3",
            "TLS_AES_256_GCM_SHA384",
            "X25519MLKEM768",
            "new",
        ):
            self.assertIn(words, text)

    def test_headers(self) -> None:
        """Another site could frame the page, a proxy keep it, or an injected script run in it."""
        answer = self.get("/")
        self.assertEqual(answer.headers["content-type"], "text/html; charset=utf-8")
        self.assertEqual(answer.headers["cache-control"], "no-store")
        self.assertEqual(answer.headers["x-content-type-options"], "nosniff")
        self.assertEqual(answer.headers["referrer-policy"], "no-referrer")
        policy = answer.headers["content-security-policy"]
        self.assertTrue(policy.startswith("default-src 'none'; style-src 'sha256-"))
        self.assertIn("frame-ancestors 'none'", policy)
        self.assertNotIn("unsafe", policy)

    def test_the_policy_allows_its_own_style(self) -> None:
        """The browser would throw the style away: the hash has to be that of the bytes between the tags (CSP 3, 8.4)."""
        answer = self.get("/")
        (style,) = re.findall(b"<style>(.*?)</style>", answer.body, re.DOTALL)
        digest = base64.b64encode(hashlib.sha256(style).digest()).decode()
        self.assertIn(f"'sha256-{digest}'", answer.headers["content-security-policy"])

    def test_nothing_from_elsewhere(self) -> None:
        """The page would load from, or tell, somebody else; or hold what its policy forbids."""
        page = self.page(ALICE)
        for word in ("<script", "http://", "https://", "url(", "@import", "style=", "onclick"):
            self.assertNotIn(word, page)

    def test_hostile_subject(self) -> None:
        """A certificate's text could put markup, or a turned line, into the page."""
        subject = "CN=<script>alert(1)</script>&\"'\u202egro.live\x1b]"
        page = self.page(replace(ALICE, certificate=replace(CERTIFICATE, subject=subject)))
        self.assertNotIn("<script", page)
        self.assertNotIn("\u202e", page)
        self.assertNotIn("\x1b", page)
        self.assertIn("<script>alert(1)</script>&", self.text(page))

    def test_sparse(self) -> None:
        """A client with no groups, an empty subject and an unnamed key exchange would get an error for a page."""
        peer = replace(
            ALICE,
            client="a" * 64,
            groups=(),
            certificate=replace(CERTIFICATE, subject=""),
            tls=replace(ALICE.tls, cipher=None, group=None, resumed=True),
        )
        page = self.page(peer)
        self.assertNotIn("<ul", page)
        self.assertIn('class="long"', page)
        text = self.text(page)
        for words in ("(empty)", "unknown", "resumed"):
            self.assertIn(words, text)

    def test_a_host_s_name(self) -> None:
        """The name of a host is wider than a phone, and would break anywhere."""
        page = self.page(replace(ALICE, client="build.example.org"))
        self.assertIn("build.<wbr></wbr>example.<wbr></wbr>org", page)
        self.assertIn("knows you as build.example.org", self.text(page))

    def test_the_end_stands_out(self) -> None:
        """A person would be surprised by the end of their certificate."""
        self.assertNotIn('class="left soon"', self.page(ALICE))
        ending = replace(ALICE, certificate=replace(CERTIFICATE, not_after=NOW + timedelta(days=5)))
        self.assertIn('class="left soon"', self.page(ending))

    def test_time_left(self) -> None:
        """The words would not match the time."""
        for left, words in (
            (timedelta(days=1200), "1,200 days left"),
            (timedelta(days=365), "365 days left"),
            (timedelta(days=365, seconds=-5), "365 days left"),
            (timedelta(days=2, hours=-1), "2 days left"),
            (timedelta(days=1), "1 day left"),
            (timedelta(hours=23), "Less than a day left"),
            (timedelta(0), "Less than a day left"),
            (timedelta(seconds=-1), "Ended; let in for a period of grace"),
        ):
            self.assertEqual(time_left(left), words)

    def test_percent_left(self) -> None:
        """The bar would run out of its frame, or fail for a certificate whose dates are upside down."""
        certificate = replace(CERTIFICATE, not_before=NOW, not_after=NOW + timedelta(days=100))
        for days, percent in ((-5, 100), (0, 100), (25, 75), (100, 0), (200, 0)):
            self.assertEqual(percent_left(certificate, NOW + timedelta(days=days)), percent)
        self.assertEqual(percent_left(replace(certificate, not_after=NOW), NOW), 0)

    def test_a_template_that_fails(self) -> None:
        """An error in the page would be an empty page and nothing in the log."""
        page = HomePage(lambda: NOW)
        self.assertRaises(FlattenerError, page.html, replace(ALICE, groups=(object(),)))  # type: ignore[arg-type]


def _channel() -> DummyChannel:
    return DummyChannel()


class Leaf(Resource):
    isLeaf = True


class Reasoning(Leaf):
    def __init__(self, reason: bytes) -> None:
        super().__init__()
        self.reason = reason

    def render_GET(self, request: Request) -> bytes:
        request.setResponseCode(200, self.reason)
        return b"reasoned"


class Raising(Leaf):
    def render_GET(self, request: Request) -> bytes:
        request.addCookie("secret", "1")
        request.setETag(b"etag")
        request.setHeader(b"Content-Encoding", b"gzip")
        raise ZeroDivisionError("password=hunter2")


class RaisingLate(Leaf):
    def render_GET(self, request: Request) -> bytes:
        request.write(b"half")
        raise ZeroDivisionError


class RaisingAfter(Leaf):
    def render_GET(self, request: Request) -> bytes:
        request.finish()
        raise ZeroDivisionError


class Text(Leaf):
    def render_GET(self, request: Request) -> str:
        return "text"


class OnlyGet(Leaf):
    allowedMethods = (b"PROPFIND", b"POST", b"GET")

    def render(self, request: Request) -> bytes:
        if request.method != b"GET":
            raise UnsupportedMethod(self.allowedMethods)
        return b"12345"


class Seeing(Leaf):
    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Identity] = []
        self.secure: list[bool] = []
        self.then = lambda: None

    def getChild(self, path: bytes, request: IRequest) -> IResource:
        return self

    def render_GET(self, request: Request) -> bytes:
        self.seen.append(web.identity(request))
        self.secure.append(request.isSecure())
        self.then()
        return b"seen"
