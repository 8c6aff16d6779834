"""Routes in front of resources: the channel, the rules and the destinations, in memory."""

from __future__ import annotations

import itertools
import os
import re
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, cast
from urllib.parse import urljoin

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.resource import IResource, Resource

from mtlsd.applications import missing
from mtlsd.config import ConfigError, parse
from mtlsd.proxy.backend import Backends
from mtlsd.routing.rules import Made, Routed
from mtlsd.web.files import Files
from mtlsd.web.headers import PlainHeaders
from mtlsd.web.message import Message
from mtlsd.web.request import identity
from mtlsd.web.router import Resources, Router
from mtlsd.web.site import make_root
from tests.site_in_memory import ALICE, NOW, Answer, FrontDoor, Gate, ask

STAFF = replace(ALICE, groups=("staff",))


class Told(Resource):
    """Answers with what an application sees of a request."""

    isLeaf = True

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name

    def render_GET(self, request: Any) -> bytes:
        seen = (self.name, request.path, request.uri, request.prepath, request.postpath, identity(request).groups)
        return repr(seen).encode()

    def render_DELETE(self, request: Any) -> bytes:
        return repr(sorted(name for name, _ in request.requestHeaders.getAllRawHeaders())).encode()


class Swapping(Resource):
    """The files of a folder, which change when one has been found in it."""

    def __init__(self, files: Files, swap: Callable[[], object]) -> None:
        super().__init__()
        self._files = files
        self._swap = swap

    def getChild(self, path: bytes, request: Any) -> IResource:
        found = self._files
        for name in (path, *request.postpath):
            found = cast(Files, found.getChild(name, request))
        # The site goes on with this list.
        request.postpath.clear()
        self._swap()
        return found


class Threads(Clock):
    """A reactor whose threads are this one."""

    def callInThread(self, call: Callable[..., object], *arguments: object) -> None:
        call(*arguments)

    def callFromThread(self, call: Callable[..., object], *arguments: object) -> None:
        call(*arguments)


def application(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    body = environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    names = ("SCRIPT_NAME", "PATH_INFO", "CONTENT_LENGTH", "REMOTE_USER", "HTTP_X_CLIENT_NAME", "HTTP_TRANSFER_ENCODING")
    return [repr((tuple(environ.get(name) for name in names), body)).encode()]


def names(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    environ["wsgi.input"].read()
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [repr(sorted(environ)).encode()]


def injected(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    start_response("200 OK\r\nX-Injected: yes\0", [("Content-Type", "text/plain")])
    return [b"x"]


def broken(environ: dict[str, Any], start_response: Any) -> list[bytes]:
    raise ValueError("secret")


def told_one() -> Told:
    return Told("one")


def told_two() -> Told:
    return Told("two")


def told_three() -> Told:
    return Told("three")


def no_resource() -> str:
    return "x"


def fails() -> Resource:
    raise RuntimeError("two\nlines")


not_callable = 1

ROUTES = """
[groups]
ops = ["alice"]
[[route]]
path = "/"
allow = ["*"]
resource = "tests.test_router:told_one"
[[route]]
path = "/admin"
allow = ["group:ops"]
methods = ["GET", "DELETE"]
strip = ["X-Corp-*"]
resource = "tests.test_router:told_two"
[[route]]
path = "/private"
allow = ["carol"]
resource = "tests.test_router:told_three"
"""
PASSED_ON = """
[groups]
ops = ["carol"]
[[route]]
path = "/"
allow = ["*"]
upstream = "http://127.0.0.1:8000"
[[route]]
path = "/admin"
allow = ["group:ops"]
upstream = "http://127.0.0.1:8000"
[[route]]
path = "/get"
allow = ["alice"]
methods = ["GET"]
upstream = "http://127.0.0.1:8000"
[[route]]
path = "/told"
allow = ["*"]
resource = "tests.test_router:told_one"
"""


class RouterTestCase(SynchronousTestCase):
    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).resolve()
        self.folder.mkdir()
        self.config = self.folder / "mtlsd.toml"
        self.resources = Resources(Threads(), self.config, Threads())
        self.own = make_root(lambda: NOW)
        self.door = FrontDoor(self.own)
        self.backends = Backends(Threads(), self.door.deadlines, self.door.site.names)
        self.addCleanup(sys.path.__setitem__, slice(None), sys.path[:])
        self.said: list[str] = []
        observer = cast(ILogObserver, self.hear)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def hear(self, event: LogEvent) -> None:
        if event.get("log_namespace") == "mtlsd.web.router.Router":
            self.said.append(str(event["log_format"]).format(**event))

    def configure(self, text: str) -> Router:
        rules = parse(text, self.config).rules
        self.door.site.router = router = Router(rules, self.resources.make(rules), self.own, self.backends)
        return router

    def get(self, target: str, method: str = "GET", *headers: str, body: bytes = b"", gate: Gate | None = None) -> Answer:
        gate = self.door.connect(gate or Gate(STAFF))
        gate.protocol.dataReceived(ask(target, method, *headers, body=body))
        while gate.producer is not None and not gate.streaming:
            gate.producer.resumeProducing()
        return Answer(gate.taken())


class RouteTests(RouterTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.configure(ROUTES)

    def seen(self, target: str) -> Any:
        answer = self.get(target)
        self.assertEqual(answer.status, 200, answer.body)
        return eval(answer.body)

    def test_the_way(self) -> None:
        """A resource below a route would look for its children in the wrong part of the path."""
        self.assertEqual(self.seen("/"), ("one", b"/", b"/", [], [b""], ("staff", "ops")))
        self.assertEqual(self.seen("/x/y"), ("one", b"/x/y", b"/x/y", [], [b"x", b"y"], ("staff", "ops")))
        self.assertEqual(self.seen("/admin"), ("two", b"/admin", b"/admin", [b"admin"], [], ("staff", "ops")))
        self.assertEqual(self.seen("/admin/")[3:5], ([b"admin"], [b""]))
        self.assertEqual(self.seen("/admin/a%20b?q=%2F")[1:5], (b"/admin/a%20b", b"/admin/a%20b?q=%2F", [b"admin"], [b"a b"]))

    def test_the_same_bytes(self) -> None:
        """What is judged as `/admin` must not reach the application as something else."""
        self.assertEqual(self.seen("/%61dmin/%7ex?%61")[:3], ("two", b"/admin/~x", b"/admin/~x?%61"))
        self.assertEqual(self.seen("http://localhost/%61dmin")[:2], ("two", b"/admin"))

    @given(st.lists(st.sampled_from(["/", "admin", "private", "%61", "x", "%2e", ".", "%2F", ";", "%7E"]), max_size=6))
    def test_any_path(self, parts: list[str]) -> None:
        """The rule that decides is the rule of the path that the application sees."""
        target = "/" + "".join(parts)
        answer = self.get(target)
        if answer.status != 200:
            self.assertIn(answer.status, (400, 403))
            return
        name, path, *_ = eval(answer.body)
        router = self.door.site.router
        assert router is not None
        ruling = router.rules.rule("alice", ("ops",), b"GET", path)
        assert isinstance(ruling, Routed)
        self.assertEqual(ruling.route.destination, Made(f"tests.test_router:told_{name}"))

    def test_refused_paths(self) -> None:
        """One line that says what is wrong, and the connection lives on."""
        gate = self.door.connect(Gate(STAFF))
        gate.protocol.dataReceived(ask("/a//b") + ask("/a/%2e%2e/b") + ask("/admin"))
        answers = gate.taken()
        self.assertEqual(answers.count(b"HTTP/1.1 400 Bad Request"), 2)
        self.assertIn(b"bad path: a path may not have an empty segment\n", answers)
        self.assertEqual(answers.count(b"HTTP/1.1 200"), 1)

    def test_not_allowed(self) -> None:
        """The client is told in a line; which rule it was is for the operator."""
        answer = self.get("/private/x?secret")
        self.assertEqual((answer.status, answer.body), (403, b"not allowed: alice may not ask for this\n"))
        self.assertEqual(self.said, ["alice was refused GET /private/x: route[2] /private allows carol [c0ffee-1]"])
        self.assertIn('"GET /private/x?secret HTTP/1.1" 403', self.door.lines[-1])

    def test_methods(self) -> None:
        """RFC 9110 15.5.6: a 405 says what may be asked instead."""
        answer = self.get("/admin", "POST")
        self.assertEqual((answer.status, answer.headers["allow"]), (405, "DELETE, GET, HEAD"))
        self.assertEqual(self.get("/admin", "HEAD").status, 200)
        self.assertEqual(self.get("/admin", "DELETE").status, 200)

    def test_large_bodies(self) -> None:
        """Any client could fill the disk by way of our own pages; or an application would take no uploads."""
        large = "Content-Length: 1000000000"
        for target in ("/.mtlsd", "/.mtlsd/", "/.mtlsd/whoami", "/%2Emtlsd/renew?x", "http://localhost/.mtlsd/x"):
            answer = self.get(target, "POST", large, "Expect: 100-continue")
            self.assertEqual((answer.status, answer.headers["connection"]), (413, "close"), target)
        gate = self.door.connect(Gate(STAFF))
        gate.protocol.dataReceived(ask("/admin", "DELETE", large, "Expect: 100-continue"))
        self.assertEqual(gate.taken(), b"HTTP/1.1 100 Continue\r\n\r\n")
        gate.lose()
        self.configure("")
        self.assertEqual(self.get("/x", "POST", large).status, 413)

    def test_its_own_pages(self) -> None:
        """With routes, `/hello` is the application's; mtlsd's own are where nobody's are."""
        self.assertEqual(self.get("/.mtlsd/hello").body, b"Hello: alice\n")
        self.assertEqual(self.get("/%2Emtlsd/hello").body, b"Hello: alice\n")
        self.assertIn(b'"ops"', self.get("/.mtlsd/whoami").body)
        self.assertEqual(self.get("/.mtlsd/").status, 200)
        self.assertEqual(self.get("/.mtlsd/nothing").status, 404)
        moved = self.get("/.mtlsd")
        self.assertEqual((moved.status, moved.headers["location"]), (308, "/.mtlsd/"))
        self.assertEqual(self.seen("/hello")[0], "one")
        self.assertEqual(self.seen("/.mtlsdx")[0], "one")

    def test_the_link_on_its_own_page(self) -> None:
        """With routes, `/whoami` is somebody else's, or nobody's."""
        page = self.get("/.mtlsd/").body
        (link,) = re.findall(rb'href="([^"]*whoami)"', page)
        self.assertIn(b'"alice"', self.get(urljoin("/.mtlsd/", link.decode())).body)

    def test_claims(self) -> None:
        """A resource that reads `X-Client-Name` would believe its client."""
        headers = ("X-Client-Name: mallory", "x_ssl_client_cert: x", "Remote-User: root", "x_corp_role: root", "X-Mine: 1")
        self.assertEqual(eval(self.get("/admin", "DELETE", *headers).body), [b"Host", b"X-Mine"])

    def test_the_groups_of_many(self) -> None:
        """What was made of one client's groups would be another's, or outlive the rules that gave them."""
        clients = [replace(ALICE, client=f"c{number}", groups=("own",)) for number in range(1500)]
        for groups in ("a", "b"):
            members = ", ".join(f'"c{number}"' for number in range(0, 1500, 2))
            router = self.configure(f"[groups]\n{groups} = [{members}]\n")
            for _ in range(2):
                found = [router.joined(client) for client in clients]
                self.assertEqual([client.client for client in found], [client.client for client in clients])
                self.assertEqual({client.groups for client in found[::2]}, {("own", groups)})
                self.assertEqual({client.groups for client in found[1::2]}, {("own",)})

    def test_what_is_passed_on(self) -> None:
        """The way to a server behind the door would be open to somebody to whom the rules say no."""
        router = self.configure(PASSED_ON)
        channel = self.door.connect().protocol
        passed = []
        for target, method, client in itertools.product(
            (b"/", b"/admin", b"/admin/x?y", b"/adminx", b"/get", b"/told", b"/a//b"),
            (b"GET", b"HEAD", b"POST"),
            (ALICE, STAFF, replace(ALICE, client="carol", groups=())),
        ):
            message = Message(method, target, b"HTTP/1.1", PlainHeaders(), 0, True)
            exchange = router.exchange(channel, message, client)
            path = target.partition(b"?")[0]
            joined = router.joined(client)
            allowed = isinstance(router.rules.rule(joined.client, joined.groups, method, path), Routed)
            wanted = allowed and path not in (b"/told", b"/a//b")
            self.assertEqual(exchange is not None, wanted, (target, method, client.client))
            passed.append(wanted)
        self.assertEqual(passed.count(True), 34)

    def test_a_body_that_nobody_wants(self) -> None:
        """A client without any right would fill the disk of the server with bodies, before it is told so."""
        for target, method, status in (("/private", "POST", 403), ("/admin", "PUT", 405), ("/a;b", "POST", 400)):
            gate = self.door.connect()
            gate.protocol.dataReceived(ask(target, method, "Expect: 100-continue", "Content-Length: 1000000"))
            answer = gate.taken()
            self.assertEqual((Answer(answer).status, answer.count(b"HTTP/1.1 ")), (status, 1), target)
            self.assertTrue(gate.disconnecting)
            gate.protocol.dataReceived(b"x" * 1000 + ask("/"))
            self.assertEqual(gate.taken(), b"")

    def test_a_body_of_somebody_who_is_revoked(self) -> None:
        """A client would be told to go on with a body after it was shut out."""
        gate = self.door.connect()
        gate.identity = None
        gate.protocol.dataReceived(ask("/", "POST", "Expect: 100-continue", "Content-Length: 3"))
        self.assertEqual((gate.taken(), gate.aborted), (b"", True))

    def test_the_rules_change_while_a_body_comes(self) -> None:
        """An upload would end in a traceback because its route leads elsewhere by now."""
        gate = self.door.connect()
        gate.protocol.dataReceived(ask("/x", "POST", "Content-Length: 3") + b"a")
        self.configure('[[route]]\npath = "/"\nallow = ["*"]\nupstream = "http://127.0.0.1:8000"\n')
        gate.protocol.dataReceived(b"bc")
        answer = Answer(gate.taken())
        self.assertEqual((answer.status, answer.body), (503, b"the configuration has changed: ask again\n"))

    def test_a_change_bites_on_a_live_connection(self) -> None:
        """A client that stays connected would keep what was taken from it."""
        gate = self.door.connect(Gate(STAFF))
        gate.protocol.dataReceived(ask("/admin"))
        self.assertEqual(Answer(gate.taken()).status, 200)
        self.configure(ROUTES.replace('ops = ["alice"]', 'ops = ["bob"]'))
        gate.protocol.dataReceived(ask("/admin"))
        self.assertEqual(Answer(gate.taken()).status, 403)
        # By the registry's word alone.
        gate.identity = replace(ALICE, groups=("ops",))
        gate.protocol.dataReceived(ask("/admin"))
        self.assertEqual(Answer(gate.taken()).status, 200)

    def test_who_is_no_longer_authorized(self) -> None:
        """No rule is even asked."""
        gate = Gate()
        self.door.connect(gate)
        gate.identity = None
        gate.protocol.dataReceived(ask("/private"))
        self.assertEqual((gate.taken(), self.said), (b"", []))

    def test_no_route_is_no_entry(self) -> None:
        """The default is to refuse."""
        self.configure(ROUTES.replace('path = "/"', 'path = "/public"'))
        self.assertEqual(self.get("/x").status, 403)
        self.assertEqual(self.said[-1], "alice was refused GET /x: no route has this path [c0ffee-1]")

    def test_options_star(self) -> None:
        """It is about the server, and has no path to judge."""
        self.assertEqual(self.get("*", "OPTIONS").status, 200)

    def test_without_routes(self) -> None:
        """A file with settings and groups alone leaves the pages where they were."""
        self.configure('[groups]\nops = ["alice"]\n')
        self.assertEqual(self.get("/hello").body, b"Hello: alice\n")
        self.assertEqual(self.get("/").status, 200)
        self.assertEqual(self.get("/.mtlsd/hello").status, 404)


class DestinationTests(RouterTestCase):
    def route(self, to: str) -> str:
        return f'[[route]]\npath = "/app"\nallow = ["*"]\n{to}\n'

    def test_wsgi(self) -> None:
        """PEP 3333: the route is the script, the rest the path; and who the client is, is the door's word."""
        self.configure(self.route('wsgi = "tests.test_router:application"'))
        answer = self.get("/app/x%20y", "POST", "X-Client-Name: mallory", "Remote_User: root", body=b"abc")
        self.assertEqual(eval(_dechunked(answer.body)), (("/app", "/x y", "3", "alice", "alice", None), b"abc"))
        self.assertEqual(eval(_dechunked(self.get("/app").body))[0][:3], ("/app", "", ""))

    def test_a_path_with_escapes(self) -> None:
        """An application that makes links of SCRIPT_NAME would escape it twice; and it is one script in every spelling."""
        self.configure(
            '[[route]]\npath = "/a b@c"\nallow = ["*"]\nwsgi = "tests.test_router:application"\n'.replace(" b", "%20b")
        )
        for target in ("/a%20b@c/x", "/a%20b%40c/x"):
            self.assertEqual(eval(_dechunked(self.get(target).body))[0][:2], ("/a b@c", "/x"), target)

    def test_a_chunked_body(self) -> None:
        """Most applications read as much as CONTENT_LENGTH says, and that is nothing without it."""
        self.configure(self.route('wsgi = "tests.test_router:application"'))
        gate = self.door.connect(Gate(STAFF))
        gate.protocol.dataReceived(ask("/app", "POST", "Transfer-Encoding: chunked") + b"2\r\nab\r\n1\r\nc\r\n0\r\n\r\n")
        self.assertEqual(eval(_dechunked(Answer(gate.taken()).body)), (("/app", "", "3", "alice", "alice", None), b"abc"))

    def test_trailers(self) -> None:
        """An application in the door's own process would find in its environ what has come when all was decided."""
        made = self.route('resource = "tests.test_router:told_one"').replace("/app", "/made")
        self.configure(self.route('wsgi = "tests.test_router:names"') + made)
        for path in ("/app", "/made"):
            gate = self.door.connect(Gate(STAFF))
            gate.protocol.dataReceived(
                ask(path, "DELETE", "Transfer-Encoding: chunked", "Trailer: X-Role")
                + b"2\r\nab\r\n0\r\nX-Role: admin\r\nX-Client-Name: root\r\n\r\n"
            )
            answer = Answer(gate.taken())
            self.assertEqual((answer.status, "ROLE" in answer.body.decode().upper()), (200, False), answer.body)

    def test_a_status_of_two_lines(self) -> None:
        """What an application takes from a client into its status would be a header of the answer."""
        self.configure(self.route('wsgi = "tests.test_router:injected"'))
        answer = self.get("/app")
        self.assertEqual((answer.status, answer.reason), (200, "OK X-Injected: yes "))
        self.assertNotIn("x-injected", answer.headers)

    def test_a_broken_application(self) -> None:
        """Its traceback is for the log."""
        self.configure(self.route('wsgi = "tests.test_router:broken"'))
        gate = self.door.connect(Gate(STAFF))
        gate.protocol.dataReceived(ask("/app"))
        data = gate.taken()
        self.assertIn(b"HTTP/1.1 500", data)
        self.assertNotIn(b"secret", data)
        self.assertEqual(len(self.flushLoggedErrors(ValueError)), 1)

    def test_it_stays(self) -> None:
        """Sessions and caches of an application would be gone with every change of a rule."""
        self.configure(self.route('resource = "tests.test_router:told_one"'))
        rules = parse(
            self.route('resource = "tests.test_router:told_one"') + ROUTES.split("[[route]]\n", maxsplit=1)[0], self.config
        ).rules
        (one,) = self.resources.make(rules).values()
        (two,) = self.resources.make(rules).values()
        self.assertIs(one, two)

    def test_mistakes(self) -> None:
        """All of them, by their keys, and nothing of a module's own text reaches the terminal raw."""
        kinds: tuple[str, ...] = (
            'wsgi = "tests.nowhere:x"',
            'wsgi = "tests.test_router:nothing"',
            'wsgi = "tests.test_router:not_callable"',
        )
        kinds += ('resource = "tests.test_router:no_resource"', 'resource = "tests.test_router:fails"', 'static = "nowhere"')
        text = "".join(self.route(kind).replace("/app", f"/app{number}") for number, kind in enumerate(kinds))
        rules = parse(text, self.config).rules
        wrong = self.assertRaises(ConfigError, self.resources.make, rules).mistakes
        self.assertEqual(
            wrong,
            (
                "route[0].wsgi: tests.nowhere:x: ModuleNotFoundError: No module named 'tests.nowhere'",
                "route[1].wsgi: tests.test_router:nothing: AttributeError: module 'tests.test_router' has no attribute 'nothing'",
                "route[2].wsgi: tests.test_router:not_callable: it cannot be called",
                "route[3].resource: tests.test_router:no_resource: what it made is no twisted.web resource",
                "route[4].resource: tests.test_router:fails: RuntimeError: two\\nlines",
                f"route[5].static: {self.folder}/nowhere is not a folder",
            ),
        )
        # `mtlsd check` makes nothing, and so knows all but two of them.
        self.assertEqual(missing(rules, self.folder), [*wrong[:3], wrong[5]])

    def test_a_module_that_ends_the_process(self) -> None:
        """A script that ends where it is imported would take the door with it, with the status of a success and without a word."""
        for name, text in (("quits_at_once", "import sys; sys.exit(0)"), ("quits_when_made", "def x(): raise SystemExit")):
            (self.folder / f"{name}.py").write_text(f"{text}\n")
            wrong = self.assertRaises(ConfigError, self.configure, self.route(f'resource = "{name}:x"')).mistakes
            self.assertEqual([line.partition(": SystemExit")[0] for line in wrong], [f"route[0].resource: {name}:x"])

    def test_a_module_that_python_has_itself(self) -> None:
        """Another module would be asked for the application, and one would look in vain for what is wrong with one's own."""
        (self.folder / "site.py").write_text("def main(environ, start_response): ...\n")
        wrong = self.assertRaises(ConfigError, self.configure, self.route('wsgi = "site:main"')).mistakes
        said = "Python has another module of this name, so the one beside the file needs a name of its own"
        self.assertEqual(wrong, (f"route[0].wsgi: site:main: ImportError: {said}",))

    def test_a_module_beside_the_file(self) -> None:
        """An application would have to be installed before it can be served."""
        (self.folder / "my_own_site.py").write_text("from tests.test_router import told_two as make\n")
        self.configure(self.route('resource = "my_own_site:make"'))
        self.assertIn(b"two", self.get("/app").body)


class FilesTests(RouterTestCase):
    def setUp(self) -> None:
        super().setUp()
        self.served = self.folder / "srv"
        (self.served / "sub").mkdir(parents=True)
        (self.served / "pages").mkdir()
        (self.served / "a.txt").write_bytes(b"0123456789")
        (self.served / "sub" / "b.html").write_bytes(b"<b>")
        (self.served / "pages" / "index.html").write_bytes(b"<p>")
        (self.folder / "srv-secret").write_bytes(b"secret")
        self.configure('[[route]]\npath = "/files"\nallow = ["*"]\nstatic = "srv"\n')

    def test_files(self) -> None:
        """What it is for."""
        answer = self.get("/files/a.txt")
        self.assertEqual((answer.status, answer.body), (200, b"0123456789"))
        self.assertEqual((answer.headers["content-type"], answer.headers["x-content-type-options"]), ("text/plain", "nosniff"))
        self.assertEqual(self.get("/files/sub/b.html").headers["content-type"], "text/html")
        self.assertEqual(self.get("/files/pages/").body, b"<p>")
        self.assertEqual(self.get("/files/pages").headers["location"], "/files/pages/")
        head = self.get("/files/a.txt", "HEAD")
        self.assertEqual((head.status, head.headers["content-length"], head.body), (200, "10", b""))
        self.assertEqual(self.get("/files/a.txt", "POST", body=b"x").status, 405)

    def test_conditions(self) -> None:
        """A client that has the file already is not sent it again (RFC 9110 13.1.3)."""
        date = self.get("/files/a.txt").headers["last-modified"]
        self.assertEqual(self.get("/files/a.txt", "GET", f"If-Modified-Since: {date}").status, 304)
        self.assertEqual(self.get("/files/a.txt", "HEAD", f"If-Modified-Since: {date}").status, 304)
        for other in ("Mon, 01 Jan 2024 00:00:00 GMT", "yesterday", ""):
            answer = self.get("/files/a.txt", "GET", f"If-Modified-Since: {other}")
            self.assertEqual((answer.status, answer.body), (200, b"0123456789"), other)

    def test_ranges(self) -> None:
        """RFC 9110 14: a download that broke off goes on where it was."""
        for asked, status, body in (
            ("bytes=2-4", 206, b"234"),
            ("bytes=7-", 206, b"789"),
            ("bytes=-3", 206, b"789"),
            ("bytes=-999", 206, b"0123456789"),
            ("bytes=0-999", 206, b"0123456789"),
            ("bytes=10-", 416, b""),
            ("bytes=-0", 416, b""),
            ("bytes=x", 200, b"0123456789"),
            ("lines=1-2", 200, b"0123456789"),
            ("bytes=4-2", 200, b"0123456789"),
            ("bytes=" + ",".join(["0-"] * 17), 200, b"0123456789"),
            ("bytes=" + "9" * 5000 + "-", 200, b"0123456789"),
        ):
            answer = self.get("/files/a.txt", "GET", f"Range: {asked}")
            self.assertEqual((answer.status, answer.body), (status, body), asked)
        several = self.get("/files/a.txt", "GET", "Range: bytes=0-1,8-9")
        self.assertEqual(several.status, 206)
        self.assertTrue(several.headers["content-type"].startswith("multipart/byteranges"))
        self.assertEqual(self.get("/files/a.txt", "GET", "Range: bytes=0-1", "Range: bytes=2-3").status, 200)

    def test_ranges_of_another_state(self) -> None:
        """Two halves of two files would be put together (RFC 9110 13.1.5)."""
        date = self.get("/files/a.txt").headers["last-modified"]
        self.assertEqual(self.get("/files/a.txt", "GET", "Range: bytes=0-1", f"If-Range: {date}").status, 206)
        for other in ("Mon, 01 Jan 2024 00:00:00 GMT", '"an-etag"'):
            self.assertEqual(self.get("/files/a.txt", "GET", "Range: bytes=0-1", f"If-Range: {other}").body, b"0123456789")

    def nothing(self, target: str) -> None:
        answer = self.get(target)
        self.assertEqual((answer.status, answer.body), (404, b"no such page\n"), target)

    def test_never_outside(self) -> None:
        """A link, or a name that two programs read in two ways, is how a folder's neighbours are read."""
        (self.served / "out").symlink_to(self.folder / "srv-secret")
        (self.served / "out-dir").symlink_to(self.folder)
        (self.served / "up").symlink_to("..")
        (self.served / "loop").symlink_to("loop")
        (self.served / "gone").symlink_to("nothing")
        for target in (
            "/files/out",
            "/files/out-dir/srv-secret",
            "/files/up/srv-secret",
            "/files/loop",
            "/files/gone",
            "/files/%ff",
        ):
            self.nothing(target)
        for target in (
            "/files/../srv-secret",
            "/files/%2e%2e/srv-secret",
            "/files/..%2fsrv-secret",
            "/files//etc/passwd",
            "/files/..%5cx",
        ):
            self.assertEqual(self.get(target).status, 400, target)

    def test_links_inside(self) -> None:
        """`current -> release-7` is how people publish; the name that was asked for says the type."""
        (self.served / "page.html").symlink_to("a.txt")
        (self.served / "current").symlink_to("sub")
        answer = self.get("/files/page.html")
        self.assertEqual((answer.body, answer.headers["content-type"]), (b"0123456789", "text/html"))
        self.assertEqual(self.get("/files/current/b.html").body, b"<b>")

    def test_what_is_no_file(self) -> None:
        """To open a FIFO waits for its writer, and with it the whole server."""
        os.mkfifo(self.served / "fifo")
        self.nothing("/files/fifo")
        self.nothing("/files/a.txt/")
        self.nothing("/files/a.txt/x")
        self.nothing("/files/nothing")

    def test_an_index_page_that_is_none(self) -> None:
        """What stands in for a folder is looked at as any other file is."""
        (self.served / "sub" / "index.html").symlink_to(self.folder / "srv-secret")
        self.nothing("/files/sub/")
        (self.served / "sub" / "index.html").unlink()
        os.mkfifo(self.served / "sub" / "index.html")
        self.nothing("/files/sub/")
        (self.served / "sub" / "index.html").unlink()
        (self.served / "sub" / "index.html").mkdir()
        self.nothing("/files/sub/")

    def test_listing(self) -> None:
        """Who asks for a folder learns what else is there, where the operator says so and nowhere else."""
        self.nothing("/files/sub/")
        self.nothing("/files/")
        self.configure('[[route]]\npath = "/files"\nallow = ["*"]\nstatic = "srv"\nlisting = true\n')
        (self.served / "sub" / "<i>.txt").write_bytes(b"")
        listed = self.get("/files/sub/")
        self.assertEqual(listed.status, 200)
        self.assertIn(b"b.html", listed.body)
        self.assertNotIn(b"<i>.txt", listed.body)
        self.assertEqual(self.get("/files/pages/").body, b"<p>")

    def test_a_folder_that_becomes_a_link(self) -> None:
        """Where it leads was not looked at: until somebody says so with a reload, there is nothing."""
        listing = '[[route]]\npath = "/files"\nallow = ["*"]\nstatic = "srv"\nlisting = true\n'
        self.configure(listing)
        self.served.rename(self.folder / "release-8")
        (self.folder / "release-8" / "a.txt").write_bytes(b"8")
        self.served.symlink_to("release-8")
        for target in ("/files/", "/files/a.txt"):
            self.nothing(target)
        self.configure(listing)
        self.assertEqual(self.get("/files/a.txt").body, b"8")
        self.served.unlink()
        self.served.symlink_to(self.folder)
        self.assertEqual(self.get("/files/a.txt").body, b"8")
        self.configure(listing)
        self.assertIn(b"release-8", self.get("/files/").body)

    def swapped(self, target: str, swap: Callable[[], object], *headers: str) -> Answer:
        """Ask for a file, and have *swap* done when it has been looked at and not been opened yet."""
        door = FrontDoor(Swapping(Files(str(self.served), listing=True), swap))
        gate = door.connect(Gate(STAFF))
        gate.protocol.dataReceived(ask(target, "GET", *headers))
        while gate.producer is not None and not gate.streaming:
            gate.producer.resumeProducing()
        return Answer(gate.taken())

    def test_what_comes_into_the_place_of_a_file(self) -> None:
        """Who may write to the folder would read what the server may; and to open a FIFO would hold it for good."""

        def put() -> None:
            self.setUp()
            (self.folder / "outside").mkdir()
            (self.folder / "outside" / "b.html").write_bytes(b"secret")

        def gone() -> None:
            (self.served / "sub" / "b.html").unlink()

        def link() -> None:
            gone()
            (self.served / "sub" / "b.html").symlink_to(self.folder / "srv-secret")

        def fifo() -> None:
            gone()
            os.mkfifo(self.served / "sub" / "b.html")

        def folder() -> None:
            gone()
            (self.served / "sub" / "b.html").mkdir()

        def parent() -> None:
            (self.served / "sub").rename(self.folder / "away")
            (self.served / "sub").symlink_to(self.folder / "outside")

        def above() -> None:
            self.served.rename(self.folder / "away")
            self.served.symlink_to(self.folder / "outside")
            (self.folder / "outside" / "sub").symlink_to(self.folder / "outside")

        for swap, status in ((gone, 404), (link, 404), (fifo, 404), (folder, 302), (parent, 404), (above, 404)):
            put()
            answer = self.swapped("/sub/b.html", swap)
            self.assertEqual((answer.status, b"secret" in answer.body), (status, False), swap)
        put()
        self.assertEqual(self.swapped("/sub/b.html", lambda: None).body, b"<b>")

    def test_what_comes_into_the_place_of_a_folder(self) -> None:
        """The names of what is outside are nobody's to know either."""
        folder = cast(Files, Files(str(self.served), listing=True).getChild(b"sub", cast(Any, None)))
        self.assertEqual(folder.listNames(), ["b.html"])
        (self.served / "sub").rename(self.folder / "away")
        self.assertEqual(folder.listNames(), [])
        (self.served / "sub").symlink_to(self.folder)
        self.assertEqual(folder.listNames(), [])

    def test_a_file_that_is_replaced(self) -> None:
        """What is sent is one file: the length, the tag and the bytes of it, whatever has its name by then."""

        def swap() -> None:
            (self.folder / "new").write_bytes(b"longer than it was")
            (self.folder / "new").rename(self.served / "a.txt")

        before = self.get("/files/a.txt").headers["etag"]
        answer = self.swapped("/a.txt", swap)
        self.assertEqual((answer.body, answer.headers["content-length"]), (b"longer than it was", "18"))
        self.assertNotEqual(answer.headers["etag"], before)

    def test_a_folder_that_nobody_lists(self) -> None:
        """Search permission is enough on the way to a file, as it is anywhere."""
        (self.served / "sub").chmod(0o311)
        self.assertEqual(self.get("/files/sub/b.html").body, b"<b>")

    def test_no_descriptor_is_left(self) -> None:
        """Each request for a file that is not sent would take one away, until there are none."""
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(3):
            tag = self.get("/files/a.txt").headers["etag"]
            self.assertEqual(self.get("/files/a.txt", "GET", f"If-None-Match: {tag}").status, 304)
            self.assertEqual(self.get("/files/a.txt", "HEAD").status, 200)
            self.assertEqual(self.get("/files/a.txt", "GET", "Range: bytes=10-").status, 416)
            self.nothing("/files/sub/nothing")
            self.assertEqual(self.get("/files/sub").status, 302)
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_the_slash_of_a_path_with_escapes(self) -> None:
        """Sent on to itself, but for an escape that was escaped, a client gets nowhere."""
        self.configure('[[route]]\npath = "/my%20files"\nallow = ["*"]\nstatic = "srv"\n')
        self.assertTrue(self.get("/my%20files").headers["location"].endswith("/my%20files/"))

    def test_a_folder_that_is_gone(self) -> None:
        """It must not be a traceback for each request."""
        self.served.rename(self.folder / "away")
        self.nothing("/files/a.txt")
        self.nothing("/files/")


def _dechunked(data: bytes) -> bytes:
    body, whole = data, b""
    while True:
        size, _, body = body.partition(b"\r\n")
        if int(size, 16) == 0:
            return whole
        whole, body = whole + body[: int(size, 16)], body[int(size, 16) + 2 :]
